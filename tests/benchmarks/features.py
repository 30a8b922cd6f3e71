"""Benchmarks of the feature store: reading, writing, requests, and what encodings take and cost."""

from __future__ import annotations

from tests.benchmarks.feature_codecs import bits_per_value, padding
from tests.benchmarks.feature_reads import feed_klt_vs_npy16_500mbs, read_cold_vs_preadv, read_warm_vs_preadv
from tests.benchmarks.feature_requests import batch16_ms_at_20ms_latency, gets_per_image
from tests.benchmarks.feature_writes import extra_memory_per_shard, reads_during_writes, write_vs_direct
from tests.benchmarks.measuring import Benchmark

__all__ = ["BENCHMARKS"]

BENCHMARKS = {
    "read_warm_vs_preadv": Benchmark("raw16 from the page cache, over preadv", read_warm_vs_preadv),
    "read_cold_vs_preadv": Benchmark("raw16 from the disk, over preadv", read_cold_vs_preadv),
    "feed_klt_vs_npy16_500mbs": Benchmark("klt over .npy at 500 MB/s", feed_klt_vs_npy16_500mbs),
    "gets_per_image": Benchmark("requests per image on S3, at random and in whole shards", gets_per_image),
    "batch16_ms_at_20ms_latency": Benchmark("16 images over HTTP, 20 ms per request", batch16_ms_at_20ms_latency),
    "write_vs_direct": Benchmark("writing a shard, flushed, over a direct write", write_vs_direct),
    "extra_memory_per_shard": Benchmark("memory of building a shard over its size", extra_memory_per_shard),
    "reads_during_writes": Benchmark("reads while a shard is written", reads_during_writes),
    "bits_per_value": Benchmark("bits per value and error of every encoding", bits_per_value),
    "padding": Benchmark("share of padding in stored bytes", padding),
}
