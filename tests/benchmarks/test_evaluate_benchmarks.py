"""The benchmarks of evaluation run once, tiny and untimed: their figures are complete."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.evaluate import BENCHMARKS
from tests.benchmarks.measuring import Options


@pytest.mark.parametrize("name", BENCHMARKS)
def test_figures_are_complete(name: str) -> None:
    figures = json.loads(json.dumps(BENCHMARKS[name].run(Options(tiny=True))))
    assert figures["ratio"]["value"] > 0
    assert {"target", "met", "of"} <= figures["ratio"].keys()
    assert figures["workload"]
    assert {"device", "cores", "torch", "date", "num_threads", "repeats"} <= figures["machine"].keys()
