"""Which samples of a family a contact sheet shows: they follow from the ids of its samples alone."""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import cast

import pyarrow as pa

from storage.corpus import table_to_samples
from storage.schema import Sample

__all__ = ["NUM_SHOWN", "Candidate", "Selection"]

NUM_SHOWN = 12
"""Samples on a contact sheet, at most."""
_NUM_KEPT = 4 * NUM_SHOWN
"""Candidates of each family and task: enough to find as many on different images."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sample that may be shown, and the shard that its image lies in."""

    sample: Sample
    shard: str


class Selection:
    """The samples with the least ids of each family and task; ids are hashes, so that these are drawn by lot.

    Neither the order of shards nor how samples are spread over them changes what is chosen.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], list[Candidate]] = {}

    def add(self, shard: str, samples: pa.Table) -> None:
        """Looks through one shard.

        Args:
            shard: its name.
            samples: of `SAMPLE_SCHEMA`.
        """
        limits = {group: kept[-1].sample.sample_id for group, kept in self._kept.items() if len(kept) == _NUM_KEPT}
        ids, families, tasks = (
            cast("list[str]", samples[name].to_pylist()) for name in ("sample_id", "family", "task")
        )
        rows: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for row, (sample_id, group) in enumerate(zip(ids, zip(families, tasks, strict=True), strict=True)):
            limit = limits.get(group)
            if limit is None or sample_id < limit:
                rows.setdefault(group, []).append((sample_id, row))
        for group, found in rows.items():
            least = [row for _, row in heapq.nsmallest(_NUM_KEPT, found)]
            new = [Candidate(sample, shard) for sample in table_to_samples(samples.take(least))]
            kept = sorted([*self._kept.get(group, []), *new], key=lambda candidate: candidate.sample.sample_id)
            self._kept[group] = kept[:_NUM_KEPT]

    def families(self) -> tuple[str, ...]:
        """Families that have a sample, sorted."""
        return tuple(sorted({family for family, _ in self._kept}))

    def of(self, family: str) -> list[Candidate]:
        """What is shown of a family: tasks in turn, on different images as far as there are."""
        queues = [list(kept) for (name, _), kept in sorted(self._kept.items()) if name == family]
        chosen: list[Candidate] = []
        seen: set[str | None] = set()
        while len(chosen) < NUM_SHOWN and any(queues):
            for queue in filter(None, queues):
                fresh = (place for place, item in enumerate(queue) if item.sample.image_id not in seen)
                candidate = queue.pop(next(fresh, 0))
                seen.add(candidate.sample.image_id)
                chosen.append(candidate)
        return chosen[:NUM_SHOWN]
