"""Durations, bytes and prices as people say them."""

from __future__ import annotations

__all__ = ["bytes_text", "hours_text", "seconds_text", "usd_text"]


def seconds_text(seconds: float | None) -> str:
    """A duration as people write it.

    >>> [seconds_text(s) for s in (None, 0.42, 59.6, 72.0, 4000.0)]
    ['not known', '0.4 s', '59.6 s', '1:12 min', '1:06 h']
    """
    if seconds is None:
        return "not known"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def hours_text(seconds: float) -> str:
    """A duration in hours, without the unit.

    >>> hours_text(1800.0)
    '0.5'
    """
    return f"{seconds / 3600:.3g}"


def bytes_text(number: float) -> str:
    """A size in bytes, by the thousand.

    >>> [bytes_text(number) for number in (12, 1_500, 4_000_000, 2_510_000_000)]
    ['12 B', '1.5 kB', '4 MB', '2.51 GB']
    """
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.0f} TB"


def usd_text(value: float | None) -> str:
    """A price in US dollars.

    >>> [usd_text(value) for value in (4.1, None)]
    ['4.10 USD', 'not priced']
    """
    return "not priced" if value is None else f"{value:.2f} USD"
