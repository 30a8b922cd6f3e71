"""Images are found in live, retired and unfinished parts alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage import feature_writer
from storage.feature_holdings import PartHolding, PartState, find_in_parts
from storage.feature_index import part_objects
from storage.feature_upkeep import compact
from storage.feature_writer import FeatureRow
from storage.klt import CALIBRATION_NAME
from storage.objects import Objects
from storage.testing import example_features, publish_example_part


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects.open(tmp_path / "store" if request.param == "local" else f"memory://{tmp_path.name}/store")


class Killed(Exception):
    """Stands for the end of the process."""


def write_unfinished(store: Objects, part: str, rows: list[FeatureRow], encoding: str) -> None:
    """A part whose process ended when all shards were written."""

    def killed(*_: object) -> None:
        raise Killed("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_writer, "_rows_table", killed)
        with pytest.raises(Killed, match="killed"):
            publish_example_part(store, part, rows, encoding)


@pytest.mark.parametrize("encoding", ["raw16", "int8", "klt"])
def test_parts_of_every_state_tell_their_images(store: Objects, encoding: str) -> None:
    rows = example_features()
    publish_example_part(store, "a", rows[:2], encoding)
    publish_example_part(store, "b", rows[2:4], encoding)
    retired = compact(store)
    write_unfinished(store, "c", rows[4:], encoding)
    found = find_in_parts(store, ["image0", "image5", "unknown"])
    assert found == sorted(
        [
            PartHolding("a", PartState.RETIRED, {"image0": "ok"}),
            PartHolding("c", PartState.UNFINISHED, {"image5": "rejected"}),
            PartHolding(retired.part or "", PartState.LIVE, {"image0": "ok"}),
        ],
        key=lambda holding: holding.part,
    )
    assert find_in_parts(store, ["unknown"]) == []


def test_an_absent_store_holds_nothing(store: Objects) -> None:
    assert find_in_parts(store, ["image0"]) == []


@pytest.mark.parametrize(("encoding", "lost"), [("int8", "zarr.json"), ("klt", CALIBRATION_NAME)])
def test_shards_that_lost_their_description_are_torn(store: Objects, encoding: str, lost: str) -> None:
    write_unfinished(store, "c", example_features(), encoding)
    part_objects(store, "c").delete(lost)
    assert find_in_parts(store, ["unknown"]) == [PartHolding("c", PartState.TORN, {})]
