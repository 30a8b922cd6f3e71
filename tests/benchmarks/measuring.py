"""How figures are measured: sides in turn, medians, a fixed number of threads, memory in a fresh process."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import gc
import logging
import math
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeAlias, TypeVar

import torch

from storage.keys import Json

__all__ = [
    "Benchmark",
    "Figures",
    "NotRun",
    "Options",
    "PeakMemory",
    "Seconds",
    "alternate",
    "compared",
    "compared_pairs",
    "compared_times",
    "fixed_threads",
    "in_fresh_process",
    "judged",
    "machine",
    "median_interval",
    "resident_bytes",
    "spread",
]

Figures: TypeAlias = dict[str, Json]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_CLEAR_REFS = Path("/proc/self/clear_refs")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How benchmarks are run."""

    tiny: bool = False
    """Whether sizes are shrunk to what a test runs in seconds; such figures say nothing of speed."""
    repeats: int | None = None
    """Times that each side is run; None: as each benchmark has it."""
    num_threads: int = 1
    """Threads of torch; one, since several that wait for each other measure what else the machine does."""
    peak_flops: float | None = None
    """Peak FLOP/s of the accelerator; None: by its name."""

    def times(self, usual: int) -> int:
        """Times that each side is run."""
        return 1 if self.tiny else self.repeats or usual

    def apart(
        self, function: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Result:
        """Calls a module's function in a process of its own, or here where figures mean nothing."""
        return (function if self.tiny else partial(in_fresh_process, function))(*arguments, **named)

    @property
    def warmups(self) -> int:
        """Runs of each side before those that are timed."""
        return 0 if self.tiny else 1


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark by its name."""

    summary: str
    """What is measured, for `--help`."""
    run: Callable[[Options], Figures]
    """Measures; raises `NotRun` where this machine can't."""


class NotRun(Exception):
    """A benchmark that this machine can't run; the message says why."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Time of the runs of one side."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Of all threads of this process, so that it hardly depends on what else the machine does."""

    def rates(self, amount: float) -> Seconds:
        """How much of something was done per second."""
        return Seconds([amount / taken_s for taken_s in self.wall], [amount / taken_s for taken_s in self.cpu])


def alternate(
    sides: Mapping[str, Callable[[], object]],
    repeats: int,
    warmups: int,
    before: Callable[[], object] = lambda: None,
) -> dict[str, Seconds]:
    """Times the sides in turn (A B A B ...), so that what else the machine does meets both.

    Args:
        sides: pieces of work, by name.
        repeats: times that each is timed.
        warmups: times that each is run before.
        before: called before each run, outside the time.
    """
    seconds = {name: Seconds() for name in sides}
    for repeat in range(-warmups, repeats):
        for name, work in sides.items():
            gc.collect()
            before()
            start_s, start_cpu_s = time.perf_counter(), time.process_time()
            work()
            wall_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
            run = f"run {repeat + 1} of {repeats}" if repeat >= 0 else "warm-up"
            logger.info("%s, %s: %.3f s (%.3f s of processor)", name, run, wall_s, cpu_s)
            if repeat >= 0:
                seconds[name].wall.append(wall_s)
                seconds[name].cpu.append(cpu_s)
    return seconds


def spread(values: Sequence[float]) -> dict[str, Json]:
    """Smallest, median and largest value, to four digits.

    >>> spread([3.0, 1.0, 2.0])
    {'min': 1.0, 'median': 2.0, 'max': 3.0}
    """
    found = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: _rounded(value) for name, value in found.items()}


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median, by order statistics: it holds whatever the distribution.

    >>> median_interval(list(range(100)))
    (40, 59)
    """
    ordered = sorted(values)
    # Of n draws, the number below the median is binomial: n / 2 give or take 1.96 * sqrt(n) / 2.
    below = max(0, math.floor(len(ordered) / 2 - 0.98 * math.sqrt(len(ordered))))
    return ordered[below], ordered[-1 - below]


def compared(
    values: Mapping[str, Sequence[float]], unit: str, over: tuple[str, str]
) -> tuple[dict[str, Json], dict[str, Json]]:
    """Figures of two sides, and the ratio of their medians with the spread over pairs of neighbouring runs.

    Args:
        values: of each side, run by run.
        unit: of the values.
        over: the sides that stand above and below the line.
    """
    above, below = (values[name] for name in over)
    ratio: dict[str, Json] = {
        "of": f"{over[0]} / {over[1]}",
        "value": _rounded(statistics.median(above) / statistics.median(below)),
        "pairs": spread([first / second for first, second in zip(above, below, strict=True)]),
    }
    return {name: {"unit": unit, **spread(found)} for name, found in values.items()}, ratio


def compared_pairs(
    values: Mapping[str, Sequence[float]], unit: str, over: tuple[str, str]
) -> tuple[dict[str, Json], dict[str, Json]]:
    """`compared` by the median over pairs of neighbouring runs, with its 95 % interval.

    For differences of a few percent, which are less than what a machine's speed changes by within a minute: many short
    runs of each side, of which neighbours meet the same machine.
    """
    figures, ratio = compared(values, unit, over)
    above, below = (values[name] for name in over)
    ratios = [first / second for first, second in zip(above, below, strict=True)]
    interval = [_rounded(bound) for bound in median_interval(ratios)]
    of = f"{over[0]} / {over[1]}, median of neighbouring runs"
    return figures, {**ratio, "of": of, "value": _rounded(statistics.median(ratios)), "interval_95": interval}


def compared_times(
    seconds: Mapping[str, Seconds], unit: str, over: tuple[str, str]
) -> tuple[dict[str, Json], dict[str, Json]]:
    """`compared` by wall time, with the ratio by the processor's time beside it."""
    figures, ratio = compared({name: found.wall for name, found in seconds.items()}, unit, over)
    by_cpu = compared({name: found.cpu for name, found in seconds.items()}, unit, over)[1]
    return figures, {**ratio, "by_processor_time": by_cpu["value"]}


def judged(ratio: dict[str, Json], *, at_least: float | None = None, at_most: float | None = None) -> dict[str, Json]:
    """The ratio with its target and whether it is met."""
    value = ratio["value"]
    assert isinstance(value, float)
    met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return {**ratio, "target": f">= {at_least}" if at_most is None else f"<= {at_most}", "met": met}


def machine(options: Options, repeats: int, device: str = "cpu") -> dict[str, Json]:
    """Where and how figures were measured; no names of hosts or folders."""
    cuda = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "load_average": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
        "num_threads": options.num_threads,
        "repeats": repeats,
        "tiny": options.tiny,
    }


@contextlib.contextmanager
def fixed_threads(num_threads: int) -> Generator[None]:
    """Sets torch's number of threads, and back."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class PeakMemory:
    """The largest resident memory of this process within a `with` block, above that at its start.

    On Linux the kernel's own mark of the highest resident memory (`VmHWM`) is set back at the start, through
    `/proc/self/clear_refs`; elsewhere it is `ru_maxrss` less its value at the start, which can be too
    small where more was held before. Heap that was freed goes back to the system first, so that it isn't
    reused unseen.
    """

    method = "VmHWM, set back by /proc/self/clear_refs" if _CLEAR_REFS.exists() else "ru_maxrss"

    def __enter__(self) -> PeakMemory:
        gc.collect()
        name = ctypes.util.find_library("c")
        if name and hasattr(libc := ctypes.CDLL(name), "malloc_trim"):
            libc.malloc_trim(0)
        if _CLEAR_REFS.exists():
            _CLEAR_REFS.write_text("5")
        self.start_bytes = resident_bytes()
        return self

    def __exit__(self, *error: object) -> None:
        self.peak_bytes = _peak_bytes() - self.start_bytes


def resident_bytes() -> int:
    """Resident memory of this process (elsewhere than on Linux the largest so far)."""
    return _status("VmRSS") if _CLEAR_REFS.exists() else _peak_bytes()


def _peak_bytes() -> int:
    if _CLEAR_REFS.exists():
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def in_fresh_process(
    function: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
) -> _Result:
    """Calls a module's function in a process of its own, spawned, which imports everything anew."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **named).result()


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
