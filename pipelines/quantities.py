"""Durations, bytes and prices as people say them."""

from __future__ import annotations

__all__ = ["bytes_text", "hours_text", "seconds_text", "usd_text"]


def seconds_text(seconds: float | None) -> str:
    """A duration as people say it.

    >>> [seconds_text(s) for s in (None, 0.42, 7.6, 72.0, 4000.0)]
    ['not known', '0.4 s', '7.6 s', '1 min 12 s', '1 h 06 min']
    """
    if seconds is None:
        return "not known"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def hours_text(seconds: float) -> str:
    """A duration in hours, without the unit.

    >>> hours_text(1800.0)
    '0.5'
    """
    return f"{seconds / 3600:.3g}"


def bytes_text(number: float) -> str:
    """A size in bytes.

    >>> [bytes_text(number) for number in (4_000_000, 2_500_000_000)]
    ['4 MB', '2.5 GB']
    """
    return f"{number / 1e9:.3g} GB" if number >= 1e8 else f"{number / 1e6:.3g} MB"


def usd_text(value: float | None) -> str:
    """A price in US dollars.

    >>> [usd_text(value) for value in (4.1, None)]
    ['4.10 USD', 'not priced']
    """
    return "not priced" if value is None else f"{value:.2f} USD"
