"""The whole teaching pipeline against a bare loop of the same teacher on tensors that are decoded already."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import torch
from torch import Tensor

from jobs.session import ClusterConfig, ray_session
from pipelines.distillation import teaching
from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.pipeline import teach
from pipelines.distillation.steps import decode_rgb
from storage.calibration import TIERS, CalibrationSample
from storage.codecs import codec_of
from storage.corpus import Corpus
from storage.klt import KltCodec
from storage.objects import Objects
from storage.stored_features import Codec
from tests.benchmarks.measuring import Figures, Options, compared, judged, machine
from tests.ledger_teacher import LedgerTeacher, LedgerTeacherConfig, ledger_card
from tests.small_corpora import noise_picture, write_corpus

__all__ = ["pipeline_vs_bare_forward"]

_CODEC = "klt"
_SIZE_PX = (480, 640)
_BATCH = 4
_SERVICE_S = 0.4
_NUM_CHANNELS, _GRID = 256, (64, 64)


def pipeline_vs_bare_forward(options: Options) -> Figures:
    """Images per second of both, in turn, on one actor."""
    num_images, repeats = (8, 1) if options.tiny else (480, options.times(3))
    service_s = 0.02 if options.tiny else _SERVICE_S
    grid = (8, 8) if options.tiny else _GRID
    rates: dict[str, list[float]] = {"pipeline": [], "bare forward": []}
    with tempfile.TemporaryDirectory() as folder, _known_teacher(), ray_session(ClusterConfig()):
        images = [noise_picture(number, *_SIZE_PX, "JPEG") for number in range(num_images)]
        corpus = write_corpus(Objects.open(f"{folder}/corpus"), images, "c")
        teacher = LedgerTeacherConfig(num_channels=_NUM_CHANNELS, grid=grid, service_s=service_s)
        codec, batches = _codec(teacher, corpus), _batches(teacher, corpus)
        for repeat in range(repeats):
            rates["bare forward"].append(num_images / _bare(teacher.build(), batches))
            rates["pipeline"].append(num_images / _pipeline(corpus, teacher, codec, f"{folder}/{repeat}"))
    figures, ratio = compared(rates, "images/s", ("pipeline", "bare forward"))
    return {
        "machine": machine(options, repeats),
        "workload": {
            "images": f"{num_images} JPEG of {_SIZE_PX[1]} x {_SIZE_PX[0]} px",
            "features": f"{_NUM_CHANNELS} x {grid[0]} x {grid[1]}, {_CODEC}",
            "service_ms_per_forward": 1e3 * service_s,
            "images_per_forward": _BATCH,
            "what": "read, decode, preprocess, forward, encode, write to a local disk with fsync, publish; from the "
            "first forward pass of the actor on, its start is not counted. The forward pass waits as a process does "
            "whose accelerator computes, so that the cores are free for the rest",
        },
        **figures,
        "ratio": judged(ratio, at_least=0.92),
    }


def _bare(teacher: LedgerTeacher, batches: list[Tensor]) -> float:
    start_s = time.perf_counter()
    for batch in batches:
        teacher.forward(batch)
    return time.perf_counter() - start_s


def _pipeline(corpus: Corpus, teacher: LedgerTeacherConfig, codec: Codec, folder: str) -> float:
    """Seconds from the first forward pass to the published statement."""
    noted = teacher.model_copy(update={"ledger": f"{folder}-ledger"})
    features = FeaturesConfig(
        codec=_CODEC,
        batch_size=_BATCH,
        images_per_shard=40,
        num_actors=1,
        num_cpus_per_actor=2,  # as many threads encode
        num_batches_ahead=3,
        num_cpus_per_decoder=0,
    )
    teach(corpus, noted, features, codec, Objects.open(folder))  # type: ignore[arg-type]
    end_s = time.time()
    first_s = min(float(path.read_text()) for path in Path(f"{folder}-ledger").glob("*.start"))
    return end_s - first_s


def _codec(teacher: LedgerTeacherConfig, corpus: Corpus) -> Codec:
    if _CODEC not in TIERS:
        return codec_of(_CODEC)
    sample, built = CalibrationSample(), teacher.model_copy(update={"service_s": 0.0}).build()
    for image in list(corpus.images())[:8]:
        sample.add(built.forward(teacher.preprocess(decode_rgb(image.data or b""))[None])[0].numpy())
    return KltCodec(sample.fit(TIERS[_CODEC]))


def _batches(teacher: LedgerTeacherConfig, corpus: Corpus) -> list[Tensor]:
    inputs = torch.stack([teacher.preprocess(decode_rgb(image.data or b"")) for image in corpus.images()])
    return list(inputs.split(_BATCH))


@contextlib.contextmanager
def _known_teacher() -> Generator[None]:
    """The registry knows no benchmark's teacher; workers get it as the configuration itself."""
    before = teaching.teacher_card
    teaching.teacher_card = ledger_card  # type: ignore[assignment]
    try:
        yield
    finally:
        teaching.teacher_card = before
