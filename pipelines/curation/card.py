"""The card of a corpus: what it holds, in words and tables, beside its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from storage.keys import Json

__all__ = ["render_card"]

_Counts = Mapping[str, int]


def render_card(key: str, facts: Mapping[str, Json]) -> str:
    """The card, in Markdown.

    Args:
        key: content key of the corpus.
        facts: of its manifest.

    Returns:
        Text that differs only with the facts. Splits that were given another name stand first.
    """
    parts = [f"# Corpus {key[:12]}", *_relabelled(cast("Mapping[str, Mapping[str, str]]", facts["relabelled_splits"]))]
    parts.append(
        f"{facts['num_samples']} samples on {facts['num_images']} images; {facts['num_rejects']} records rejected. "
        "Every record that was read is either a sample or a reject."
    )
    samples = cast("Mapping[str, Mapping[str, _Counts]]", facts["samples"])
    rows = [
        (family, task, split, str(number))
        for family, tasks in samples.items()
        for task, splits in tasks.items()
        for split, number in splits.items()
    ]
    parts += ["## Samples", _table(("family", "task", "split", "samples"), rows)]
    records, kept = cast(_Counts, facts["records_in"]), cast(_Counts, facts["samples_by_source"])
    accounts = [
        (name, str(number), str(kept.get(name, 0)), str(number - kept.get(name, 0)))
        for name, number in sorted(records.items())
    ]
    parts += ["## Sources", _table(("file", "records", "samples", "rejects"), accounts)]
    reasons = cast(_Counts, facts["rejects_by_reason"])
    parts.append("## Rejects")
    if reasons:
        listed = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        parts.append(_table(("reason", "records"), [(reason, str(number)) for reason, number in listed]))
        parts.append("Each one stands in `rejects/` with its file, record and detail.")
    else:
        parts.append("None.")
    return "\n\n".join(parts) + "\n"


def _relabelled(by_file: Mapping[str, Mapping[str, str]]) -> list[str]:
    if not by_file:
        return []
    lines = [
        f"- `{name}`: " + ", ".join(f"`{old}` became `{new}`" for old, new in sorted(splits.items()))
        for name, splits in sorted(by_file.items())
    ]
    warning = "**Splits were given other names.** Scores on this corpus can't be compared with published ones."
    return ["\n".join([warning, "", *lines])]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
