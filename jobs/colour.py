"""Whether colour is wanted where something is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO

__all__ = ["emphasised", "is_live", "wants_colour"]

_WITHOUT_CURSOR = ("dumb", "unknown")


def is_live(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody looks at a terminal on which a line can be written again."""
    return stream.isatty() and environment.get("TERM", "").lower() not in _WITHOUT_CURSOR


def wants_colour(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether colour is wanted: not with `NO_COLOR`, always with `FORCE_COLOR`, else on a terminal.

    Either variable counts if it is set and not empty; `NO_COLOR` goes before the other.
    """
    if environment.get("NO_COLOR"):
        return False
    return bool(environment.get("FORCE_COLOR")) or is_live(stream, environment)


def emphasised(text: str) -> str:
    """The first word of an error in bold red, on a terminal that wants colour.

    >>> emphasised("error: no such recipe")
    '\\x1b[1;31merror:\\x1b[0m no such recipe'
    """
    head, colon, rest = text.partition(":")
    return f"\x1b[1;31m{head}{colon}\x1b[0m{rest}" if head == "error" else text
