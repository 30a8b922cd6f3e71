"""Images leave live, retired, unfinished and torn parts; runs that are at them are waited for."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.feature_forgetting import forget_features
from storage.feature_holdings import find_in_parts
from storage.feature_index import part_objects
from storage.feature_upkeep import compact
from storage.features import FeatureStore
from storage.leases import Leases, LeaseTimes
from storage.objects import Objects
from storage.testing import example_features, publish_example_part

TIMES = LeaseTimes(heartbeat_s=0.05, expires_after_s=0.5)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects.open(tmp_path / "store" if request.param == "local" else f"memory://{tmp_path.name}/store")


def test_what_holds_an_image_goes_and_nothing_else(store: Objects) -> None:
    rows = example_features()
    publish_example_part(store, "a", rows[:2], "int8")
    publish_example_part(store, "b", rows[2:4], "int8")
    compact(store)
    publish_example_part(store, "c", rows[4:6], "int8")
    publish_example_part(store, "torn", rows[6:], "int8")
    for key in ("manifest.json", "rows.parquet", "zarr.json"):
        part_objects(store, "torn").delete(key)
    newest = max(info.key for info in store.list("index"))
    store.delete(newest)  # as if it had never been published
    before = FeatureStore.open(store)
    done = forget_features(store, ["image0", "nothing"], times=TIMES)
    after = FeatureStore.open(store)
    assert done.num_rows == 1
    assert "image0" not in after
    assert set(after) == set(before) - {"image0"}
    assert {"a", "torn"} <= set(done.removed)
    assert set(store.folders("parts")) >= {"b", "c"}, "parts without the image stay for readers of earlier snapshots"
    assert find_in_parts(store, ["image0"]) == []
    after.verify()
    again = forget_features(store, ["image0", "nothing"], times=TIMES)
    assert (again.num_rows, again.retired, again.removed) == (0, (), ())


def test_a_run_that_is_at_an_image_is_waited_for(store: Objects) -> None:
    publish_example_part(store, "a", example_features()[:2], "int8")
    lease = Leases(store, TIMES).claim("plan", ["image1", "image7"])
    assert lease is not None
    waited: list[str] = []

    def sleep(seconds: float) -> None:
        assert seconds > 0
        if len(waited) == 2:
            lease.close()

    forget_features(store, ["image7"], on_wait=waited.append, times=TIMES, sleep=sleep)
    assert len(waited) == 2
    assert "process" in waited[0]


def test_a_run_that_is_at_other_images_is_not_waited_for(store: Objects) -> None:
    publish_example_part(store, "a", example_features()[:2], "int8")
    lease = Leases(store, TIMES).claim("plan", ["image7"])
    assert lease is not None
    with lease:
        assert forget_features(store, ["image1"], times=TIMES).num_rows == 1


def test_an_absent_store_is_left_alone(store: Objects) -> None:
    done = forget_features(store, ["image0"], times=TIMES)
    assert (done.num_rows, done.retired, done.removed) == (0, (), ())
    assert list(store.list()) == []
