"""Writing a shard: time against a direct write, memory, and requests."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from unittest import mock

from storage.feature_plan import ArrayPlan
from storage.features import FeatureRow, ShardWriter
from storage.objects import Objects
from storage.shards import EncodedRow
from tests.benchmarks.feature_workloads import FeatureMaker, calibrated, scratch_folder
from tests.benchmarks.measuring import (
    Figures,
    Options,
    PeakMemory,
    alternate,
    compared_times,
    in_fresh_process,
    judged,
    machine,
)

__all__ = ["extra_memory_per_shard", "reads_during_writes", "write_vs_direct"]

TIME_TARGET, MEMORY_TARGET = 0.8, 1.2
_METHODS = ("read", "read_buffer", "read_buffers", "read_tail", "size", "list", "create", "put")


def write_vs_direct(options: Options) -> Figures:
    """Bytes per second of writing encoded rows as a shard, flushed, against one file written and flushed directly."""
    count, repeats = 2 if options.tiny else 32, options.times(9)
    array, rows = _encoded("raw16", count)
    with scratch_folder() as folder:
        names = iter(range(10**6))
        data = b"".join([bytes(row.chunk) for row in rows])

        def direct() -> None:
            descriptor = os.open(folder / f"direct{next(names)}", os.O_WRONLY | os.O_CREAT)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            os.close(descriptor)

        def ours() -> None:
            _write(Objects.open(folder / f"ours{next(names)}"), array, rows)

        def tidy() -> None:
            for path in folder.rglob("*"):
                if path.is_file():
                    path.unlink()

        seconds = alternate({"direct": direct, "ours": ours}, repeats, 1, before=tidy)
    figures, ratio = compared_times(seconds, "s", ("direct", "ours"))
    return {
        "workload": {"rows": count, "shard_mib": round(len(data) / 2**20, 1), "both": "fsync before done"},
        "machine": machine(options, repeats),
        "seconds": figures,
        "ratio": judged(ratio, at_least=TIME_TARGET),
    }


def extra_memory_per_shard(options: Options) -> Figures:
    """Peak memory of making a shard over its size: by two sizes, so that what one image takes falls out."""
    small, large = (2, 6) if options.tiny else (32, 128)
    measured = {count: in_fresh_process(_peak_of, count) for count in (small, large)}
    (size_small, peak_small), (size_large, peak_large) = measured[small], measured[large]
    value = round((peak_large - peak_small) / (size_large - size_small), 3)
    return {
        "workload": {"codec": "klt", "rows": [small, large], "grid": [256, 64, 64]},
        "machine": machine(options, 1),
        "memory": PeakMemory.method,
        "shard_mib": {str(count): round(size / 2**20, 1) for count, (size, _) in measured.items()},
        "peak_mib": {str(count): round(peak / 2**20, 1) for count, (_, peak) in measured.items()},
        "ratio": judged({"of": "memory / shard", "value": float(value)}, at_most=MEMORY_TARGET),
    }


def reads_during_writes(options: Options) -> Figures:
    """Calls of the object store while a shard is written."""
    array, rows = _encoded("klt", 2 if options.tiny else 8)
    calls: Counter[str] = Counter()
    with scratch_folder() as folder, mock.patch.multiple(Objects, **{name: _counted(name, calls) for name in _METHODS}):
        _write(Objects.open(folder), array, rows)
    reads = sum(number for name, number in calls.items() if name not in ("create", "put"))
    return {
        "calls": dict(calls),
        "machine": machine(options, 1),
        "ratio": judged({"of": "reads per shard", "value": float(reads)}, at_most=0.0),
    }


def _counted(name: str, calls: Counter[str]) -> Callable[..., object]:
    method: Callable[..., object] = getattr(Objects, name)

    def counting(*arguments: object, **named: object) -> object:
        calls[name] += 1
        return method(*arguments, **named)

    return counting


def _encoded(codec_name: str, count: int) -> tuple[ArrayPlan, list[EncodedRow]]:
    maker, codec = FeatureMaker(), calibrated(codec_name)
    array = ArrayPlan("l4096", count, maker.num_channels, 4096, count)
    writer = ShardWriter(Objects.open("memory://unused"), array, 0, codec)
    return array, [
        writer.encode(FeatureRow(f"{number:064x}", 64, 64, maker.features(number))) for number in range(count)
    ]


def _write(part: Objects, array: ArrayPlan, rows: list[EncodedRow]) -> None:
    writer = ShardWriter(part, array, 0, calibrated("raw16" if len(rows[0].chunk) == 2**21 else "klt"))
    for slot, row in enumerate(rows):
        writer.add(slot, row)
    writer.write()


def _peak_of(count: int) -> tuple[int, int]:
    """Size of a shard of so many images, and the memory that making it took; an image was made before."""
    maker, codec = FeatureMaker(), calibrated("klt")
    array = ArrayPlan("l4096", count, maker.num_channels, 4096, count)
    with scratch_folder() as folder:
        _one(maker, ShardWriter(Objects.open(folder / "before"), array, 0, codec), 0)
        writer = ShardWriter(Objects.open(folder), array, 0, codec)
        with PeakMemory() as peak:
            for number in range(count):
                writer.add(number, _one(maker, writer, number))
            size = writer.write().entry.size_bytes
    return size, peak.peak_bytes


def _one(maker: FeatureMaker, writer: ShardWriter, number: int) -> EncodedRow:
    return writer.encode(FeatureRow(f"{number:064x}", 64, 64, maker.features(number)))
