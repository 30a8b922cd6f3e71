"""Records of runs: written once, found by time, readable whatever is missing of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.objects import Objects
from storage.run_records import RunFolder, find_runs, new_run_id, read_run


@pytest.fixture
def workspace(tmp_path: Path) -> Objects:
    return Objects.open(tmp_path / "w")


def test_ids_sort_by_their_time() -> None:
    first, second = new_run_id("demo", 0.0), new_run_id("demo", 61.0425)
    assert first.startswith("demo-19700101T000000000-")
    assert second.startswith("demo-19700101T000101042-")
    assert first < second
    assert new_run_id("demo", 0.0) != first


def test_runs_are_found_by_time_and_name_among_other_folders(workspace: Objects) -> None:
    names = ["b-1-19700101T000001000-aaaaaa", "a-19700101T000002000-aaaaaa", "b-1-19700101T000003000-aaaaaa"]
    for name in reversed(names):
        RunFolder(workspace, name).write_start({})
    workspace.put("runs/times/0123.json", b"{}")
    workspace.put("runs/demo-0123456789abcdef/record.json", b"{}")
    assert find_runs(workspace) == names
    assert find_runs(workspace, "b-1") == [names[0], names[2]]
    assert find_runs(workspace, "b") == []
    assert find_runs(Objects.open(f"{workspace.url}/elsewhere")) == []


def test_a_whole_record(workspace: Objects) -> None:
    run = new_run_id("demo", 0.0)
    folder = RunFolder(workspace, run)
    folder.write_start({"time": "t0"})
    for number in range(2):
        folder.write_piece({"time": f"t{number + 1}", "events": [{"kind": f"e{number}"}]})
    unfinished = read_run(workspace, run)
    assert unfinished is not None
    assert (unfinished.state, unfinished.heard_of) == ("unfinished", "t2")
    assert [event["kind"] for event in unfinished.events] == ["e0", "e1"]
    brief = read_run(workspace, run, with_pieces=False)
    assert brief is not None
    assert [piece["time"] for piece in brief.pieces] == ["t2"]
    folder.write_end({"time": "t3", "exit_code": 4})
    ended = read_run(workspace, run, with_pieces=False)
    assert ended is not None
    assert (ended.state, ended.heard_of, ended.pieces, ended.url) == ("failed", "t3", [], folder.objects.url)


@pytest.mark.parametrize(("code", "state"), [(0, "done"), (3, "failed"), (130, "interrupted"), (143, "interrupted")])
def test_states(workspace: Objects, code: int, state: str) -> None:
    RunFolder(workspace, "demo-19700101T000000000-aaaaaa").write_end({"exit_code": code})
    found = read_run(workspace, "demo-19700101T000000000-aaaaaa")
    assert found is not None
    assert found.state == state


def test_a_run_that_was_killed_at_once(workspace: Objects) -> None:
    run = "demo-19700101T000000000-aaaaaa"
    assert read_run(workspace, run) is None
    RunFolder(workspace, run).write_start({"time": "t0"})
    found = read_run(workspace, run, with_pieces=False)
    assert found is not None
    assert (found.state, found.heard_of, found.events, dict(found.newest)) == ("unfinished", "t0", [], {})


def test_nothing_is_written_over(workspace: Objects) -> None:
    run = "demo-19700101T000000000-aaaaaa"
    for time in ("first", "second"):
        RunFolder(workspace, run).write_start({"time": time})
        RunFolder(workspace, run).write_end({"time": time})
    found = read_run(workspace, run)
    assert found is not None
    assert found.start["time"] == found.heard_of == "first"
