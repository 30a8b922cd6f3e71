"""Cron expressions mean what Kubernetes takes them for, here and in APScheduler's hands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.cron import parse_cron
from storage.errors import UsageError

START = datetime(2026, 5, 1, tzinfo=UTC)  # a Friday


def times(text: str, number: int, start: datetime = START) -> list[str]:
    """The next times of an expression, as APScheduler finds them."""
    trigger, now, found = parse_cron(text).trigger(UTC), start, list[str]()
    previous: datetime | None = None
    for _ in range(number):
        previous = trigger.get_next_fire_time(previous, now)
        assert previous is not None
        now = previous + timedelta(microseconds=1)
        found.append(previous.strftime("%a %m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 3 * * *", ["Fri 05-01 03:00", "Sat 05-02 03:00"]),
        ("0 3 * * 0", ["Sun 05-03 03:00", "Sun 05-10 03:00"]),
        ("0 3 * * 1", ["Mon 05-04 03:00", "Mon 05-11 03:00"]),
        ("30 1 * * sat,SUN", ["Sat 05-02 01:30", "Sun 05-03 01:30"]),
        ("*/20 0 * * *", ["Fri 05-01 00:00", "Fri 05-01 00:20", "Fri 05-01 00:40", "Sat 05-02 00:00"]),
        ("50/5 23 * * *", ["Fri 05-01 23:50", "Fri 05-01 23:55"]),
        ("0 0 13 * fri", ["Fri 05-01 00:00", "Fri 05-08 00:00", "Wed 05-13 00:00"]),
        ("0 12 1 jan *", ["Fri 01-01 12:00"]),
        ("@weekly", ["Sun 05-03 00:00", "Sun 05-10 00:00"]),
        ("@hourly", ["Fri 05-01 00:00", "Fri 05-01 01:00"]),
        ("0 6-8/2 ? * mon-wed", ["Mon 05-04 06:00", "Mon 05-04 08:00", "Tue 05-05 06:00"]),
    ],
)
def test_times(text: str, expected: list[str]) -> None:
    assert times(text, len(expected)) == expected


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    step = st.integers(1, 12).map(lambda step: f"*/{step}")
    return st.one_of(
        st.just("*"), st.lists(st.one_of(number.map(str), span, step), min_size=1, max_size=3).map(",".join)
    )


EXPRESSIONS = st.tuples(_field(0, 59), _field(0, 23), _field(1, 31), st.just("*"), _field(0, 6)).map(" ".join)


@settings(max_examples=60)
@given(EXPRESSIONS, st.integers(0, 60 * 24 * 40))
def test_the_next_time_is_the_first_minute_that_matches(text: str, minutes: int) -> None:
    cron, start = parse_cron(text), START + timedelta(minutes=minutes)
    found = cron.trigger(UTC).get_next_fire_time(None, start)
    assert found is not None
    assert cron.matches(found)
    # No earlier minute matches; a field never leaves out more than a month.
    moment = max(start, found - timedelta(hours=26))
    while moment < found:
        assert not cron.matches(moment), moment
        moment += timedelta(minutes=1)


def test_hours_are_those_of_the_zone() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    found = parse_cron("0 3 * * *").trigger(berlin).get_next_fire_time(None, START)
    assert found is not None
    assert found.astimezone(UTC).hour == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 3 * *", r"expected five fields \(minute, hour, day of the month, month, day of the week\), got 4"),
        ("0 0 3 * * *", "got 6"),
        ("@reboot", "got 1"),
        ("60 3 * * *", "minute: expected numbers from 0 to 59, got '60'"),
        ("0 24 * * *", "hour: expected numbers from 0 to 23, got '24'"),
        ("0 3 0 * *", "day of the month: expected numbers from 1 to 31"),
        ("0 3 * 13 *", "month: expected"),
        ("0 3 * * 7", "day of the week: expected numbers from 0 to 6, got '7'; Sunday is 0 or sun"),
        ("0 3 * * fri-mon", "got 'fri-mon'"),
        ("*/0 3 * * *", "got '\\*/0'"),
        ("*-5 3 * * *", "got '\\*-5'"),
        ("1,,2 3 * * *", "got ''"),
        ("0 3 * * *; reboot", "got 6"),
        ("0 3 L * *", "got 'l'"),
    ],
)
def test_other_texts(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_cron(text)


def test_the_text_for_kubernetes_has_five_fields() -> None:
    assert parse_cron("@daily").text == "0 0 * * *"
    assert parse_cron(" 0  3 * *   sun ").text == "0 3 * * sun"
