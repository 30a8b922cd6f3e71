"""Lineage as trees for the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from jobs.colour import wants_colour
from jobs.lineage import ImageLineage, OutputLineage
from pipelines.lineage.graph import Branch
from pipelines.lineage.outputs import Kind, Output, Presence, WorkspaceOutputs
from pipelines.lineage.sightings import Role
from storage.retirement import SampleCount

__all__ = ["lineage_text"]

_DIGITS = 16
_WIDE = 500
"""Columns where nobody looks at a terminal: lines stay whole."""
_NUM_FILES = 8


def lineage_text(lineage: OutputLineage | ImageLineage) -> str:
    """The lineage of an output or of an image, drawn."""
    trees = _image_trees(lineage) if isinstance(lineage, ImageLineage) else _output_trees(lineage)
    coloured = wants_colour(sys.stdout)
    console = Console(
        width=None if sys.stdout.isatty() else _WIDE, force_terminal=coloured, no_color=not coloured, highlight=False
    )
    with console.capture() as captured:
        for tree in trees:
            console.print(tree)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _output_trees(lineage: OutputLineage) -> Iterable[Tree]:
    made = _how_made(lineage.found, lineage.output)
    root = Tree(_described(lineage.output, made))
    _grow(root.add(Text("made of", "bold")), lineage.found, lineage.made_of, made)
    if lineage.went_into.branches:
        _grow(root.add(Text("went into", "bold")), lineage.found, lineage.went_into, made)
    yield root


def _grow(tree: Tree, found: WorkspaceOutputs, branch: Branch, said: Sequence[str]) -> None:
    """Adds what goes on from a branch.

    Args:
        tree: where it is added.
        found: where outputs are from.
        branch: whose links are added.
        said: how the nearest output before was made, which isn't said again of those that were made the same way.
    """
    files = [following for following in branch.branches if _is_source(branch, following)]
    for following in branch.branches:
        link = following.link
        if following in files[_NUM_FILES:]:
            continue
        label = Text(f"{link.name}: ", "dim")
        if link.output is None:
            tree.add(label.append(link.key if "/" in link.key else link.key[:_DIGITS], ""))
        elif following.is_repeated:
            tree.add(label.append(f"{link.output.kind} {link.key[:_DIGITS]} (told elsewhere)", ""))
        else:
            made = _how_made(found, link.output)
            described = _described(link.output, [line for line in made if line not in said])
            _grow(tree.add(label.append_text(described)), found, following, made or said)
    if len(files) > _NUM_FILES:
        tree.add(Text(f"and {len(files) - _NUM_FILES} more source files; --json has them", "dim"))


def _is_source(branch: Branch, following: Branch) -> bool:
    """Whether a link of a corpus leads to something that was read, and not to an output."""
    output = branch.link.output
    return output is not None and output.kind is Kind.CORPUS and following.link.output is None


def _described(output: Output, made: Sequence[str]) -> Text:
    """An output in two lines, what it is and where it lies, and how it was made."""
    text = Text(f"{output.kind} ", "bold").append(output.key[:_DIGITS], "bold cyan")
    if output.presence is not Presence.PRESENT:
        text.append(f"  {output.presence}", "yellow")
    if output.successor is not None:
        text.append(f", its successor is {output.successor[:_DIGITS]}", "yellow")
    for said in _said(output):
        text.append(f"  {said}", "")
    for line in (output.path, *made):
        text.append(f"\n{line}", "dim")
    return text


def _how_made(found: WorkspaceOutputs, output: Output) -> list[str]:
    """By which code an output was made, and the record with the recipe of the first run that made or found it."""
    if output.kind in (Kind.STORE, Kind.PART) or output.presence is not Presence.PRESENT:
        return []
    code = () if output.note is None else output.note.code
    records = found.runs.get(output.key, ())
    return [
        f"code: {'; '.join(map(str, code)) or 'not noted'}",
        *(f"recipe: {path}" for path in records[:1]),
        *(f"registered: {said}" for said in found.registered.get(output.key, ())),
    ]


def _said(output: Output) -> Iterable[str]:
    """What is worth a word about an output."""
    facts = cast("Mapping[str, Any]", output.facts)
    if output.kind is Kind.CORPUS and "num_samples" in facts:
        yield f"{facts['num_samples']:,} samples on {facts['num_images']:,} images"
    elif output.kind is Kind.CHECKPOINT and "num_steps" in facts:
        yield f"{facts['num_steps']:,} steps, {facts['num_parameters']:,} parameters"
    elif output.kind is Kind.SCORES and "num_questions" in facts:
        yield f"{facts['num_questions']:,} questions"
    elif output.kind is Kind.STORE and "encoding" in facts:
        name, colon, calibration = str(facts["encoding"]).partition(":")
        yield f"{name}{colon}{calibration[:_DIGITS]}, {facts['num_channels']} channels"
    elif output.kind in (Kind.PART, Kind.FEATURES) and "num_images" in facts:
        yield f"{facts['num_images']:,} images"
    teacher = cast("Mapping[str, Any] | None", output.recipe.get("teacher"))
    if output.kind is Kind.FEATURES and teacher is not None:
        yield f"teacher {teacher['kind']}, weights {teacher.get('checkpoint') or 'random'}, {teacher.get('dtype')}"


def _image_trees(lineage: ImageLineage) -> Iterable[Tree]:
    seen, record = lineage.sightings, lineage.record
    root = Tree(Text("image ", "bold").append(seen.image_id, "bold cyan"))
    if record is not None:
        root.add(Text(f"forgotten on {record.get('when')}: {record.get('reason')}", "yellow"))
    _list(root, "corpora", [
        _line("corpus", item.key, item.path, _presence(item.presence, item.successor), _samples(item.samples))
        for item in seen.corpora
    ])  # fmt: skip
    _list(root, "feature parts", [
        _line("part", item.part, item.path, item.state, "" if item.status == "ok" else item.status)
        for item in seen.parts
    ])  # fmt: skip
    _list(root, "checkpoints", [
        _line("checkpoint", item.key, item.path, _role(item.role, item.base), *item.registered)
        for item in seen.checkpoints
    ])  # fmt: skip
    _list(root, "scores", [
        _line("scores", item.key, item.path, f"{item.num_predictions} predictions on it",
              "" if item.role is None else f"checkpoint {item.checkpoint[:_DIGITS]}: {item.role}")
        for item in seen.scores
    ])  # fmt: skip
    _list(root, "made of such a corpus", [Text(kind).append(f"  {path}", "dim") for kind, path in seen.may_show])
    if not root.children:
        root.add(Text("nothing in this workspace saw it"))
    yield root


def _list(root: Tree, title: str, lines: Sequence[Text]) -> None:
    if lines:
        tree = root.add(Text(title, "bold"))
        for line in lines:
            tree.add(line)


def _line(kind: str, key: str, path: str, *said: str) -> Text:
    text = Text(f"{kind} ").append(key[:_DIGITS], "cyan")
    return text.append(f"  {'; '.join(filter(None, said))}").append(f"\n{path}", "dim")


def _presence(presence: Presence, successor: str | None) -> str:
    return f"{presence}, its successor is {successor[:_DIGITS]}" if successor else presence.value


def _samples(samples: Iterable[SampleCount]) -> str:
    """Samples of one image, split by split.

    >>> _samples([SampleCount("refcoco", "referring", "val", 2)]), _samples([])
    ('2 referring of refcoco (val)', 'no sample')
    """
    found = [f"{item.num_samples} {item.task} of {item.family} ({item.split})" for item in samples]
    return ", ".join(found) or "no sample"


def _role(role: Role, base: str | None) -> str:
    return f"{role} {base[:_DIGITS]}" if base else role.value
