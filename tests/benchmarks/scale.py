"""Benchmarks of what grows with the number of images and teachers."""

from __future__ import annotations

from tests.benchmarks.driver_memory import driver_memory
from tests.benchmarks.many_teachers import many_teachers
from tests.benchmarks.measuring import Benchmark
from tests.benchmarks.scale_slopes import dispatch, slopes

__all__ = ["BENCHMARKS"]

BENCHMARKS = {
    "many_teachers": Benchmark("64 teachers that wait over 64 times one; what a shard costs beside", many_teachers),
    "driver_memory": Benchmark("largest memory of teaching's own process at N and 10 N images", driver_memory),
    "dispatch": Benchmark("ms of the dispatcher per shard, by the number of teachers", dispatch),
    "slopes": Benchmark("seconds, bytes and requests per image of what is done before the first forward pass", slopes),
}
