"""Progress: rates, remaining time, plain lines per interval."""

from __future__ import annotations

import io

import pytest

from jobs.display import Pace, PlainDisplay, TerminalDisplay, open_display, progress_line


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_units_of_an_earlier_run_do_not_count_for_the_rate() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.update(50, 100)
    assert pace.per_second is None
    assert pace.remaining_s is None
    clock.now_s += 10
    pace.update(70, 100)
    assert pace.per_second == 2.0
    assert pace.remaining_s == 15.0


def test_one_line_per_interval() -> None:
    clock, stream = Clock(), io.StringIO()
    display = PlainDisplay(stream, interval_s=5, clock=clock)
    progress = display.stage("teach sam2")
    for done in range(1, 13):
        clock.now_s += 1
        progress.update(done, 20, unit="images", loss=0.123456)
    display.note("teach sam2", "done in 12.0 s")
    assert stream.getvalue().splitlines() == [
        "teach sam2          1/20 images  loss=0.1235",
        "teach sam2          6/20 images  1/s  14.0 s to go  loss=0.1235",
        "teach sam2          11/20 images  1/s  9.0 s to go  loss=0.1235",
        "teach sam2          done in 12.0 s",
    ]


def test_a_line_without_a_total() -> None:
    pace = Pace(Clock())
    pace.update(3, 0)
    assert progress_line("curate", pace, {"rejects": 2}) == f"{'curate':<18}  3  rejects=2"


def test_no_terminal_means_plain_lines() -> None:
    stream = io.StringIO()
    with open_display(stream) as display:
        assert isinstance(display, PlainDisplay)


def test_a_terminal_shows_facts_and_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with open_display(stream) as display:
        assert isinstance(display, TerminalDisplay)
        display.stage("train").update(2, 4, unit="steps", loss=1.5)
        display.note("train", "done [not markup]")
    assert "train               done [not markup]" in stream.getvalue()
    assert "\x1b[3" not in stream.getvalue()  # no colour
