"""Records of forgotten images are written once and found by one listing."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.errors import CorruptObject
from storage.forgotten import FORGOTTEN, forgotten_digest, forgotten_images, note_forgotten, read_forgotten
from storage.objects import Objects


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_records_are_written_once(kind: str, tmp_path: Path) -> None:
    workspace = Objects.open(tmp_path if kind == "local" else f"memory://{tmp_path.name}")
    first, second = "a" * 64, "b" * 64
    assert forgotten_images(workspace) == frozenset()
    assert read_forgotten(workspace, first) is None
    assert note_forgotten(workspace, first, {"reason": "asked"})
    assert not note_forgotten(workspace, first, {"reason": "another"})
    workspace.create(f"{FORGOTTEN}/README.md", b"whatever somebody puts here")
    assert read_forgotten(workspace, first) == {"reason": "asked"}
    note_forgotten(workspace, second, {})
    assert forgotten_images(workspace) == {first, second}


def test_digests_differ_from_ids_and_from_each_other() -> None:
    digests = [forgotten_digest(digit * 64) for digit in "abc"]
    assert len({*digests, *(digit * 64 for digit in "abc")}) == 6


def test_a_torn_record_is_named(tmp_path: Path) -> None:
    workspace = Objects.open(tmp_path)
    workspace.create(f"{FORGOTTEN}/{'a' * 64}.json", b"{")
    with pytest.raises(CorruptObject, match="not a record"):
        read_forgotten(workspace, "a" * 64)
