"""The benchmarks of teaching run once, tiny and untimed: their figures are complete."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.measuring import Options
from tests.benchmarks.teach import BENCHMARKS

TINY = Options(tiny=True)


def test_planning_finds_what_is_missing() -> None:
    figures = json.loads(json.dumps(BENCHMARKS["plan_1m"].run(TINY)))
    assert figures["plan_300_images"]["num_missing"] == 30
    assert figures["plan_3000_images"]["num_missing"] == 300
    assert figures["plan_1m_images_s"]["value"] > 0
    assert figures["plan_1m_rss_mb"]["value"] > 50
    assert {"device", "cores", "torch", "date", "num_threads", "repeats"} <= figures["machine"].keys()


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_the_pipeline_is_compared_with_a_bare_loop() -> None:
    figures = json.loads(json.dumps(BENCHMARKS["pipeline_vs_bare_forward"].run(TINY)))
    assert 0 < figures["ratio"]["value"] < 1.5
    assert figures["workload"]["service_ms_per_forward"] == 20.0
    assert {"device", "cores", "torch", "date", "num_threads", "repeats"} <= figures["machine"].keys()
