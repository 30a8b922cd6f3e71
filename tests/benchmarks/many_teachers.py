"""64 teachers against one, and what a shard costs beside its teacher's time: by teachers that wait."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.session import ClusterConfig, ray_session
from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.pipeline import teach
from storage.codecs import codec_of
from storage.corpus import Corpus
from storage.keys import Json
from storage.objects import Objects
from tests.benchmarks.measuring import Figures, Options, compared, judged, machine, resident_bytes, spread
from tests.benchmarks.waiting_teachers import WaitingTeacherConfig, seats_in_processes, worked_spans
from tests.small_corpora import noise_picture, write_corpus

__all__ = ["many_teachers"]

_SIZE_PX = 16
_NUM_CHANNELS, _GRID = 4, (2, 2)
_FORWARDS_PER_SHARD, _IMAGES_PER_FORWARD = 4, 2


@dataclass(frozen=True, slots=True)
class _Sizes:
    num_teachers: int
    teachers_per_process: int
    shards_per_teacher: int
    service_s: float
    """Of one forward pass."""

    @property
    def shard_s(self) -> float:
        return _FORWARDS_PER_SHARD * self.service_s


@dataclass(frozen=True, slots=True)
class _Run:
    """Figures of one run of the pipeline."""

    images_per_s: float
    """Sum over the teachers, of each between its first forward pass and its last: no start, and no end without work."""
    whole_images_per_s: float
    """From the first forward pass to the published statement."""
    shard_wall_ms: float
    """Of a teacher between the starts of two shards, beyond its forward passes' service time."""
    driver_cpu_ms: float
    """Of the driver per shard, all its threads, from the call to the statement."""
    start_s: float
    """From the call to the first forward pass of all teachers: plan, lease, processes and their imports."""
    driver_mb: float
    """Resident memory of the driver at the end."""


def many_teachers(options: Options) -> Figures:
    """Images per second with many teachers and with one, in turn."""
    sizes = _Sizes(4, 2, 2, 0.02) if options.tiny else _Sizes(64, 8, 6, 1.0)
    repeats = options.times(3)
    runs: dict[int, list[_Run]] = {1: [], sizes.num_teachers: []}
    num_images = sizes.num_teachers * sizes.shards_per_teacher * _FORWARDS_PER_SHARD * _IMAGES_PER_FORWARD
    with tempfile.TemporaryDirectory() as folder, ray_session(ClusterConfig()):
        pictures = [noise_picture(number, _SIZE_PX, _SIZE_PX) for number in range(num_images)]
        corpora = {
            number: write_corpus(
                Objects.open(f"{folder}/corpus-{number}"), pictures[: num_images * number // max(runs)], str(number)
            )
            for number in runs
        }
        for repeat in range(repeats):
            for number, found in runs.items():
                found.append(_taught(corpora[number], number, sizes, Path(folder) / f"{repeat}-{number}"))
    return {
        "machine": machine(options, repeats),
        "workload": _workload(sizes, num_images),
        **_figures(runs, sizes.num_teachers),
    }


def _taught(corpus: Corpus, num_teachers: int, sizes: _Sizes, folder: Path) -> _Run:
    teacher = WaitingTeacherConfig(
        num_channels=_NUM_CHANNELS,
        grid=_GRID,
        service_s=sizes.service_s,
        meeting=str(folder / "meeting"),
        num_teachers=num_teachers,
    )
    features = FeaturesConfig(
        codec="raw16",
        batch_size=_IMAGES_PER_FORWARD,
        images_per_shard=_FORWARDS_PER_SHARD * _IMAGES_PER_FORWARD,
        num_actors=num_teachers,
        num_cpus_per_actor=0.01,  # they wait
        num_cpus_per_decoder=0,
        max_retries=0,
    )
    start_s, start_cpu_s = time.time(), time.process_time()
    with seats_in_processes(sizes.teachers_per_process):
        teach(corpus, teacher, features, codec_of("raw16"), Objects.open(folder / "store"))  # type: ignore[arg-type]
    end_s, cpu_s = time.time(), time.process_time() - start_cpu_s
    spans = worked_spans(folder / "meeting")
    first_s, num_images = min(span.start_s for span in spans), sum(span.num_images for span in spans)
    assert len(spans) == num_teachers, f"{len(spans)} of {num_teachers} teachers have done something"
    beyond_s = [
        (span.end_s - span.start_s - span.num_forwards * sizes.service_s) * _FORWARDS_PER_SHARD / span.num_forwards
        for span in spans
    ]
    return _Run(
        images_per_s=sum(span.num_images / (span.end_s - span.start_s) for span in spans),
        whole_images_per_s=num_images / (end_s - first_s),
        shard_wall_ms=1e3 * statistics.fmean(beyond_s),
        driver_cpu_ms=1e3 * cpu_s / (num_images / (_FORWARDS_PER_SHARD * _IMAGES_PER_FORWARD)),
        start_s=max(span.start_s for span in spans) - start_s,
        driver_mb=resident_bytes() / 1e6,
    )


def _figures(runs: Mapping[int, list[_Run]], many: int) -> dict[str, Json]:
    one = runs[1]
    ideal = [many * run.images_per_s for run in one]
    sides = {f"{many} teachers": [run.images_per_s for run in runs[many]], f"{many} times one": ideal}
    rates, ratio = compared(sides, "images/s", (f"{many} teachers", f"{many} times one"))
    overhead: dict[str, Json] = {
        "of": f"ms of a teacher per shard beyond its service time, {many} teachers",
        "value": round(statistics.median(run.shard_wall_ms for run in runs[many]), 2),
    }
    return {
        **rates,
        f"efficiency_{many}": judged(ratio, at_least=0.9),
        "overhead_per_shard_ms": judged(overhead, at_most=100.0),
        "overhead_per_shard_ms_of_one": spread([run.shard_wall_ms for run in one]),
        "driver_cpu_per_shard_ms": spread([run.driver_cpu_ms for run in runs[many]]),
        "whole_images_per_s": {
            str(number): spread([run.whole_images_per_s for run in found]) for number, found in runs.items()
        },
        "start_s": {str(number): spread([run.start_s for run in found]) for number, found in runs.items()},
        "driver_mb": spread([run.driver_mb for run in runs[many]]),
    }


def _workload(sizes: _Sizes, num_images: int) -> dict[str, Json]:
    shards_per_s = sizes.num_teachers / sizes.shard_s
    return {
        "what": "the pipeline's own plan, lease, pool, dispatcher, decoding, encoding, create-only puts with fsync and "
        "publication; the forward pass waits. Teachers begin together; rates are sums over teachers, of each from its "
        "first forward pass to its last",
        "service_ms_per_forward": 1e3 * sizes.service_s,
        "service_ms_per_shard": 1e3 * sizes.shard_s,
        "flops": None,
        "images": f"{num_images} PNG of {_SIZE_PX} x {_SIZE_PX} px for {sizes.num_teachers} teachers, as many for each "
        "of one",
        "images_per_shard": _FORWARDS_PER_SHARD * _IMAGES_PER_FORWARD,
        "shards_per_teacher": sizes.shards_per_teacher,
        "features": f"{_NUM_CHANNELS} x {_GRID[0]} x {_GRID[1]}, raw16",
        "processes": f"{sizes.teachers_per_process} teachers (actors of the pipeline) in each, since a process takes "
        "some 200 MB",
        "arithmetic": f"{sizes.num_teachers} teachers end {shards_per_s:g} shards/s; two cores have "
        f"{2e3 / shards_per_s:.0f} ms for each",
    }
