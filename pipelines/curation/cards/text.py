"""The text of a corpus's card: Markdown under a head that the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import yaml

from pipelines.curation.cards.licences import licence_head
from pipelines.curation.families.base import Published
from storage.keys import Json
from storage.schema import Task

__all__ = ["CardContext", "render_card", "warnings_of"]

_Counts = Mapping[str, int]
_Names = Mapping[str, str]

_CATEGORIES: Mapping[Task, tuple[str, ...]] = {
    Task.REFERRING: ("image-segmentation",),
    Task.SEMANTIC: ("image-segmentation",),
    Task.INSTANCE: ("image-segmentation",),
    Task.REASONING: ("image-segmentation",),
    Task.GROUNDED_CAPTION: ("image-segmentation", "image-to-text"),
    Task.DESCRIPTION: ("image-to-text",),
    Task.CATEGORY: ("image-classification",),
    Task.CONVERSATION: ("visual-question-answering",),
    Task.MULTIPLE_CHOICE: ("visual-question-answering",),
    Task.VISUAL_TEXT_REFERRING: ("image-segmentation",),
    Task.CAPTION: ("image-to-text",),
    Task.UNLABELLED: ("image-feature-extraction",),
}
"""What the Hub calls our tasks."""

_SIZES = (("1K", 10**3), ("10K", 10**4), ("100K", 10**5), ("1M", 10**6), ("10M", 10**7), ("100M", 10**8), ("1B", 10**9))
_GATE_OFF = (
    "**Training samples may lie on evaluation images of other sets:** the leakage gate was off. "
    "Scores of whatever is trained on this corpus can't be compared with published ones."
)
_GATES = {
    "remove": "Samples of training splits on evaluation images of any set were removed; they stand among the rejects.",
    "refuse": "A sample of a training split on an evaluation image of any set would have ended the run.",
    "off": "Nothing was removed: the gate was off.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardContext:
    """What the card needs to know beside the facts of the manifest."""

    published: Mapping[str, Published]
    """What is publicly known of each kind of source."""
    is_drawn: bool
    """Whether this package drew the sources."""
    folders: Sequence[str]
    """Those of `samples`, `images` and `rejects` that hold a file."""
    pictures: Mapping[str, Sequence[tuple[str, str]]]
    """(alternative text, path) of the pictures of each family."""


def render_card(key: str, facts: Mapping[str, Json], context: CardContext) -> str:
    """The card, in Markdown.

    Args:
        key: content key of the corpus.
        facts: of its manifest.
        context: what else it tells.

    Returns:
        Text that differs only with the arguments. That training samples may lie on evaluation images stands before
        everything else, that splits were given another name before every count.
    """
    samples = cast("Mapping[str, Mapping[str, _Counts]]", facts["samples"])
    before, after = warnings_of(facts)
    parts = [*before, f"# Corpus {key[:12]}", *after]
    parts.append(
        f"{facts['num_samples']} samples on {facts['num_images']} images; {facts['num_rejects']} records rejected. "
        "Every record that was read is either a sample or a reject."
    )
    parents = cast("Sequence[str]", facts.get("parents", ()))
    if parents:
        parts.append(
            f"It goes on from corpus {parents[0][:12]}: what its sources share with that one was taken over as it was."
        )
    rows = [
        (family, task, split, str(number))
        for family, tasks in samples.items()
        for task, splits in tasks.items()
        for split, number in splits.items()
    ]
    parts += ["## Samples", _table(("family", "task", "split", "samples"), rows)]
    parts += [*_sources(facts), *_rejects(facts), *_leakage(facts), *_licences(context)]
    if context.pictures:
        parts.append("## Families")
        parts.append(
            "Targets are tinted, one colour for each mask of an answer; what is pointed at is yellow, with its number."
        )
    for family, pictures in context.pictures.items():
        parts += [f"### {family}", *(f"![{text}]({path})" for text, path in pictures)]
    parts += ["## Files", _FILES]
    return _head(key, facts, samples, context) + "\n\n".join(parts) + "\n"


_FILES = """\
- `samples/`, `images/`, `rejects/`: Parquet files; those of one name belong together
- `statistics.parquet`: how often each quantity falls into each bin, by family, task and split
- `croissant.json`: all of this for programs, as [Croissant](https://docs.mlcommons.org/croissant/) metadata
- `manifest.json`: size, SHA-256 and rows of each file, and what the corpus was made of"""


def warnings_of(facts: Mapping[str, Json]) -> tuple[list[str], list[str]]:
    """What a reader must know before everything else: paragraphs before the title, and paragraphs behind it."""
    before = [_GATE_OFF] if facts.get("leakage_gate") == "off" else []
    return before, _relabelled(cast("Mapping[str, _Names]", facts.get("relabelled_splits", {})))


def _head(
    key: str, facts: Mapping[str, Json], samples: Mapping[str, Mapping[str, _Counts]], context: CardContext
) -> str:
    tasks = {Task(task) for tasks in samples.values() for task in tasks}
    head: dict[str, object] = {
        **licence_head(context.published, is_drawn=context.is_drawn),
        "pretty_name": f"Corpus {key[:12]}",
        "task_categories": sorted({name for task in tasks for name in _CATEGORIES[task]}),
        "size_categories": [_size_category(cast(int, facts["num_samples"]))],
        "configs": [
            {"config_name": folder, "data_files": f"{folder}/*.parquet"} | ({"default": True} if not place else {})
            for place, folder in enumerate(context.folders)
        ],
    }
    shown = yaml.safe_dump({name: value for name, value in head.items() if value}, sort_keys=False)
    return f"---\n{shown}---\n\n"


def _size_category(number: int) -> str:
    """The Hub's word for a number of rows.

    >>> [_size_category(number) for number in (7, 1000, 142209)]
    ['n<1K', '1K<n<10K', '100K<n<1M']
    """
    lower = ""
    for name, limit in _SIZES:
        if number < limit:
            return f"{lower}n<{name}"
        lower = f"{name}<"
    return "n>1B"


def _relabelled(by_file: Mapping[str, _Names]) -> list[str]:
    if not by_file:
        return []
    lines = [
        f"- `{name}`: " + ", ".join(f"`{old}` became `{new}`" for old, new in sorted(splits.items()))
        for name, splits in sorted(by_file.items())
    ]
    warning = "**Splits were given other names.** Scores on this corpus can't be compared with published ones."
    return ["\n".join([warning, "", *lines])]


def _sources(facts: Mapping[str, Json]) -> list[str]:
    records, kept = cast(_Counts, facts["records_in"]), cast(_Counts, facts["samples_by_source"])
    accounts = [
        (name, str(number), str(kept.get(name, 0)), str(number - kept.get(name, 0)))
        for name, number in sorted(records.items())
    ]
    return ["## Sources", _table(("file", "records", "samples", "rejects"), accounts)]


def _rejects(facts: Mapping[str, Json]) -> list[str]:
    reasons = cast(_Counts, facts["rejects_by_reason"])
    if not reasons:
        return ["## Rejects", "None."]
    listed = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return [
        "## Rejects",
        _table(("reason", "records"), [(reason, str(number)) for reason, number in listed]),
        "Each one stands in `rejects/` with its file, record and detail.",
    ]


def _leakage(facts: Mapping[str, Json]) -> list[str]:
    if "leakage" not in facts:
        return []
    by_family = cast("Mapping[str, _Counts]", facts["leakage"])
    parts = ["## Leakage"]
    gate = facts.get("leakage_gate")
    if gate in _GATES:
        parts.append(_GATES[cast(str, gate)])
    rows = [
        (family, str(counts["samples_removed"]), str(counts["images"])) for family, counts in sorted(by_family.items())
    ]
    if rows:
        parts.append(_table(("family", "samples removed", "evaluation images"), rows))
    else:
        parts.append("No sample was removed.")
    return parts


def _licences(context: CardContext) -> list[str]:
    if context.is_drawn:
        listed = ", ".join(context.published)
        return [
            "## Licences",
            f"Sailloft drew pictures and texts itself, in the layouts of {listed}; no one's licence applies.",
        ]
    if not context.published:
        return []
    rows = [(kind, _link(fact.url), fact.licence, fact.size) for kind, fact in context.published.items()]
    return [
        "## Licences",
        "What the publishers state of annotations in these layouts; pictures have licences of their own, and so have "
        "files that somebody else made in the same layout.",
        _table(("family", "published at", "licence", "size"), rows),
    ]


def _link(url: str) -> str:
    return f"<{url}>" if "://" in url else url


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
