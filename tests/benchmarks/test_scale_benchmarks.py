"""The benchmarks of scale run once, tiny and untimed: their figures are complete."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.measuring import Options
from tests.benchmarks.scale import BENCHMARKS

TINY = Options(tiny=True)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_many_teachers_are_compared_with_one() -> None:
    figures = json.loads(json.dumps(BENCHMARKS["many_teachers"].run(TINY)))
    assert 0 < figures["efficiency_4"]["value"] < 4
    assert figures["overhead_per_shard_ms"]["value"] > 0
    assert figures["driver_cpu_per_shard_ms"]["median"] > 0
    assert figures["workload"]["service_ms_per_shard"] == 80.0
    assert {"device", "cores", "torch", "date", "num_threads", "repeats"} <= figures["machine"].keys()


def test_the_driver_computes_ten_parts_as_it_does_one() -> None:
    figures = json.loads(json.dumps(BENCHMARKS["driver_memory"].run(TINY)))
    few, many = figures["200_images"], figures["2000_images"]
    assert (few["taught"]["num_parts"], many["taught"]["num_parts"]) == (1, 10)
    assert (few["found_again"]["num_parts"], many["found_again"]["num_parts"]) == (0, 0)
    assert many["taught"]["peak_mb"] > 50
    assert figures["driver_memory"]["value"] >= 0


def test_slopes_are_complete() -> None:
    figures = json.loads(json.dumps({**BENCHMARKS["slopes"].run(TINY), **BENCHMARKS["dispatch"].run(TINY)}))
    for step in ("list_wanted", "look_at_store", "plan_missing", "open_corpus", "open_features"):
        assert figures[step].keys() == {"300", "3000", "per_image"}
        assert figures[step]["3000"]["seconds"] > 0
    assert figures["index_bytes_per_image_of_3000"] > 64
    assert 0 < figures["reading_ids_from_an_object_store"]["bytes_per_image"] < 10_000
    assert figures["ms_per_shard"].keys() == {"4", "16"}
