"""Answers of commands: text with or without colour, JSON that every reader takes."""

from __future__ import annotations

import json

import pytest

from jobs.told import Told, document, tell

TOLD = Told("\x1b[32mok\x1b[0m", {"value": float("nan"), "rows": [(1, float("inf")), {"low": 0.5}]})


@pytest.mark.parametrize(("variable", "shown"), [("NO_COLOR", "ok\n"), ("FORCE_COLOR", "\x1b[32mok\x1b[0m\n")])
def test_colour_stays_where_it_is_wanted(
    variable: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "1")
    tell(TOLD, as_json=False)
    assert capsys.readouterr().out == shown


def test_numbers_that_json_does_not_know_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    tell(TOLD, as_json=True)
    shown = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert shown == {"value": None, "rows": [[1, None], {"low": 0.5}]}


def test_what_is_no_data_is_an_error_of_ours() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        document({"value": object()})
