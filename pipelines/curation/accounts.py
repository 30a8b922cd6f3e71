"""What a corpus's files hold, as its manifest states it, and that no record was lost on the way."""

from __future__ import annotations

from collections import Counter

from pipelines.curation.published import ShardCounts
from storage.errors import CorruptObject
from storage.keys import Json
from storage.objects import Objects

__all__ = ["check_account", "counted_facts"]


def counted_facts(total: ShardCounts) -> dict[str, Json]:
    """Counts for the manifest: images, samples by family, task and split, rejects by reason and by source file."""
    by_reason: Counter[str] = Counter()
    by_file: dict[str, dict[str, int]] = {}
    for (source_file, reason), number in sorted(total.rejects.items()):
        by_reason[reason] += number
        by_file.setdefault(source_file, {})[reason] = number
    samples: dict[str, dict[str, dict[str, int]]] = {}
    for (family, task, split), number in sorted(total.samples.items()):
        samples.setdefault(family, {}).setdefault(task, {})[split] = number
    return {
        "num_images": total.images,
        "num_samples": total.samples.total(),
        "num_rejects": by_reason.total(),
        "samples": samples,
        "rejects_by_reason": dict(by_reason),
        "rejects_by_source": by_file,
        "samples_by_source": dict(total.samples_of),
        "leakage": {
            family: {"samples_removed": number, "images": total.leaking_images[family]}
            for family, number in sorted(total.leaks.items())
        },
    }


def check_account(output: Objects, records_in: Counter[str], total: ShardCounts) -> None:
    """Records in = samples + rejects, for each source file: what was read against what stands in the files.

    Raises:
        CorruptObject: a source file has more records, or fewer.
    """
    out = Counter(total.samples_of)
    for (source_file, _), number in total.rejects.items():
        out[source_file] += number
    if out != records_in:
        wrong = min(name for name in out | records_in if out[name] != records_in[name])
        raise CorruptObject(
            f"{output.url}: {wrong}: expected {records_in[wrong]} records as samples and rejects, "
            f"found {out[wrong]}; delete the unfinished corpus and run curate again"
        )
