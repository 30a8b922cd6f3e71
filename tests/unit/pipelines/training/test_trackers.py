"""Curves and pictures are read back from what each tracker wrote; a run that resumes has no point twice."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pytest
import wandb
from mlflow.exceptions import MlflowException
from PIL import Image
from pydantic import ValidationError
from tensorboardX.proto.event_pb2 import Event, SessionLog
from wandb.proto.wandb_internal_pb2 import Record

from pipelines.training.config import TrainingConfig
from pipelines.training.logbook import Logbook
from pipelines.training.notes import SPEED, VALIDATION, read_notes, training_logs
from pipelines.training.trackers import (
    LocalCopy,
    MlflowConfig,
    TensorBoardConfig,
    TrackedRun,
    Tracker,
    TrackingConfig,
    WandbConfig,
)
from pipelines.training.trackers import registry as tracker_registry
from pipelines.training.trackers.mlflow_run import MlflowTracker
from pipelines.training.validation import Validation
from storage.errors import InfrastructureError, UsageError
from storage.objects import Objects

KEY = "ab" * 32
PICTURE = Image.new("RGB", (6, 4), (255, 0, 0))


def run_at(logs: Objects, first_step: int = 0) -> TrackedRun:
    return TrackedRun(KEY, logs, first_step, {"training": {"num_steps": 8, "losses": {"text": 1.0}}})


def events_of(folder: Path) -> list[Event]:
    """All events of a folder, file after file. A record is its length, a checksum of that, the data, and theirs."""
    events: list[Event] = []
    for path in sorted(folder.glob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            events.append(Event.FromString(data[place + 12 : place + 12 + length]))
            place += 12 + length + 4
    return events


def shown(events: Sequence[Event]) -> dict[str, list[tuple[int, float]]]:
    """Curves as TensorBoard shows them: the mark of a start hides earlier points from its step on."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for event in events:
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            curves = defaultdict(
                list, {name: [p for p in points if p[0] < event.step] for name, points in curves.items()}
            )
        for value in event.summary.value:
            if value.HasField("simple_value"):
                curves[value.tag].append((event.step, round(value.simple_value, 6)))
    return dict(curves)


def interrupted(tracker: Tracker) -> None:
    """Logs steps 1 to 4; only the first two are behind a checkpoint when the run dies."""
    for step in (1, 2, 3, 4):
        tracker.log_scalars(step, {"train/loss": 1 / step, "family/refcoco": float(step)})
        tracker.log_image(step, "validation/0", PICTURE)
        if step == 2:
            tracker.flush()


def resumed(tracker: Tracker) -> None:
    """Logs steps 3 to 5, and ends."""
    for step in (3, 4, 5):
        tracker.log_scalars(step, {"train/loss": 1 / step})
        tracker.log_image(step, "validation/0", PICTURE)
    tracker.close(finished=True)


LOSS = [(step, round(1 / step, 6)) for step in range(1, 6)]


def test_tensorboard_shows_each_point_once(tmp_path: Path) -> None:
    logs = Objects.open(str(tmp_path))
    killed = TensorBoardConfig().build(run_at(logs))
    interrupted(killed)
    killed.flush()
    resumed(TensorBoardConfig().build(run_at(logs, first_step=2)))
    events = events_of(tmp_path / "tensorboard")
    assert sum(value.tag == "train/loss" for event in events for value in event.summary.value) == 7
    assert shown(events) == {"train/loss": LOSS, "family/refcoco": [(1, 1.0), (2, 2.0)]}
    killed.close(finished=False)
    pictures = [value.image for event in events for value in event.summary.value if value.tag == "validation/0"]
    assert (pictures[0].height, pictures[0].width, pictures[0].encoded_image_string[:4]) == (4, 6, b"\x89PNG")


def test_what_was_flushed_outlives_a_kill(tmp_path: Path) -> None:
    killed = TensorBoardConfig().build(run_at(Objects.open(str(tmp_path))))
    for step in range(1, 101):
        killed.log_scalars(step, {"train/loss": 1 / step})
    killed.flush()
    assert len(shown(events_of(tmp_path / "tensorboard"))["train/loss"]) == 100
    killed.close(finished=False)


def test_event_files_reach_an_object_store_at_each_flush() -> None:
    logs = Objects.open("memory://trackers/tensorboard")
    tracker = TensorBoardConfig().build(run_at(logs))
    tracker.log_scalars(1, {"train/loss": 1.0})
    tracker.flush()
    ((name, early),) = [(info.key, info.size_bytes) for info in logs.list()]
    assert name.startswith("tensorboard/events.")
    tracker.log_scalars(2, {"train/loss": 0.5})
    tracker.close(finished=True)
    assert len(logs.read(name)) > early


def test_a_local_copy_sends_what_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects.open("memory://trackers/copy")
    copy = LocalCopy(objects)
    (copy.folder / "a").mkdir()
    (copy.folder / "a" / "b").write_bytes(b"1")
    (copy.folder / "c").write_bytes(b"2")
    copy.push()
    sent: list[str] = []
    monkeypatch.setattr(Objects, "put", lambda self, key, data: sent.append(key))
    (copy.folder / "c").write_bytes(b"23")
    copy.push()
    assert sent == ["c"]
    assert objects.read("a/b") == b"1"
    copy.close()
    assert not copy.folder.exists()


def history(client: Any, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((metric.step, round(metric.value, 6)) for metric in client.get_metric_history(run_id, name))


def test_mlflow_has_one_run_with_each_point_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    logs = Objects.open(str(tmp_path))
    interrupted(MlflowConfig(experiment="pixels").build(run_at(logs)))
    resumed(MlflowConfig(experiment="pixels").build(run_at(logs, first_step=2)))
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("pixels")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["sailloft.key"] == KEY
    assert run.data.params == {"training.num_steps": "8", "training.losses.text": "1.0"}
    assert history(client, run.info.run_id, "train/loss") == LOSS
    assert history(client, run.info.run_id, "family/refcoco") == [(step, float(step)) for step in range(1, 5)]
    pictures = [item.path for item in client.list_artifacts(run.info.run_id, "images") if item.path.endswith("png")]
    assert sorted(path.split("+")[2] for path in pictures) == ["1", "2", "3", "4", "5"]


def test_mlflow_that_fails_on_the_way_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MlflowConfig(tracking_uri=tmp_path.as_uri()).build(run_at(Objects.open("memory://trackers/unused")))
    assert isinstance(tracker, MlflowTracker)
    calls: list[int] = []

    def refuse(*args: object, **kwargs: object) -> None:
        calls.append(1)
        raise MlflowException("the server is gone")

    monkeypatch.setattr(tracker._client, "log_batch", refuse)
    for step in (1, 2):
        tracker.log_scalars(step, {"train/loss": 1.0})
    tracker.close(finished=True)
    assert len(calls) == 1
    assert "training goes on without it: the server is gone" in caplog.text


def test_mlflow_that_cannot_be_reached_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InfrastructureError, match=r"MLflow at http://127\.0\.0\.1:9.*check MLFLOW_TRACKING_URI"):
        MlflowConfig().build(run_at(Objects.open("memory://trackers/none")))


def test_mlflow_wants_a_server_for_remote_workspaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UsageError, match=r"expected a tracking server.*set MLFLOW_TRACKING_URI"):
        MlflowConfig().build(run_at(Objects.open("memory://trackers/none")))


def wandb_records(data: bytes) -> Iterator[bytes]:
    """Records of an offline run's file: a log of LevelDB's format behind seven bytes of a header."""
    place, parts = 7, b""
    while place < len(data):
        left = _BLOCK - place % _BLOCK
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (_WHOLE, _LAST):
            yield parts
            parts = b""


_BLOCK, _WHOLE, _LAST = 32_768, 1, 4


def wandb_history(path: Path) -> list[dict[str, str]]:
    """Rows of an offline run's file."""
    rows: list[dict[str, str]] = []
    for data in wandb_records(path.read_bytes()):
        record = Record.FromString(data)
        if record.HasField("history"):
            rows.append({item.key or "/".join(item.nested_key): item.value_json for item in record.history.item})
    return rows


def test_wandb_stays_offline_and_bears_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    logs = Objects.open(str(tmp_path))
    first = WandbConfig(project="pixels").build(run_at(logs))
    interrupted(first)
    first.close(finished=False)
    wandb.teardown()  # waits for the process that writes
    (folder,) = (tmp_path / "wandb").glob(f"offline-run-*-{KEY}")
    rows = wandb_history(folder / f"run-{KEY}.wandb")
    assert [(int(row["_step"]), round(float(row["train/loss"]), 6)) for row in rows] == LOSS[:4]
    assert len(list(folder.glob("files/media/images/validation/0_*.png"))) == 4


def test_an_absent_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_registry, "find_spec", lambda name: None)
    for config, remedy in ((MlflowConfig(), r"sailloft\[mlflow\]"), (WandbConfig(), r"sailloft\[wandb\]")):
        with pytest.raises(UsageError, match=f"{config.kind} needs the package .*pip install '{remedy}'"):
            TrackingConfig(trackers=(config,)).check()


def test_trackers_are_named_by_kind_and_change_no_address() -> None:
    plain = TrainingConfig(num_steps=4)
    tracked = TrainingConfig.model_validate(
        {"num_steps": 4, "tracking": {"trackers": [{"kind": "wandb"}, {"kind": "mlflow", "experiment": "x"}]}}
    )
    assert tracked.hashed_fields() == plain.hashed_fields()
    assert [tracker.kind for tracker in plain.tracking.trackers] == ["tensorboard"]
    with pytest.raises(ValidationError, match="expected tags: 'tensorboard', 'mlflow', 'wandb'"):
        TrackingConfig.model_validate({"trackers": [{"kind": "comet"}]})


class Recorder:
    """A tracker that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def log_scalars(self, step: int, values: object) -> None:
        self.told.append((step, values))

    def log_image(self, step: int, name: str, image: Image.Image) -> None:
        self.told.append((step, name, image.size))

    def flush(self) -> None:
        self.told.append("flush")

    def close(self, *, finished: bool) -> None:
        self.told.append(("close", finished))


def test_the_logbook_groups_curves_and_keeps_notes_for_the_report() -> None:
    logs, recorder = training_logs(Objects.open("memory://trackers"), KEY), Recorder()
    book = Logbook(logs, [recorder])
    book.log(2, {"step": 2, "loss": 1.0, "loss/refcoco": 1.5}, {"samples_per_s": 4.0})
    book.log_validation(2, Validation({"cIoU": 0.25}, (PICTURE,)))
    book.flush()
    assert recorder.told == [
        (2, {"train/loss": 1.0, "family/refcoco": 1.5, "speed/samples_per_s": 4.0}),
        (2, {"validation/cIoU": 0.25}),
        (2, "validation/0", (6, 4)),
        "flush",
    ]
    book.log(4, {"loss": 0.5}, {"samples_per_s": 5.0})
    book.close(finished=False)
    assert recorder.told[-1] == ("close", False)
    again = Logbook(logs, [], first_step=2)
    again.log(4, {"loss": 0.5}, {"samples_per_s": 6.0})
    again.close(finished=True)
    assert read_notes(logs, SPEED) == [{"step": 2, "samples_per_s": 4.0}, {"step": 4, "samples_per_s": 6.0}]
    assert read_notes(logs, VALIDATION) == [{"step": 2, "cIoU": 0.25}]
    assert read_notes(logs, "other") == []
