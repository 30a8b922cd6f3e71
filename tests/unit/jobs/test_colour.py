"""Where colour is wanted, and where a line can be written again."""

from __future__ import annotations

import io

import pytest

from jobs.colour import emphasised, is_live, wants_colour


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "terminal", "pipe"),
    [
        ({}, True, False),
        ({"TERM": "xterm"}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, True, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
    ],
)
def test_colour(environment: dict[str, str], terminal: bool, pipe: bool) -> None:
    assert wants_colour(Terminal(), environment) is terminal
    assert wants_colour(io.StringIO(), environment) is pipe


@pytest.mark.parametrize(("kind", "live"), [("xterm", True), ("dumb", False), ("unknown", False)])
def test_progress_is_live_on_terminals_with_a_cursor_alone(kind: str, live: bool) -> None:
    assert is_live(Terminal(), {"TERM": kind}) is live
    assert not is_live(io.StringIO(), {"TERM": kind, "FORCE_COLOR": "1"})


def test_only_errors_are_emphasised() -> None:
    assert emphasised("error: no recipe: 'x'") == "\x1b[1;31merror:\x1b[0m no recipe: 'x'"
    assert emphasised("interrupted; the same command continues") == "interrupted; the same command continues"
