"""The feature store's benchmarks run once, tiny and untimed: their checks hold and their figures are complete."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from storage.feature_plan import PlannedRow
from storage.keys import Json
from tests.benchmarks import feature_writes
from tests.benchmarks.feature_workloads import FeatureMaker, photograph_grids
from tests.benchmarks.features import BENCHMARKS
from tests.benchmarks.measuring import Figures, NotRun, Options

TINY = Options(tiny=True)


def run(name: str) -> Figures:
    figures = BENCHMARKS[name].run(TINY)
    machine = figures["machine"]
    assert isinstance(machine, dict)
    assert {"device", "cores", "date", "repeats"} <= machine.keys()
    assert list(ratios(figures))
    found: Figures = json.loads(json.dumps(figures))
    return found


def ratios(value: Json) -> Iterator[dict[str, Json]]:
    if isinstance(value, dict):
        if "of" in value and "value" in value:
            yield dict(value)
        for inner in value.values():
            yield from ratios(inner)


def part(figures: Figures, *path: str) -> Json:
    found: Json = figures
    for name in path:
        assert isinstance(found, dict)
        found = found[name]
    return found


@pytest.fixture
def without_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of generated features alone, which need no folder of data."""
    monkeypatch.delenv("SAILLOFT_SHARED", raising=False)


@pytest.mark.parametrize("name", ["read_warm_vs_preadv", "read_cold_vs_preadv"])
def test_reading(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmarks.feature_reads._WORKLOADS", {"sam2_64x64": _two_small_images})
    figures = run(name)
    assert isinstance(part(figures, "sam2_64x64", "ratio", "value"), float)
    assert part(figures, "sam2_64x64", "workload", "images") == 2
    if name == "read_warm_vs_preadv":
        for peers, expected in (
            ("peers_that_verify", {"zarr-python", "tensorstore"}),
            ("peers_that_do_not", {"npy", "tar"}),
        ):
            found = part(figures, "sam2_64x64", peers)
            assert isinstance(found, dict)
            assert set(found) == expected


def _two_small_images(num_images: int) -> list[PlannedRow]:
    del num_images
    return [PlannedRow(f"{number:064x}", 8, 9) for number in range(2)]


def test_the_feed_from_a_slow_storage() -> None:
    assert isinstance(part(run("feed_klt_vs_npy16_500mbs"), "ratio", "value"), float)


def test_requests_on_s3(s3_server: object) -> None:
    """The fixture skips where there is no server, or fails in CI."""
    figures = run("gets_per_image")
    assert part(figures, "random", "value") == 1.0
    assert part(figures, "sequential", "met") is False  # of 6 images in one shard: a sixth
    assert part(figures, "first_pass", "of_which_for_shards") == 1
    assert isinstance(part(run("batch16_ms_at_20ms_latency"), "ratio", "value"), float)


def test_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_writes, "in_fresh_process", lambda function, *arguments: function(*arguments))
    assert part(run("reads_during_writes"), "ratio", "met") is True
    assert isinstance(part(run("write_vs_direct"), "ratio", "value"), float)
    assert isinstance(part(run("extra_memory_per_shard"), "ratio", "value"), float)


def test_bits_reach_their_targets_on_few_images_too(without_photographs: None) -> None:
    figures = run("bits_per_value")
    generated = "generated, spectrum k^-1.5"
    for codec, snr_db in (("klt", 30), ("klt-20db", 20)):
        assert part(figures, generated, codec, "bits", "met") is True
        found = part(figures, generated, codec, "snr_db")
        assert isinstance(found, float)
        assert found >= snr_db - 0.05
        assert part(figures, "a channel with values 200 sigma out", codec, "loss_db", "met") is True
    assert part(figures, generated, "raw16", "bits") == pytest.approx(16, abs=0.01)


def test_sizes_of_photographs_need_their_lists(without_photographs: None) -> None:
    with pytest.raises(NotRun, match="SAILLOFT_SHARED"):
        photograph_grids(3)


def test_generated_features_are_what_they_are_said_to_be() -> None:
    features = FeatureMaker(power=1.5).features(3).reshape(256, -1)
    spectrum = np.linalg.eigvalsh(np.cov(features))[::-1]
    assert features.var() == pytest.approx(1, rel=0.1)
    for k in (1, 4, 16, 64):
        assert spectrum[k - 1] / spectrum[0] == pytest.approx(k**-1.5, rel=0.25)
