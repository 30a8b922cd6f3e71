"""Typed access to fields of untrusted records; whatever is wrong is a `RecordError` that names the field."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

from pipelines.curation.records import RecordError
from storage.schema import RejectReason

__all__ = ["integer", "mapping", "numbers", "optional_integer", "sequence", "shown", "string", "within"]

_LARGEST = 2**53 - 1  # the largest integer that every JSON writer keeps exactly


def shown(value: object, limit: int = 80) -> str:
    """A value as it is quoted in a message: its repr without control characters, cut to `limit` characters.

    >>> shown("x" * 200, limit=10)
    "'xxxxxx..."
    """
    # Containers can be huge or nested without end: only their size is told.
    if isinstance(value, list | tuple | dict | set):
        sized = cast("list[object]", value)
        return f"{type(value).__name__} of {len(sized)}"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"int of {value.bit_length()} bits"
    if isinstance(value, str | bytes) and len(value) > limit:
        value = value[:limit]
    text = ascii(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def mapping(value: object, what: str) -> dict[str, object]:
    """`value` as a mapping.

    Raises:
        RecordError: it is something else.
    """
    if not isinstance(value, dict):
        raise RecordError(RejectReason.FIELD_INVALID, f"{what}: expected a mapping, got {shown(value)}")
    return cast("dict[str, object]", value)


def integer(record: dict[str, object], key: str, *, minimum: int = 0) -> int:
    """The whole number under `key`.

    Raises:
        RecordError: absent, no integer, below `minimum` or beyond 2**53.
    """
    value = _present(record, key)
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= _LARGEST:
        raise RecordError(RejectReason.FIELD_INVALID, f"{key}: expected an integer >= {minimum}, got {shown(value)}")
    return value


def optional_integer(record: dict[str, object], key: str, *, minimum: int = 0) -> int | None:
    """As `integer`, None where the field is absent or null."""
    return None if record.get(key) is None else integer(record, key, minimum=minimum)


def string(record: dict[str, object], key: str) -> str:
    """The text under `key`.

    Raises:
        RecordError: absent, no text, or text that isn't Unicode (lone surrogates).
    """
    value = _present(record, key)
    if not isinstance(value, str):
        raise RecordError(RejectReason.FIELD_INVALID, f"{key}: expected text, got {shown(value)}")
    if any("\ud800" <= character <= "\udfff" for character in value) if not value.isascii() else False:
        raise RecordError(RejectReason.FIELD_INVALID, f"{key}: expected valid Unicode, got {shown(value)}")
    return value


def sequence(record: dict[str, object], key: str) -> list[object]:
    """The list under `key`.

    Raises:
        RecordError: absent or no list.
    """
    value = _present(record, key)
    if not isinstance(value, list | tuple):
        raise RecordError(RejectReason.FIELD_INVALID, f"{key}: expected a list, got {shown(value)}")
    return list(cast("list[object]", value))


@contextmanager
def within(where: str) -> Generator[None]:
    """Puts the place of a part of a record before whatever is wrong with it.

    >>> with within("answers[0]"):
    ...     string({}, "category_name")
    Traceback (most recent call last):
    pipelines.curation.records.RecordError: field_invalid: answers[0]: category_name: expected in the record, but absent
    """
    try:
        yield
    except RecordError as error:
        raise RecordError(error.reason, f"{where}: {error.detail}") from None


def numbers(record: dict[str, object], key: str, count: int) -> list[float]:
    """The list of `count` finite numbers under `key`.

    Raises:
        RecordError: absent, no such list, or a number beyond 2**53.
    """
    values = sequence(record, key)
    # NaN compares false.
    if len(values) != count or not all(
        isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST
        for value in values
    ):
        what = ", ".join(shown(value) for value in values[:count]) if len(values) == count else f"{len(values)} values"
        raise RecordError(RejectReason.FIELD_INVALID, f"{key}: expected {count} finite numbers, got {what}")
    return [float(cast("int | float", value)) for value in values]


def _present(record: dict[str, object], key: str) -> object:
    if key not in record:
        raise RecordError(RejectReason.FIELD_INVALID, f"{key}: expected in the record, but absent")
    return record[key]
