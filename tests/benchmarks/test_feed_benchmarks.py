"""The benchmarks of the feed run once, tiny and untimed: all sides give the same, and their figures are complete."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import feed_stall
from tests.benchmarks.feed import BENCHMARKS
from tests.benchmarks.feed_peers import NpyFiles, WebDatasetTar, images_of, write_peers
from tests.benchmarks.feed_workloads import demo_workload
from tests.benchmarks.measuring import Options
from tests.same_batches import assert_same

TINY = Options(tiny=True)


def run(name: str) -> Any:
    figures = json.loads(json.dumps(BENCHMARKS[name].run(TINY)))
    assert {"device", "cores", "date", "repeats"} <= figures["machine"].keys()
    return figures


@pytest.mark.parametrize("name", ["stall_share", "stall_share_20ms"])
def test_stalls(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With threads in the place of processes, which take seconds to begin; no request waits then."""
    monkeypatch.setattr(feed_stall, "_LOADER", "threads")
    monkeypatch.setattr(feed_stall, "Slow", lambda spec, _: spec)
    figures = run(name)
    assert set(figures["steps_per_s"]) == {"ready", "fed"}
    assert set(figures["loader_ms_per_step"]) == {"storage", "decode", "encode"}
    assert figures["ratio"]["target"] == ("<= 0.03" if name == "stall_share" else "<= 0.05")


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # WebDataset leaves its file open
def test_images_per_second() -> None:
    figures = run("feed_images_per_s_core")
    for peer in ("npy", "webdataset"):
        for place in ("page_cache", "disk"):
            ratio = figures["demo_klt"][f"{place}_over_{peer}"]["ratio"]
            assert ratio["of"].startswith(f"ours / {peer}")
            assert ratio["target"] == ">= 1.0"


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_peers_feed_the_same(tmp_path: Path) -> None:
    workload = demo_workload(tmp_path, 12, "raw16")
    spec, feed = workload.spec, workload.spec()
    orders = [images_of(feed, spec, step) for step in range(2)]
    for teacher, store in spec.features.items():
        write_peers(tmp_path, teacher, store, orders)
    extents = {teacher: dict.fromkeys(store, workload.shapes[teacher][1:]) for teacher, store in spec.features.items()}
    sides: tuple[Callable[[str], Any], ...] = (
        lambda teacher: NpyFiles(tmp_path / "npy" / teacher, extents[teacher]),
        lambda teacher: WebDatasetTar(tmp_path / f"{teacher}.tar", extents[teacher]),
    )
    expected = [feed.step_batches(step) for step in range(2)]
    for side in sides:
        peer = spec()
        peer._features = {teacher: side(teacher) for teacher in spec.features}
        assert_same([peer.step_batches(step) for step in range(2)], expected)
