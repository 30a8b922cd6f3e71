"""The student's benchmarks: speed and memory of training, decoding and answering."""

from __future__ import annotations

from tests.benchmarks.decode_cached_vs_uncached import decode_cached_vs_uncached
from tests.benchmarks.measuring import Benchmark
from tests.benchmarks.mfu import mfu
from tests.benchmarks.packed_vs_padded import packed_vs_padded
from tests.benchmarks.step_vs_eager_reference import step_vs_eager_reference
from tests.benchmarks.student_vs_stack import student_vs_stack

__all__ = ["BENCHMARKS"]

BENCHMARKS = {
    "packed_vs_padded": Benchmark("training tokens per second, packed rows over padded batches", packed_vs_padded),
    "step_vs_eager_reference": Benchmark(
        "time and memory of a training step, ours over plain eager attention with dense masks", step_vs_eager_reference
    ),
    "decode_cached_vs_uncached": Benchmark(
        "time of greedy decoding, the whole row for each token over key-value cache", decode_cached_vs_uncached
    ),
    "student_vs_stack": Benchmark(
        "parameters, latency and memory, student over language model + vision encoder + SAM2", student_vs_stack
    ),
    "mfu": Benchmark("share of the accelerator's peak in training the 0.5B shape (CUDA)", mfu),
}
