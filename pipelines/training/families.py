"""Losses by dataset family: sums that ranks and steps add up, and the means that a reader sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["family_sums", "mean_metrics"]

_SUM, _COUNT, _MEAN = "family_sum/", "family_documents/", "loss/"


def family_sums(per_document: Sequence[float], families: Sequence[str]) -> dict[str, float]:
    """Summed losses and numbers of conversations by family, as entries that may be added up over batches and ranks.

    Args:
        per_document: total loss of each conversation of a batch.
        families: family of each.
    """
    sums: dict[str, float] = {}
    for family, loss in zip(families, per_document, strict=True):
        sums[_SUM + family] = sums.get(_SUM + family, 0.0) + loss
        sums[_COUNT + family] = sums.get(_COUNT + family, 0.0) + 1
    return sums


def mean_metrics(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over steps; an entry counts in the steps that have it, a family's loss once for each conversation.

    Returns:
        The entries by name, in alphabetical order; sums of `family_sums` have become `loss/<family>`.

    >>> mean_metrics([{"loss": 1.0, "family_sum/a": 6.0, "family_documents/a": 2.0}, {"loss": 2.0}])
    {'loss': 1.5, 'loss/a': 3.0}
    """
    means: dict[str, float] = {}
    for name in {name for row in rows for name in row}:
        values = [row[name] for row in rows if name in row]
        if name.startswith(_SUM):
            family = name.removeprefix(_SUM)
            means[_MEAN + family] = sum(values) / sum(row.get(_COUNT + family, 0.0) for row in rows)
        elif not name.startswith(_COUNT):
            means[name] = sum(values) / len(values)
    return dict(sorted(means.items()))
