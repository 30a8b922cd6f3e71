"""What was made of what, as a graph of outputs: pure, of what manifests and notes say."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.lineage.outputs import Kind, Output
from storage.errors import UsageError

__all__ = ["Branch", "Link", "bases_of", "find_output", "made_of", "tree_of", "went_into"]

_MIN_DIGITS = 4
_MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class Link:
    """From an output to one thing that it was made of, or that was made of it."""

    name: str
    """What that is to the output, such as `corpus` or `features/sam2`."""
    key: str
    """Of an output, or of what lies outside the workspace: a source file, a teacher's fingerprint, a base's URL."""
    output: Output | None
    """None: it isn't known here."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A link, and those that go on from it."""

    link: Link
    branches: tuple[Branch, ...]
    is_repeated: bool = False
    """Whether what goes on from it stands at another place of the tree."""


def find_output(outputs: Mapping[str, Output], prefix: str) -> Output | None:
    """The output whose key begins with some digits; None: there is none.

    Raises:
        UsageError: fewer than four digits, or several keys begin with them.
    """
    if len(prefix) < _MIN_DIGITS:
        raise UsageError(f"address {prefix!r}: expected at least {_MIN_DIGITS} digits")
    found = sorted(key for key in outputs if key.startswith(prefix))
    if len(found) > 1:
        named = ", ".join(f"{outputs[key].kind} {key[:16]}" for key in found[:_MAX_NAMED])
        raise UsageError(f"address {prefix!r}: expected one output, found {len(found)} ({named}); give more digits")
    return outputs[found[0]] if found else None


def made_of(outputs: Mapping[str, Output], output: Output) -> list[Link]:
    """What an output was made of, by name.

    Args:
        outputs: all that are known, by key.
        output: one of them.
    """
    named = dict(output.inputs)
    if output.kind is Kind.CORPUS and output.parents:
        named.setdefault("parent", output.parents[0])
    if output.kind is Kind.CALIBRATION and output.note is not None and "curate" in output.note.inputs:
        named["fitted on"] = output.note.inputs["curate"]
    if output.kind is Kind.STORE:
        named |= _calibration(outputs, output)
    if output.base is not None:
        named["base"] = output.base
    return [Link(name, key, outputs.get(key)) for name, key in sorted(named.items())]


def _calibration(outputs: Mapping[str, Output], store: Output) -> dict[str, str]:
    """What the encoding of a store was calibrated by, if it was and that is still there."""
    encoding = store.facts.get("encoding")
    found = (item.key for item in outputs.values() if item.kind is Kind.CALIBRATION)
    key = next((key for key in found if outputs[key].facts.get("encoding") == encoding), None)
    return {} if key is None else {"calibration": key}


def went_into(outputs: Mapping[str, Output]) -> dict[str, list[Link]]:
    """What was made of each output, by its key; the names say what it is to them."""
    found: dict[str, list[Link]] = {}
    for _, output in sorted(outputs.items()):
        for link in made_of(outputs, output):
            found.setdefault(link.key, []).append(Link(link.name, output.key, output))
    return found


def tree_of(start: Output, follow: Callable[[Output], Sequence[Link]]) -> Branch:
    """The tree of what can be reached from an output, in which each output goes on from one place alone, the nearest.

    Args:
        start: the root.
        follow: links of an output.
    """
    links: dict[str, Sequence[Link]] = {}
    home: dict[str, str] = {}
    waiting = deque([start])
    while waiting:
        output = waiting.popleft()
        links[output.key] = follow(output)
        for link in links[output.key]:
            if link.output is not None and link.key not in home and link.key != start.key:
                home[link.key] = output.key
                waiting.append(link.output)

    def grow(key: str) -> tuple[Branch, ...]:
        grown: list[Branch] = []
        told: set[str] = set()  # an output may have another one under two names
        for link in links[key]:
            is_home = link.output is not None and home.get(link.key) == key and link.key not in told
            told.add(link.key)
            grown.append(Branch(link, grow(link.key) if is_home else (), link.output is not None and not is_home))
        return tuple(grown)

    return Branch(Link("", start.key, start), grow(start.key))


def bases_of(outputs: Mapping[str, Output], checkpoint: Output) -> Iterator[Output]:
    """Checkpoints that one began from, the nearest first, as far as they are known."""
    seen = {checkpoint.key}
    while checkpoint.base is not None:
        base = outputs.get(checkpoint.base)
        if base is None or base.key in seen:
            return
        seen.add(base.key)
        yield base
        checkpoint = base
