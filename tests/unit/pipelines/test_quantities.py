"""Durations and bytes at the edges of their units."""

from __future__ import annotations

import pytest

from pipelines.quantities import bytes_text, seconds_text


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.6, "59.6 s"), (60, "1:00 min"), (3599.6, "1:00 h")])
def test_durations(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_400, "999 kB"), (999_600, "1 MB"), (5.1e15, "5,100 TB")],
)
def test_bytes(number: float, text: str) -> None:
    assert bytes_text(number) == text
