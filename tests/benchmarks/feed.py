"""Benchmarks of the training feed: whether a step waits for its data, and what the data costs."""

from __future__ import annotations

from tests.benchmarks.feed_peers import feed_images_per_s_core
from tests.benchmarks.feed_stall import stall_share, stall_share_20ms
from tests.benchmarks.measuring import Benchmark

__all__ = ["BENCHMARKS"]

BENCHMARKS = {
    "stall_share": Benchmark("share of a step spent waiting, features cached on a local disk", stall_share),
    "stall_share_20ms": Benchmark("the same from object storage with 20 ms per request", stall_share_20ms),
    "feed_images_per_s_core": Benchmark("images per second and core, over .npy and WebDataset", feed_images_per_s_core),
}
