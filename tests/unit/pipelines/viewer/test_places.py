"""What lies at an address: outputs by their manifests, stores and workspaces by what they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.viewer.places import above, kind_at, store_at
from storage.errors import ObjectNotFound
from storage.objects import Objects
from tests.viewed_workspaces import ViewedWorkspace, write_viewed_workspace


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def written(root: Path) -> ViewedWorkspace:
    return write_viewed_workspace(Objects.open(root))


def test_kinds(root: Path, written: ViewedWorkspace) -> None:
    store = Objects.open(root / "features" / written.store)
    part = store.folders("parts")[0]
    found = {
        "": "workspace",
        f"curate/{written.corpus}": "corpus",
        f"train/{written.checkpoints[0]}": "checkpoint",
        f"features/{written.store}": "features",
        written.coverage_path: "teach",
        f"features/{written.store}/parts/{part}": "features",
    }
    assert {path: kind_at(Objects.open(root / path)) for path in found} == found
    places = (store, store.child(f"parts/{part}"), store.child(f"corpora/{written.coverage}"))
    assert {store_at(place) for place in places} == {store}
    assert above(store, 2) == Objects.open(root)


def test_nothing_there(root: Path, written: ViewedWorkspace, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for empty in (tmp_path, tmp_path / "absent", root / "features"):
        with pytest.raises(ObjectNotFound, match="as the command that made it printed, or a workspace"):
            kind_at(Objects.open(empty))
