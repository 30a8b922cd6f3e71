"""Figures add up over threads and processes, and are what their table says."""

from __future__ import annotations

import pickle
import threading

import pytest

from jobs.figures import Figures, FigureSums, label_of
from jobs.ledger import Ledger, Report
from pipelines.metrics import METRICS


def sums(*seconds: float, steps: int = 0, loss: float | None = None) -> FigureSums:
    figures = Figures()
    for value in seconds:
        figures.observe("train", "sailloft_step_seconds", value, {})
    if steps:
        figures.count("train", "sailloft_steps_total", steps, {"outcome": "done"})
    if loss is not None:
        figures.set("train", "sailloft_loss", loss, {})
    return figures.take()[0]


def test_names_and_kinds_fit_prometheus() -> None:
    assert all(name.startswith("sailloft_") for name in METRICS)
    assert {name for name in METRICS if name.endswith("_total")} == {
        name for name, one in METRICS.items() if one.kind == "counter"
    }
    assert all(bool(one.bounds) == (one.kind == "histogram") for one in METRICS.values())
    assert all("stage" not in one.labels for one in METRICS.values())


def test_sums_of_processes_add_up() -> None:
    total = sums(0.02, 0.3, steps=2, loss=0.5)
    total.merge(pickle.loads(pickle.dumps(sums(70.0, steps=3, loss=0.25))))
    (row,) = [row for row in total.to_json() if row["name"] == "sailloft_step_seconds"]
    assert (row["count"], row["sum"], row["smallest"], row["largest"]) == (3, 70.32, 0.02, 70.0)
    assert [row["counts"][place] for place in (0, 1, 5, 12)] == [0, 1, 1, 1]
    assert total.total("sailloft_steps_total") == 5
    assert total.gauges[label_of("sailloft_loss", "train", {})] == 0.25


def test_totals_are_over_all_other_labels() -> None:
    figures = Figures()
    for stage, scheme, amount in (("curate", "s3", 1), ("teach sam2", "s3", 2), ("teach sam2", "file", 4)):
        labels = {"scheme": scheme, "direction": "read"}
        figures.count(stage, "sailloft_storage_bytes_total", amount, labels)
    found = figures.take()[0]
    assert found.total("sailloft_storage_bytes_total") == 7
    assert found.total("sailloft_storage_bytes_total", scheme="s3") == 3
    assert found.total("sailloft_storage_bytes_total", stage="teach sam2", direction="read") == 6
    assert found.total("sailloft_storage_bytes_total", direction="written") == 0


def test_what_is_taken_out_is_gone() -> None:
    figures = Figures()
    figures.observe("train", "sailloft_step_seconds", 1.0, {})
    taken, values = figures.take()
    assert list(values.values()) == [[1.0]]
    assert taken
    again, values = figures.take()
    assert not again
    assert not values


def test_threads_lose_nothing() -> None:
    figures = Figures()

    def work() -> None:
        for _ in range(1000):
            figures.count("train", "sailloft_tokens_total", 1, {})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert figures.take()[0].total("sailloft_tokens_total") == 4000


def test_other_names_kinds_and_labels_are_refused() -> None:
    figures = Figures()
    with pytest.raises(KeyError, match="sailloft_no_such"):
        figures.count("train", "sailloft_no_such", 1, {})
    with pytest.raises(TypeError, match="sailloft_loss: expected a gauge with no labels, got a counter with no labels"):
        figures.count("train", "sailloft_loss", 1, {})
    with pytest.raises(TypeError, match="expected a counter with outcome, got a counter with reason"):
        figures.count("train", "sailloft_steps_total", 1, {"reason": "x"})


def test_a_ledger_keeps_sums_and_the_newest_lines() -> None:
    ledger = Ledger()
    ledger.add(Report(sums(steps=2), [{"message": "first"}], 1))
    ledger.add(Report(sums(steps=3), [{"message": f"{number}"} for number in range(1000)]))
    drained = ledger.drain()
    assert drained.sums.total("sailloft_steps_total") == 5
    assert (len(drained.lines), drained.lines[0], drained.num_lines_lost) == (1000, {"message": "0"}, 2)
    assert not ledger.drain()
