"""Cron expressions of five fields, with the one meaning that Kubernetes gives them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from storage.errors import UsageError

if TYPE_CHECKING:
    from datetime import tzinfo

__all__ = ["Cron", "parse_cron"]

_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12), ("day of the week", 0, 6))
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NAMES = {
    "month": {name: number for number, name in enumerate(_MONTHS, start=1)},
    "day of the week": {name: number for number, name in enumerate(_WEEKDAYS)},
}
_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_LONGEST = timedelta(days=4 * 366)
"""Between two times of any expression that has some, but for 29 February around 2100."""
_PART = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\d+))?")


@dataclass(frozen=True, slots=True)
class Cron:
    """When something happens: minutes, hours, days and months that match.

    Where days of the month and days of the week are both given, either is enough.
    """

    text: str
    """Five fields, as they were given."""
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int] | None
    """Of the month; None: every one."""
    months: frozenset[int]
    weekdays: frozenset[int] | None
    """0 is Sunday; None: every one."""

    def matches(self, moment: datetime) -> bool:
        """Whether something happens in this minute."""
        if moment.minute not in self.minutes or moment.hour not in self.hours or moment.month not in self.months:
            return False
        return self._is_day(moment)

    def _is_day(self, moment: datetime) -> bool:
        by_day = self.days is not None and moment.day in self.days
        by_weekday = self.weekdays is not None and moment.isoweekday() % 7 in self.weekdays
        return by_day or by_weekday or (self.days is None and self.weekdays is None)

    def following(self, moment: datetime, number: int) -> list[datetime]:
        """The next times after a moment, on the same clock; fewer where they lie more than four years ahead.

        >>> parse_cron("30 3 * * mon-fri").following(datetime(2026, 5, 1, 3, 30), 1)
        [datetime.datetime(2026, 5, 4, 3, 30)]
        """
        found: list[datetime] = []
        current = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
        while len(found) < number and current - moment < _LONGEST:
            if current.month not in self.months or not self._is_day(current):
                current = current.replace(hour=0, minute=0) + timedelta(days=1)
                continue
            if self.matches(current):
                found.append(current)
            current += timedelta(minutes=1)
        return found

    def trigger(self, zone: tzinfo | None = None) -> Any:
        """The same as a trigger of APScheduler.

        Args:
            zone: of the hours; None: this machine's.
        """
        from apscheduler.triggers.combining import OrTrigger
        from apscheduler.triggers.cron import CronTrigger

        usual = {"minute": _listed(self.minutes), "hour": _listed(self.hours), "month": _listed(self.months)}
        usual["second"] = "0"
        days: list[dict[str, str]] = []
        if self.days is not None:
            days.append({"day": _listed(self.days)})
        if self.weekdays is not None:
            # By name: APScheduler counts from Monday.
            days.append({"day_of_week": ",".join(_WEEKDAYS[number] for number in sorted(self.weekdays))})
        triggers = [CronTrigger(**usual, **given, timezone=zone) for given in days or [{}]]
        return triggers[0] if len(triggers) == 1 else OrTrigger(triggers)


def parse_cron(text: str) -> Cron:
    """Reads a cron expression: five fields of numbers, names, `*`, ranges, steps and lists, or `@daily` and the like.

    Raises:
        UsageError: anything else; the message names the field.

    >>> parse_cron("30 3 * * mon-fri").matches(datetime(2026, 5, 1, 3, 30))
    True
    """
    fields = _MACROS.get(text.strip().lower(), text).split()
    if len(fields) != len(_FIELDS):
        names = ", ".join(name for name, _, _ in _FIELDS)
        raise UsageError(f"--cron {text!r}: expected five fields ({names}), got {len(fields)}; such as '0 3 * * *'")
    minutes, hours, days, months, weekdays = (
        _values(field, name, low, high, text) for field, (name, low, high) in zip(fields, _FIELDS, strict=True)
    )
    every = (fields[2] in {"*", "?"}, fields[4] in {"*", "?"})
    return Cron(" ".join(fields), minutes, hours, None if every[0] else days, months, None if every[1] else weekdays)


def _values(field: str, name: str, low: int, high: int, text: str) -> frozenset[int]:
    names = _NAMES.get(name, {})
    found: set[int] = set()
    for part in field.replace("?", "*").lower().split(","):
        match = _PART.fullmatch(part)
        numbers = None if match is None else _span(match, names, low, high)
        if numbers is None:
            hint = "; Sunday is 0 or sun" if name == "day of the week" else ""
            raise UsageError(f"--cron {text!r}: {name}: expected numbers from {low} to {high}, got {part!r}{hint}")
        found.update(numbers)
    return frozenset(found)


def _span(match: re.Match[str], names: dict[str, int], low: int, high: int) -> range | None:
    """Numbers of one part of a list; None: it makes no sense."""
    step = 1 if match["step"] is None else int(match["step"])
    if match["first"] == "*":
        return range(low, high + 1, step) if match["last"] is None and step else None
    first = _number(match["first"], names)
    # `5/15` goes on to the end, as in Kubernetes.
    last = (first if match["step"] is None else high) if match["last"] is None else _number(match["last"], names)
    if first is None or last is None or not step or not low <= first <= last <= high:
        return None
    return range(first, last + 1, step)


def _number(word: str, names: dict[str, int]) -> int | None:
    return int(word) if word.isdigit() else names.get(word)


def _listed(numbers: frozenset[int]) -> str:
    return ",".join(str(number) for number in sorted(numbers))
