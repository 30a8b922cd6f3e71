"""Measures and prints: `python -m tests.benchmarks student --json`."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from storage.keys import Json
from tests.benchmarks.measuring import Benchmark, Figures, NotRun, Options
from tests.benchmarks.registry import SUITES, suite

_WIDTH = 140
"""Columns where the output isn't a terminal."""

logger = logging.getLogger("benchmarks")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the suites that were asked for; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    wanted = {name: benchmark for name in options.suites or SUITES for name, benchmark in suite(name).items()}
    unknown = sorted(set(options.only) - set(wanted))
    if unknown:
        logger.error("no benchmark %s; there are: %s", ", ".join(unknown), ", ".join(wanted))
        return 2
    wanted = {name: benchmark for name, benchmark in wanted.items() if not options.only or name in options.only}
    settings = Options(
        tiny=options.tiny, repeats=options.repeats, num_threads=options.threads, peak_flops=options.peak_flops
    )
    with contextlib.redirect_stdout(sys.stderr):
        figures = measured(wanted, settings)
    if options.json:
        sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    else:
        console = Console(width=None if sys.stdout.isatty() else _WIDTH)
        console.print(*as_tables(figures))
    return 0


def measured(benchmarks: Mapping[str, Benchmark], options: Options) -> Figures:
    """Figures by name; under `not_run` the reasons of those that this machine can't run."""
    figures: Figures = {}
    not_run: dict[str, Json] = {}
    for name, benchmark in benchmarks.items():
        logger.info("%s: %s", name, benchmark.summary)
        try:
            figures[name] = benchmark.run(options)
        except NotRun as reason:
            not_run[name] = str(reason)
    return {**figures, "not_run": not_run}


def as_tables(figures: Figures) -> list[Table]:
    """The ratios of all benchmarks, then the figures of each."""
    summary = Table("benchmark", "ratio", "value", "by pairs of runs", "target", "met", title="Ratios")
    tables = [summary]
    for name, found in figures.items():
        for ratio in _ratios(found):
            pairs = ratio.get("pairs")
            between = f"{pairs['min']} to {pairs['max']}" if isinstance(pairs, dict) else ""
            met = {True: "yes", False: "no"}.get(ratio.get("met") is True) if "met" in ratio else ""
            summary.add_row(name, str(ratio["of"]), str(ratio["value"]), between, str(ratio.get("target", "")), met)
        table = Table("figure", "value", title=name)
        for place, value in _lines(found):
            table.add_row(place, value)
        tables.append(table)
    return tables


def _ratios(value: Json) -> Iterator[dict[str, Json]]:
    """Every comparison within the figures of a benchmark."""
    if isinstance(value, dict):
        if "of" in value and "value" in value:
            yield value
        for inner in value.values():
            yield from _ratios(inner)


def _lines(value: Json, place: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf with the way to it; dictionaries of leaves on one line."""
    if not isinstance(value, dict):
        yield place, str(value)
    elif place and not any(isinstance(inner, dict) for inner in value.values()):
        yield place, ", ".join(f"{name} {inner}" for name, inner in value.items())
    else:
        for name, inner in value.items():
            yield from _lines(inner, f"{place}.{name}" if place else name)


def _parser() -> argparse.ArgumentParser:
    listing = "\n".join(
        f"{name}\n" + "\n".join(f"  {inner:<26} {benchmark.summary}" for inner, benchmark in suite(name).items())
        for name in SUITES
    )
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        epilog=f"suites and their benchmarks:\n{textwrap.indent(listing, '  ')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suites", nargs="*", choices=[[], *SUITES], metavar="suite", help="which to run (all)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a benchmark; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")
    parser.add_argument("--repeats", type=int, help="timed runs of each side (by benchmark)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (%(default)s)")
    parser.add_argument("--peak-flops", type=float, help="peak bf16 FLOP/s of the accelerator (by its name)")
    parser.add_argument("--tiny", action="store_true", help="shrunk sizes, to try the program out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
