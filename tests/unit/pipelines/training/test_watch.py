"""A whole run of one worker is watched: the output is the same, and nothing is noted twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest

from model.config import StudentConfig
from pipelines.training.config import TrainingConfig
from pipelines.training.loop import Wanted
from pipelines.training.notes import SPEED, VALIDATION, read_notes
from pipelines.training.worker import Job, Seat, run_worker
from storage.corpus import Corpus
from storage.features import FeatureStore
from storage.objects import Objects

VALIDATED = {"every_steps": 2, "splits": ["train"], "num_images": 2, "num_pictures": 1}


@pytest.fixture
def make_job(
    corpus: Corpus, features: dict[str, FeatureStore], student_config: StudentConfig, run_folder: Objects
) -> Callable[..., Job]:
    def make(name: str, **fields: object) -> Job:
        config = TrainingConfig.model_validate(
            {"num_steps": 6, "batch_rows": 4, "micro_batch_rows": 2, "log_every": 1, "checkpoint_every": 2, **fields}
        )
        stores = {teacher: store.objects.url for teacher, store in features.items()}
        output, logs = run_folder.child(f"{name}/output"), run_folder.child(f"{name}/logs")
        return Job(corpus.objects.url, stores, student_config, config, output.url, {"corpus": "c"}, logs=logs.url)

    return make


def output_of(job: Job) -> dict[str, bytes]:
    output = Objects.open(job.output)
    return {info.key: output.read(info.key) for info in output.list() if not info.key.startswith("state/")}


def rows_of(job: Job) -> list[dict[str, float]]:
    return [json.loads(line) for line in output_of(job)["metrics.jsonl"].decode().splitlines()]


def logs_of(job: Job) -> Objects:
    assert job.logs is not None
    return Objects.open(job.logs)


def stop_after(num_steps: int) -> Callable[[], Wanted]:
    asked: list[int] = []

    def wanted() -> Wanted:
        asked.append(1)
        return Wanted.STOP if len(asked) == num_steps else Wanted.NOTHING

    return wanted


@pytest.mark.parametrize("fields", [{}, {"ema_decay": 0.9}, {"lora": {"rank": 2, "dropout": 0.5}}])
def test_the_output_is_the_same_with_and_without_validation(
    make_job: Callable[..., Job], fields: Mapping[str, object]
) -> None:
    plain, watched = make_job("plain", **fields), make_job("watched", **fields, validation=VALIDATED)
    reported: list[Mapping[str, float]] = []
    assert run_worker(plain, Seat(), lambda _: None)
    assert run_worker(watched, Seat(), reported.append)
    assert output_of(watched) == output_of(plain)
    assert [row["step"] for row in reported if "validation/cIoU" in row] == [2, 4, 6]
    assert all({"samples_per_s", "stall_share", "memory_gib"} <= row.keys() for row in reported if "loss" in row)
    assert {"loss/refer_and_talk", "loss/chat"} <= {name for row in reported for name in row}
    assert read_notes(logs_of(plain), VALIDATION) == []


def test_a_run_that_stops_and_goes_on_notes_each_step_once(make_job: Callable[..., Job]) -> None:
    whole, parted = make_job("whole", validation=VALIDATED), make_job("parted", validation=VALIDATED)
    assert run_worker(whole, Seat(), lambda _: None)
    assert not run_worker(parted, Seat(), lambda _: None, stop_after(3))
    assert run_worker(parted, Seat(), lambda _: None)
    assert rows_of(parted) == rows_of(whole)
    assert output_of(parted) == output_of(whole)
    assert read_notes(logs_of(parted), VALIDATION) == read_notes(logs_of(whole), VALIDATION)
    assert [row["step"] for row in read_notes(logs_of(parted), SPEED)] == [1, 2, 3, 4, 5, 6]
    names = {info.key.split("/")[0] for info in logs_of(parted).list()}
    assert names == {"speed.jsonl", "tensorboard", "validation.jsonl"}
    assert sum(info.key.startswith("tensorboard/") for info in logs_of(parted).list()) == 2


def test_the_loss_is_the_families_loss_weighted_by_their_conversations(make_job: Callable[..., Job]) -> None:
    job, reported = make_job("families", num_steps=1), []
    assert run_worker(job, Seat(), reported.append)
    (row,) = reported
    families = [value for name, value in row.items() if name.startswith("loss/")]
    assert min(families) <= row["loss"] <= max(families)
