"""What a command has to say: lines for people, or one JSON document for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import typer

from jobs.colour import wants_colour
from storage.keys import Json

__all__ = ["Told", "document", "say", "tell"]


@dataclass(frozen=True, slots=True)
class Told:
    """The answer of a command, in both of its forms."""

    text: str
    """Lines for people."""
    data: Mapping[str, Json]
    """The same as plain data, with full keys and plain numbers."""


def tell(told: Told, as_json: bool) -> None:
    """Writes an answer to standard output, in the form that was asked for."""
    say(document(told.data) if as_json else told.text)


def say(text: str) -> None:
    """Writes to standard output; its colours, if it has any, stay where they are wanted."""
    typer.echo(text, color=wants_colour(sys.stdout))


def document(value: object) -> str:
    """A JSON document that every reader takes: numbers that JSON doesn't know become null.

    >>> document({"cIoU": float("nan"), "num_samples": 3}).split()
    ['{', '"cIoU":', 'null,', '"num_samples":', '3', '}']
    """
    return json.dumps(_finite(value), indent=1, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast("Sequence[object]", value)]
    return value
