"""What records tell of stages, of runs that ended and of those that didn't."""

from __future__ import annotations

from pathlib import Path

from pipelines.recorded_runs import StageRow, log_counts, read_runs, stage_rows
from storage.objects import Objects
from storage.run_records import RecordedRun, RunFolder, read_run

_RUN = "demo-20260501T120000000-aaaaaa"


def _began(stage: str, second: int) -> dict[str, object]:
    time = f"2026-05-01T12:00:{second:02d}.000+00:00"
    return {"time": time, "kind": "stage_began", "stage": stage, "url": f"/w/{stage}/key"}


def _run(*events: dict[str, object], end: dict[str, object] | None = None) -> RecordedRun:
    piece = {"time": "2026-05-01T12:01:00.000+00:00", "events": list(events)}
    return RecordedRun(_RUN, "/w/runs/" + _RUN, {}, [piece], end)


def test_stages_until_a_run_was_killed() -> None:
    ended = {"kind": "stage_ended", "stage": "curate", "state": "ran", "seconds": 4.0}
    failed = {"kind": "stage_failed", "stage": "teach sam2", "seconds": 2.0}
    rows = stage_rows(_run(_began("curate", 1), ended, _began("teach sam2", 5), failed, _began("train", 20)))
    assert rows == [
        StageRow("curate", "ran", 4.0, "/w/curate/key"),
        StageRow("teach sam2", "failed", 2.0, "/w/teach sam2/key"),
        StageRow("train", "begun", 40.0, "/w/train/key"),
    ]
    assert rows[0].key == "key"


def test_the_end_has_the_last_word() -> None:
    told = {"name": "curate", "state": "present", "seconds": None, "url": "/w/curate/key"}
    rows = stage_rows(_run(_began("curate", 1), end={"stages": [told]}))
    assert rows == [StageRow("curate", "present", None, "/w/curate/key")]


def test_lines_of_the_log_are_counted_by_their_first_line() -> None:
    line = {"kind": "log", "level": "warning", "stage": "train", "message": "slow\nat step 3"}
    other = {"kind": "log", "level": "error", "stage": None, "message": "gone"}
    assert log_counts(_run(line, other, line)) == {"warning train: slow": 2, "error : gone": 1}


def test_runs_are_read_in_order_without_those_that_are_gone(tmp_path: Path) -> None:
    workspace = Objects.open(tmp_path)
    later = _RUN.replace("120000", "130000")
    for run in (_RUN, later):
        RunFolder(workspace, run).write_start({"time": "2026-05-01T12:00:00.000+00:00"})
    found = read_runs(workspace, [later, "absent", _RUN])
    assert [run.run for run in found] == [later, _RUN]
    assert found[0] == read_run(workspace, later, with_pieces=False)
