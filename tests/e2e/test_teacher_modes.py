"""The smoke recipe with teachers beside the student: no stores, and stores that training fills."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from jobs.config import load_recipe
from jobs.display import PlainDisplay
from jobs.flow import State
from jobs.runner import RunResult, run_recipe
from storage.features import FeatureStore
from storage.manifest import Manifest, verify_manifest
from storage.objects import Objects

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(420),
    # Ray Data's settings object warns of its own old settings when it is made.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]

TERMS = {"distillation/mask2former", "distillation/sam2"}


def run_smoke(workspace: Path, *overrides: str, until: str = "train") -> RunResult:
    """Pictures and features of one by one, so that bits don't depend on who shares a batch."""
    values = [f"workspace={workspace}", "features.batch_size=1", *overrides]
    return run_recipe(load_recipe("smoke", values), PlainDisplay(io.StringIO()), until=until)


def trained(result: RunResult) -> tuple[Manifest, list[dict[str, float]]]:
    """Checkpoint and metrics of a run."""
    (url,) = [outcome.url for outcome in result.outcomes if outcome.name == "train"]
    objects = Objects.open(url)
    return verify_manifest(objects), [json.loads(line) for line in objects.read("metrics.jsonl").splitlines()]


def names(result: RunResult) -> list[str]:
    return [outcome.name for outcome in result.outcomes]


def stores(workspace: Path) -> list[FeatureStore]:
    return [FeatureStore.open(str(folder)) for folder in sorted((workspace / "features").iterdir())]


@pytest.fixture(scope="module")
def cached(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """The flow as it is by default."""
    workspace = tmp_path_factory.mktemp("modes")
    return workspace, run_smoke(workspace)


def test_online_needs_no_features(cached: tuple[Path, RunResult]) -> None:
    workspace, with_stores = cached
    before = {folder.name for folder in (workspace / "features").iterdir()}
    online = run_smoke(workspace, "training.teacher_mode=online", until="report")
    assert names(online) == ["scenes", "curate", "train", "evaluate", "report"]
    assert {folder.name for folder in (workspace / "features").iterdir()} == before
    manifest, rows = trained(online)
    reference, expected = trained(with_stores)
    assert manifest.key != reference.key
    assert set(manifest.inputs) == {"corpus", "teacher/mask2former", "teacher/sam2"}
    assert set(reference.inputs) == {"corpus", "features/mask2former", "features/sam2"}
    for name in TERMS:
        # The first step's features differ by the encoding alone, which has 30 dB.
        assert rows[0][name] == pytest.approx(expected[0][name], rel=5e-3)
    assert rows[0]["text"] == pytest.approx(expected[0]["text"], rel=1e-6)
    again = run_smoke(workspace, "training.teacher_mode=online", "training.hybrid_part_images=3", until="report")
    assert {outcome.state for outcome in again.outcomes} == {State.PRESENT}


def test_hybrid_fills_the_stores_that_cached_reads(
    cached: tuple[Path, RunResult], tmp_path_factory: pytest.TempPathFactory
) -> None:
    workspace = tmp_path_factory.mktemp("filled")
    two = ("training.num_workers=2", "training.hybrid_part_images=2", "training.micro_batch_rows=1")
    hybrid = run_smoke(workspace, "training.teacher_mode=hybrid", *two, until="report")
    calibrations = ["calibrate mask2former", "calibrate sam2"]
    assert names(hybrid) == ["scenes", "curate", *calibrations, "train", "evaluate", "report"]
    manifest, rows = trained(hybrid)
    assert set(manifest.inputs) == {"corpus", "store/mask2former", "store/sam2"}
    filled = stores(workspace)
    assert len(filled) == 2
    for store in filled:
        assert len(store) > 0
        assert len(store.parts) > 1  # each worker's own
        store.verify()
    # The same stores, by their addresses; `cached` teaches what is left and computes nothing again.
    assert [store.objects.url.split("/")[-1] for store in filled] == [
        store.objects.url.split("/")[-1] for store in stores(cached[0])
    ]
    num_parts = [len(store.parts) for store in filled]
    after = run_smoke(workspace, "training.micro_batch_rows=1")
    for number, (store, before) in enumerate(zip(stores(workspace), filled, strict=True)):
        assert [part.key for part in store.parts][: num_parts[number]] == [part.key for part in before.parts]
        assert len(store.index) == store.manifests[0].facts["num_images"] + sum(
            int(str(part.facts["num_images"])) for part in store.manifests[1:]
        )  # no image twice
    assert trained(after)[0].key != manifest.key
    expected = trained(after)[1]
    for row, other in zip(rows, expected, strict=True):
        assert {name: row[name] for name in TERMS} == pytest.approx({name: other[name] for name in TERMS}, rel=1e-5)


def test_a_full_store_is_used_in_hybrid(cached: tuple[Path, RunResult]) -> None:
    workspace, with_stores = cached
    before = [[part.key for part in store.parts] for store in stores(workspace)]
    hybrid = run_smoke(workspace, "training.teacher_mode=hybrid")
    assert [[part.key for part in store.parts] for store in stores(workspace)] == before
    rows, expected = trained(hybrid)[1], trained(with_stores)[1]
    for row, other in zip(rows, expected, strict=True):
        assert row["loss"] == other["loss"]
