"""The benchmarks of curation run once, tiny and untimed: their figures are complete."""

from __future__ import annotations

import json

from tests.benchmarks.curate import BENCHMARKS
from tests.benchmarks.measuring import Options


def test_a_source_of_many_expressions() -> None:
    figures = json.loads(json.dumps(BENCHMARKS["curate_refs"].run(Options(tiny=True))))
    assert figures["workload"]["expressions"] == 140
    assert figures["refs_per_s"] > 0
    assert figures["vs_per_item_reader"]["value"] > 0
    assert figures["peak_rss_mb"]["value"] > 50
    assert figures["cost_per_row"]["value"] > 0
    assert {"rows_140", "rows_280"} <= figures.keys()
    assert {"device", "cores", "torch", "date", "num_threads", "repeats"} <= figures["machine"].keys()
