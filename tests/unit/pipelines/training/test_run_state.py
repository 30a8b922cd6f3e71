"""States that a run resumes from, on a store in memory and on a real S3 server."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.training.ema import MovingAverage
from pipelines.training.run_state import SavedParts, States, clear
from storage.errors import CorruptObject, InfrastructureError
from storage.keys import Json
from storage.manifest import verify_manifest
from storage.objects import Objects
from tests.s3_server import S3Server


def make_parts(seed: int, *, average: bool = False) -> SavedParts:
    """A model of which one layer has never had a gradient."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(2, 2))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(10 * seed + number)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    parts = SavedParts(model, {"adamw": optimizer}, MovingAverage(model, 0.5) if average else None)
    for _ in range(seed):
        optimizer.zero_grad()
        model[0](torch.ones(3)).square().sum().backward()
        optimizer.step()
        if parts.average is not None:
            parts.average.update()
    return parts


def progress(step: int) -> dict[str, Json]:
    return {"rows": [{"step": done, "loss": 1 / done} for done in range(1, step + 1)]}


def save(states: States, step: int, parts: SavedParts | None = None) -> None:
    states.save(step, parts or make_parts(step), progress(step))
    states.wait()


def folders(objects: Objects) -> set[str]:
    return {info.key.split("/")[0] for info in objects.list()}


def assert_same(found: SavedParts, expected: SavedParts) -> None:
    ours, theirs = found.tensors(), expected.tensors()
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.fixture
def states(run_folder: Objects) -> Iterator[States]:
    clear(run_folder)
    yield States(run_folder)
    clear(run_folder)


@pytest.mark.parametrize("average", [False, True])
def test_round_trip(states: States, *, average: bool) -> None:
    saved = make_parts(3, average=average)
    save(states, 3, saved)
    found = make_parts(0, average=average)
    assert states.load(found) == {**progress(3), "step": 3}
    assert_same(found, saved)
    kept = {name.split("/")[2] for name in found.tensors() if name.startswith("optimizer/")}
    assert kept == {"0.weight", "0.bias"}, "what never had a gradient must have no state"
    for parts in (found, saved):  # and both go on alike
        parts.model.zero_grad()
        parts.model[0](torch.ones(3)).sum().backward()  # type: ignore[index]
        parts.optimizers["adamw"].step()
    assert_same(found, saved)
    assert saved.optimizers["adamw"].param_groups[0]["lr"] == 0.1


def test_round_trip_on_s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    states = States(Objects.open(f"s3://{s3_server.bucket}/state-{secrets.token_hex(4)}"), kept=1)
    for step in (2, 3):
        save(states, step)
    found = make_parts(0)
    assert states.load(found) == {**progress(3), "step": 3}
    assert_same(found, make_parts(3))


def test_round_trip_on_a_disk(tmp_path: Path) -> None:
    states = States(Objects.open(str(tmp_path / "state")))
    save(states, 2)
    found = make_parts(0)
    states.load(found)
    assert_same(found, make_parts(2))
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".pickle", ".metadata")]


def test_nothing_saved(states: States) -> None:
    parts = make_parts(1)
    assert states.load(parts) is None
    assert_same(parts, make_parts(1))


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_the_newest_are_kept(run_folder: Objects, kept: int) -> None:
    states = States(run_folder, kept)
    for step in (2, 4, 6, 10):
        save(states, step)
    assert folders(run_folder) == {f"step-{step:08d}" for step in (2, 4, 6, 10)[-kept:]}
    parts = make_parts(0)
    assert states.load(parts) == {**progress(10), "step": 10}
    clear(run_folder)


def test_training_goes_on_while_a_state_is_written(
    states: States, run_folder: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is saved is of the moment of the call; the next save waits for it."""
    may_write = threading.Event()
    create = Objects.create

    def slow(self: Objects, key: str, data: bytes | bytearray) -> bool:
        assert may_write.wait(20)
        return create(self, key, data)

    monkeypatch.setattr(Objects, "create", slow)
    parts = make_parts(3)
    states.save(3, parts, progress(3))
    with torch.no_grad():
        for parameter in parts.model.parameters():
            parameter.zero_()
    assert not list(run_folder.list())
    threading.Timer(0.3, may_write.set).start()
    states.save(4, make_parts(4), progress(4))
    assert "step-00000003/manifest.json" in {info.key for info in run_folder.list()}
    states.wait()
    run_folder.delete("step-00000004/manifest.json")
    found = make_parts(0)
    assert states.load(found) == {**progress(3), "step": 3}
    assert_same(found, make_parts(3))


def test_a_save_that_fails_is_told_by_the_next(
    states: States, run_folder: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(states, 2)

    def full(self: Objects, key: str, data: bytes | bytearray) -> bool:
        raise InfrastructureError(f"create {key}: the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "create", full)
        states.save(4, make_parts(4), progress(4))
        with pytest.raises(InfrastructureError, match="the disk is full"):
            states.save(6, make_parts(6), progress(6))
    assert states.load(make_parts(0)) == {**progress(2), "step": 2}


@pytest.mark.parametrize("moment", range(3))
def test_a_killed_save_leaves_nothing_that_counts(
    states: States, run_folder: Objects, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Killed behind each of its writes but the last: the state before counts, and the rest is tidied away."""
    save(states, 2)
    written: list[str] = []
    create = Objects.create

    def killed(self: Objects, key: str, data: bytes | bytearray) -> bool:
        if len(written) == moment:
            raise InfrastructureError("killed")
        written.append(key)
        return create(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "create", killed)
        states.save(4, make_parts(4), progress(4))
        with pytest.raises(InfrastructureError, match="killed"):
            states.wait()
    assert len(written) == moment
    again = States(run_folder)
    assert again.load(make_parts(0)) == {**progress(2), "step": 2}
    assert folders(run_folder) == {"step-00000002"}
    save(again, 4)
    found = make_parts(0)
    again.load(found)
    assert_same(found, make_parts(4))


def test_an_attempt_leaves_no_trace_in_a_state_that_another_completed(states: States, run_folder: Objects) -> None:
    run_folder.put("step-00000004/dead-00000-00000.safetensors", b"half")
    save(states, 4)
    names = {entry.path for entry in verify_manifest(run_folder.child("step-00000004")).files}
    assert {info.key for info in run_folder.child("step-00000004").list()} == names | {"manifest.json"}


def test_of_two_attempts_at_a_step_the_first_counts(states: States, run_folder: Objects) -> None:
    save(states, 4)
    before = {info.key for info in run_folder.list() if info.key.endswith("manifest.json")}
    manifest = run_folder.read("step-00000004/manifest.json")
    save(States(run_folder), 4, make_parts(1))
    assert {info.key for info in run_folder.list() if info.key.endswith("manifest.json")} == before
    assert run_folder.read("step-00000004/manifest.json") == manifest
    found = make_parts(0)
    states.load(found)
    assert_same(found, make_parts(4))


def test_an_old_state_is_incomplete_from_its_first_deletion(
    states: States, run_folder: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run killed while it tidies up leaves no state that looks complete and isn't."""
    deleted: list[str] = []
    delete = Objects.delete

    def recorded(self: Objects, key: str) -> None:
        deleted.append(key)
        delete(self, key)

    for step in (2, 4):
        save(states, step)
    present = {info.key for info in run_folder.list("step-00000002")}
    monkeypatch.setattr(Objects, "delete", recorded)
    save(states, 6)
    assert deleted[0] == "step-00000002/manifest.json"
    assert set(deleted) == present


@pytest.mark.parametrize("at", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("file", [".safetensors", "index.json", "progress.json"])
def test_a_flipped_byte_is_found(states: States, run_folder: Objects, file: str, at: float) -> None:
    save(states, 2)
    save(states, 4)
    (name,) = [info.key for info in run_folder.list("step-00000004") if info.key.endswith(file)]
    data = bytearray(run_folder.read(name))
    data[int(at * len(data))] ^= 1
    run_folder.put(name, bytes(data))
    with pytest.raises(CorruptObject, match=r"step-00000004/\w+.*: expected .* delete the folder to go on"):
        states.load(make_parts(0))
    for info in list(run_folder.list("step-00000004")):
        run_folder.delete(info.key)
    assert states.load(make_parts(0)) == {**progress(2), "step": 2}


def test_a_state_of_another_run_is_refused(states: States) -> None:
    save(states, 4)
    with pytest.raises(CorruptObject, match=r"expected the tensors of this run, these differ: average/0\.bias"):
        states.load(make_parts(0, average=True))


def test_large_states_come_in_pieces(states: States, run_folder: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.training.state_storage._PIECE_BYTES", 40)
    save(states, 4)
    assert len([info for info in run_folder.list() if info.key.endswith(".safetensors")]) > 3
    found = make_parts(0)
    states.load(found)
    assert_same(found, make_parts(4))


def test_clear_leaves_nothing(states: States, run_folder: Objects) -> None:
    save(states, 2)
    run_folder.put("step-00000009/dead-00000-00000.safetensors", b"half")
    clear(run_folder)
    assert list(run_folder.list()) == []
