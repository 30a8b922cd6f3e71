"""States that a run resumes from."""

from __future__ import annotations

import re

import pytest
import torch

from pipelines.training.run_state import RunState, clear, load_newest, save
from storage.errors import CorruptObject
from storage.objects import Objects


def state(step: int) -> RunState:
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(step)))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    (weight.sum() ** 2).backward()
    optimizer.step()
    rows = [{"step": float(done), "loss": 1 / done} for done in range(1, step + 1)]
    return RunState(step, {"weight": weight.detach()}, {"adamw": optimizer.state_dict()}, rows)


def folders(objects: Objects) -> set[str]:
    return {info.key.split("/")[0] for info in objects.list()}


def test_round_trip(run_folder: Objects) -> None:
    saved = state(3)
    save(run_folder, saved)
    found = load_newest(run_folder)
    assert found is not None
    assert found.step == 3
    assert found.metrics == saved.metrics
    assert found.model["weight"].equal(saved.model["weight"])
    parameter = torch.nn.Parameter(found.model["weight"])
    optimizer = torch.optim.AdamW([parameter], lr=0.5)
    optimizer.load_state_dict(dict(found.optimizers["adamw"]))
    held = optimizer.state_dict()["state"][0]
    expected = saved.optimizers["adamw"]["state"][0]  # type: ignore[index]
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert all(torch.equal(held[name], expected[name]) for name in ("step", "exp_avg", "exp_avg_sq"))


def test_nothing_saved(run_folder: Objects) -> None:
    assert load_newest(run_folder) is None


def test_two_newest_are_kept(run_folder: Objects) -> None:
    for step in (2, 4, 6, 10):
        save(run_folder, state(step))
    assert folders(run_folder) == {"step-00000006", "step-00000010"}
    found = load_newest(run_folder)
    assert found is not None
    assert found.step == 10


def test_an_old_state_is_incomplete_from_its_first_deletion(
    run_folder: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run killed while it tidies up leaves no state that looks complete and isn't."""
    deleted: list[str] = []
    delete = Objects.delete

    def recorded(self: Objects, key: str) -> None:
        deleted.append(key)
        delete(self, key)

    for step in (2, 4):
        save(run_folder, state(step))
    monkeypatch.setattr(Objects, "delete", recorded)
    save(run_folder, state(6))
    assert deleted[0] == "step-00000002/manifest.json"
    assert set(deleted) == {f"step-00000002/{name}" for name in ("manifest.json", "state.pt", "metrics.jsonl")}


def test_an_incomplete_save_is_ignored(run_folder: Objects) -> None:
    save(run_folder, state(2))
    save(run_folder, state(4))
    run_folder.delete("step-00000004/manifest.json")
    found = load_newest(run_folder)
    assert found is not None
    assert found.step == 2
    save(run_folder, state(4))
    assert load_newest(run_folder) is not None
    assert folders(run_folder) == {"step-00000002", "step-00000004"}


def test_only_an_incomplete_save(run_folder: Objects) -> None:
    run_folder.put("step-00000001/state.pt", b"half")
    assert load_newest(run_folder) is None


@pytest.mark.parametrize("at", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("file", ["state.pt", "metrics.jsonl"])
def test_a_flipped_byte_is_found(run_folder: Objects, file: str, at: float) -> None:
    save(run_folder, state(2))
    save(run_folder, state(4))
    name = f"step-00000004/{file}"
    data = bytearray(run_folder.read(name))
    data[int(at * len(data))] ^= 1
    run_folder.put(name, bytes(data))
    with pytest.raises(CorruptObject, match=rf"step-00000004/{re.escape(file)}: expected .* delete the output"):
        load_newest(run_folder)
    for info in list(run_folder.list("step-00000004")):
        run_folder.delete(info.key)
    found = load_newest(run_folder)
    assert found is not None
    assert found.step == 2


def test_clear_leaves_nothing(run_folder: Objects) -> None:
    save(run_folder, state(2))
    run_folder.put("step-00000009/state.pt", b"half")
    clear(run_folder)
    assert list(run_folder.list()) == []
