"""Whoever makes the batches, they are the same, in order, and errors come out as they were raised."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from model.config import StudentConfig
from model.tokenizer import StudentTokenizer
from pipelines.training.config import LoaderConfig, TrainingConfig
from pipelines.training.feed import StepBatches, TrainingFeed
from pipelines.training.loader import FailedStep, FeedSpec, StepWorker, iterate
from pipelines.training.packed_step import pack_step, unpack_step
from pipelines.training.pipeline import _FeedActors
from storage.corpus import Corpus
from storage.errors import DataError, InfrastructureError, UnknownKind, UsageError
from storage.features import FeatureStore
from tests.same_batches import assert_same


def recipe(**fields: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"num_steps": 4, "batch_rows": 6, "micro_batch_rows": 2, **fields})


@pytest.fixture
def spec(
    corpus_on_disk: Corpus,
    features_on_disk: dict[str, FeatureStore],
    student_config: StudentConfig,
    tokenizer: StudentTokenizer,
) -> FeedSpec:
    return FeedSpec(corpus_on_disk, features_on_disk, student_config, tokenizer.to_json(), recipe())


def feeding() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("training-feed")]


def wait_for(condition: Callable[[], bool]) -> bool:
    end_s = time.monotonic() + 10
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.01)
    return condition()


class Numbered:
    """A feed whose batches are empty; from `broken_at` on it fails."""

    def __init__(self, broken_at: int | None = None) -> None:
        self.made: list[int] = []
        self._broken_at = broken_at

    def step_batches(self, step: int) -> StepBatches:
        self.made.append(step)
        if self._broken_at is not None and step >= self._broken_at:
            raise DataError(f"image {step}: torn")
        return StepBatches(step, (), (), (), (), 0, {})


class Pool:
    """Makes steps when they are asked for, as another process would."""

    def __init__(self, feed: Any) -> None:
        self._worker = StepWorker(lambda: feed)
        self.closed = False

    def submit(self, step: int) -> int:
        return step

    def result(self, ticket: int) -> Any:
        return self._worker.make(ticket)

    def close(self) -> None:
        self.closed = True


def numbers(batches: Iterator[StepBatches], count: int) -> list[int]:
    return [next(batches).step for _ in range(count)]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_threads_run_ahead_but_not_further(num_workers: int) -> None:
    feed: Any = Numbered()
    config = LoaderConfig(num_workers=num_workers, prefetch_steps=3)
    batches = iterate(lambda: feed, config, 5, 100)
    assert numbers(batches, 3) == [5, 6, 7]
    assert wait_for(lambda: len(feed.made) == 6)
    time.sleep(0.2)
    assert sorted(feed.made) == [5, 6, 7, 8, 9, 10]
    batches.close()
    assert wait_for(lambda: not feeding())


def test_errors_are_raised_behind_what_was_made() -> None:
    feed: Any = Numbered(broken_at=2)
    batches = iterate(lambda: feed, LoaderConfig(num_workers=2), 0, 10)
    assert numbers(batches, 2) == [0, 1]
    with pytest.raises(DataError, match=r"^image 2: torn$"):
        next(batches)
    assert wait_for(lambda: not feeding())


def test_it_ends_with_the_last_step() -> None:
    feed: Any = Numbered()
    assert [batch.step for batch in iterate(lambda: feed, LoaderConfig(), 3, 6)] == [3, 4, 5]
    assert list(iterate(lambda: feed, LoaderConfig(), 6, 6)) == []
    assert wait_for(lambda: not feeding())


@pytest.mark.parametrize(
    "fields",
    [{}, {"micro_batch_tokens": 160}, {"teacher_mode": "hybrid"}, {"teacher_mode": "online"}],
    ids=["rows", "tokens", "hybrid", "online"],
)
def test_a_packed_step_is_the_step(spec: FeedSpec, fields: dict[str, object]) -> None:
    feed = replace(spec, config=recipe(**fields))()
    for step in range(3):
        made = feed.step_batches(step)
        packed = pack_step(made)
        assert len(packed.memory) % 64 == 0
        assert_same(unpack_step(packed), made)
        assert_same(unpack_step(packed, torch.device("cpu")), made)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_processes_give_the_same_batches(spec: FeedSpec, num_workers: int) -> None:
    """From the middle of an epoch on; spawned after this process has used its object stores."""
    plain = spec()
    expected = [plain.step_batches(step) for step in range(3, 7)]
    random_state = torch.get_rng_state()
    config = LoaderConfig(kind="processes", num_workers=num_workers, prefetch_steps=2)
    found = list(iterate(spec, config, 3, 7))
    assert_same(found, expected)
    assert found[0].seconds.keys() == {"storage", "decode", "encode"}
    assert torch.get_rng_state().equal(random_state)


def test_threads_and_pools_give_the_same_batches(spec: FeedSpec) -> None:
    plain = spec()
    expected = [plain.step_batches(step) for step in range(2, 6)]
    assert_same(list(iterate(spec, LoaderConfig(num_workers=3), 2, 6)), expected)
    pool = Pool(spec())
    assert_same(list(iterate(spec, LoaderConfig(kind="ray"), 2, 6, pool=lambda: pool)), expected)
    assert pool.closed
    assert_same(list(iterate(spec, LoaderConfig(), 2, 6, torch.device("cpu"))), expected)


def test_an_error_of_a_process_comes_out_with_its_message(spec: FeedSpec) -> None:
    broken = replace(spec, config=recipe(micro_batch_tokens=8))
    with pytest.raises(DataError, match=r"expected a conversation of at most 8 tokens \(training\.micro_batch_tokens"):
        next(iterate(broken, LoaderConfig(kind="processes"), 0, 4))


def test_an_error_keeps_its_class_and_message_whatever_makes_it() -> None:
    error = UnknownKind("teacher", "sam3", ["sam2"])
    again = FailedStep(type(error), str(error)).error()
    assert type(again) is UnknownKind
    assert str(again) == "unknown teacher 'sam3'; known: sam2; did you mean sam2?"


class Killed:
    """Ends the process that would make the feed."""

    def __call__(self) -> TrainingFeed:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_process_that_dies_is_named() -> None:
    with pytest.raises(InfrastructureError, match=r"a process that makes batches ended: .*exited unexpectedly"):
        next(iterate(Killed(), LoaderConfig(kind="processes"), 0, 4))


def test_ray_needs_a_session(spec: FeedSpec) -> None:
    with pytest.raises(UsageError, match="expected a Ray session"):
        next(iterate(spec, LoaderConfig(kind="ray"), 0, 4))


@pytest.mark.ray
def test_actors_give_the_same_batches(spec: FeedSpec, local_ray: None) -> None:
    plain = spec()
    loader = LoaderConfig(kind="ray", num_workers=2)
    with_actors = replace(spec, config=recipe(loader=loader))
    found = list(iterate(with_actors, loader, 3, 7, pool=lambda: _FeedActors(with_actors)))
    assert_same(found, [plain.step_batches(step) for step in range(3, 7)])
    broken = replace(with_actors, config=recipe(loader=loader, micro_batch_tokens=8))
    with pytest.raises(DataError, match=r"expected a conversation of at most 8 tokens"):
        next(iterate(broken, loader, 0, 4, pool=lambda: _FeedActors(broken)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_batches_are_on_the_device_when_they_are_wanted(spec: FeedSpec, kind: str) -> None:
    """What is copied beside the step is what the CPU has, also where the step's stream is busy with other work."""
    hybrid = replace(spec, config=recipe(teacher_mode="hybrid"))
    plain, device = hybrid(), torch.device("cuda")
    work = torch.rand(2048, 2048, device=device)
    found: list[StepBatches] = []
    for step in iterate(hybrid, LoaderConfig.model_validate({"kind": kind}), 0, 6, device):
        for _ in range(20):
            work = work @ work / 1024
        batches = step.micro_batches
        assert all(batch.inputs.patches.is_cuda and batch.labels.is_cuda for batch in batches)
        assert not any(image.is_cuda for batch in batches for own in batch.missing.values() for _, _, image in own)
        assert step.seconds["host_to_device"] > 0
        found.append(replace(step, micro_batches=tuple(batch.to("cpu") for batch in batches)))
    assert_same(found, [plain.step_batches(step) for step in range(6)])
