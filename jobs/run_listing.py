"""Records of runs, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pipelines.quantities import bytes_text, hours_text, seconds_text, usd_text
from pipelines.recorded_runs import log_counts, read_runs, stage_rows
from pipelines.text_table import aligned
from storage.errors import ObjectNotFound
from storage.keys import Json
from storage.objects import Objects
from storage.run_records import RUNS, RecordedRun, find_runs, read_run
from storage.stage_notes import CodeVersion

__all__ = ["find_run", "newest_runs", "run_json", "run_text", "runs_text", "summary_json"]

_MANY = 20
"""Warnings that are shown."""


def newest_runs(workspace: str, number: int) -> list[RecordedRun]:
    """The newest runs of a workspace, the newest last.

    Args:
        workspace: URL.
        number: of runs, at most.
    """
    objects = Objects.open(workspace)
    return read_runs(objects, find_runs(objects)[-number:])


def find_run(url: str) -> RecordedRun:
    """A run by its URL, or the newest one of a workspace.

    Raises:
        ObjectNotFound: there is none.
    """
    before, _, name = url.rstrip("/").rpartition("/")
    workspace, _, folder = before.rpartition("/")
    found = read_run(Objects.open(workspace or "."), name) if folder == RUNS else None
    if found is None:
        objects = Objects.open(url)
        newest = find_runs(objects)[-1:]
        found = read_run(objects, newest[0]) if newest else None
    if found is None:
        raise ObjectNotFound(
            f"{url}: expected a workspace with recorded runs, or one of them such as WORKSPACE/runs/NAME, found none; "
            "see `sailloft runs list WORKSPACE`"
        )
    return found


def summary_json(run: RecordedRun) -> dict[str, Json]:
    """What `list` tells of a run."""
    return {
        "run": run.run,
        "url": run.url,
        "state": run.state,
        "begun": run.start.get("time"),
        "heard_of": run.heard_of,
        "exit_code": None if run.end is None else run.end.get("exit_code"),
        "error": None if run.end is None else run.end.get("error"),
        "stages": [] if run.end is None else run.end.get("stages", []),
        "costs": run.newest.get("costs"),
    }


def run_json(run: RecordedRun) -> dict[str, Json]:
    """All that is recorded of a run."""
    about = {name: run.start.get(name) for name in ("recipe", "code", "versions", "machine", "environment")}
    return {
        **summary_json(run),
        **about,
        "events": cast("list[Json]", run.events),
        "figures": run.newest.get("figures", []),
        "lines_lost": 0 if run.end is None else run.end.get("lines_lost", 0),
    }


def runs_text(runs: Sequence[RecordedRun], url: str) -> str:
    """A line per run.

    Args:
        runs: what is listed.
        url: workspace that was looked into.
    """
    if not runs:
        return f"no runs are recorded in {url}; a recipe says where its own are, as `workspace`"
    rows = [("run", "state", "stages run", "time", "CPU hours", "accelerator hours", "price")]
    for run in runs:
        costs = cast("Mapping[str, Any]", run.newest.get("costs") or {})
        stages = [] if run.end is None else run.end.get("stages", [])
        ran = sum(stage["state"] == "ran" for stage in stages)
        rows.append(
            (
                run.run,
                run.state,
                "?" if run.end is None else f"{ran} of {len(stages)}",
                seconds_text(costs.get("wall_s", 0.0)),
                hours_text(costs.get("cpu_s", 0.0)),
                hours_text(costs.get("accelerator_s", 0.0)),
                usd_text(costs.get("usd", {}).get("total")),
            )
        )
    return "\n".join(aligned(rows, right={3, 4, 5, 6}))


def run_text(run: RecordedRun) -> str:
    """What a person wants to know of a run."""
    lines = [f"{run.run}: {_state(run)}", f"  begun {run.start.get('time', 'unknown')}, heard of last {run.heard_of}"]
    if run.start:
        code = CodeVersion(**run.start["code"])
        here, packages = run.start["machine"], run.start["versions"]
        lines.append(f"  code: {code}")
        lines.append(
            f"  driver: {here['node']}, {here['processor']}, {here['num_cpus']} CPUs, {here['memory_gib']} GiB; "
            f"Python {packages['python']}, Ray {packages['ray']}, torch {packages['torch']}"
        )
    for event in run.events:
        if event["kind"] == "cluster":
            lines.append(f"  cluster: {'; '.join(map(_node, event['nodes'])) or 'no nodes'}")
    lines += ["", *_stages(run), "", *_costs(run)]
    for name, number in sorted(_counts(run, "sailloft_retries_total", "cause").items()):
        lines.append(f"  begun again: {name} {number:g} times")
    lines += _warnings(run)
    return "\n".join(lines)


def _state(run: RecordedRun) -> str:
    if run.end is None:
        return "unfinished: it goes on, or was killed"
    error = run.end.get("error")
    said = "" if error is None else f": {error['class']}: {error['message']}"
    return f"{run.state} after {seconds_text(run.end['seconds'])}, exit code {run.end['exit_code']}{said}"


def _stages(run: RecordedRun) -> list[str]:
    """A row for each stage that was begun or found."""
    rows = [
        (row.name, row.state, "" if row.seconds is None else seconds_text(row.seconds), row.url)
        for row in stage_rows(run)
    ]
    return [f"  {line}" for line in aligned([("stage", "state", "time", "output"), *rows], right={2})]


def _costs(run: RecordedRun) -> list[str]:
    costs = cast("Mapping[str, Any]", run.newest.get("costs") or {})
    if not costs:
        return []
    requests = costs["requests"]
    return [
        f"  held: {hours_text(costs['cpu_s'])} CPU hours, {hours_text(costs['accelerator_s'])} accelerator hours",
        f"  storage: {bytes_text(costs['read_bytes'])} read, {bytes_text(costs['written_bytes'])} written; "
        f"billed requests: {requests['reading']:,} reading, {requests['writing']:,} writing",
        f"  price: {usd_text(costs['usd']['total'])}",
    ]


def _warnings(run: RecordedRun) -> list[str]:
    shown = log_counts(run)
    if not shown:
        return []
    lines = ["", f"  {shown.total()} warnings and errors in the log"]
    lines += [f"    {number} x {text}" if number > 1 else f"    {text}" for text, number in shown.most_common(_MANY)]
    return lines + ([f"    and {len(shown) - _MANY} more kinds; --json has all"] if len(shown) > _MANY else [])


def _counts(run: RecordedRun, name: str, label: str) -> dict[str, float]:
    found: Counter[str] = Counter()
    for row in run.newest.get("figures", []):
        if row["name"] == name:
            found[row[label]] += row["value"]
    return dict(found)


def _node(kind: Mapping[str, Any]) -> str:
    names = {name: name.removeprefix("accelerator_type:") for name in kind if name != "nodes"} | {"memory_gib": "GiB"}
    return (
        f"{kind['nodes']} x ({', '.join(f'{kind[name]:g} {shown}' for name, shown in names.items() if name in kind)})"
    )
