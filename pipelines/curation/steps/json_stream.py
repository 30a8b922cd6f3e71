"""Reads JSON files of any size record by record, in memory that follows the largest record and not the file.

The standard library's decoder takes one value at a time out of a window of text, so that what it admits (`NaN`,
duplicate keys) stays as it is in small files; streaming parsers refuse a whole file for one `NaN`.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from typing import NoReturn, cast

from storage.errors import SourceError

__all__ = ["NoElement", "iterate_json", "iterate_json_lines"]

_CHUNK_BYTES = 2**20
_MAX_RECORD_CHARS = 2**28
"""A record that is longer than this is taken for damage."""
_NEAR_END_CHARS = 16
"""An error this close to the end of the window may be a value that goes on behind it (`tru`, `\\u00`)."""
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class NoElement:
    """A value where a list of records could be: an empty list, or something else."""

    value: object


def iterate_json(file: BufferedIOBase, file_name: str) -> Iterator[tuple[str | None, object]]:
    """The records of a JSON file.

    Args:
        file: read from where it stands.
        file_name: how messages name it.

    Yields:
        Of a list: None and each element. Of an object: each key with each element of its value where that is a list.
        `NoElement` in place of an element where a value is no list, or empty.

    Raises:
        SourceError: truncated, damaged, or nested beyond reason.
    """
    window = _Window(file, file_name)
    first = window.peek()
    if first == "[":
        yield from ((None, row) for row in window.elements_or_none())
    elif first == "{":
        yield from window.members()
    else:
        yield None, NoElement(window.value())
    window.expect_end()


def iterate_json_lines(file: BufferedIOBase, file_name: str) -> Iterator[object]:
    """The records of a JSON Lines file; empty lines count for nothing.

    Raises:
        SourceError: a value is truncated or damaged, or nested beyond reason.
    """
    window = _Window(file, file_name)
    while window.peek():
        yield window.value()


class _Window:
    """The part of a file's text that is being decoded."""

    def __init__(self, file: BufferedIOBase, file_name: str) -> None:
        self._file, self._file_name = file, file_name
        self._text, self._place = "", 0
        self._num_chars = 0  # before the window
        head = file.read(4)
        self._decoder = codecs.getincrementaldecoder(json.detect_encoding(head))()
        self._is_whole = False
        self._append(head)

    def peek(self) -> str:
        """The next character that is no white space; empty at the end of the file."""
        while True:
            found = _SPACE.match(self._text, self._place)
            self._place = found.end() if found else self._place
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._fill():
                return ""

    def value(self) -> object:
        """Decodes the next value."""
        self.peek()
        decoder = _DECODER
        while True:
            try:
                found, end = decoder.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                goes_on = error.pos >= len(self._text) - _NEAR_END_CHARS or error.msg.startswith("Unterminated string")
                if not goes_on or not self._fill():
                    self._fail(error)
            except RecursionError as error:
                self._fail(error)
            except ValueError:  # a number of more digits than Python turns into an integer
                decoder = _LENIENT
            else:
                # Behind the window a number may go on, of which `.`, `e+` and the like may already be in sight.
                if end + _NEAR_END_CHARS <= len(self._text) or not self._fill():
                    self._place = end
                    return cast("object", found)

    def elements_or_none(self) -> Iterator[object]:
        """The elements of the list that begins here; of an empty one `NoElement`."""
        self._take("[")
        if self.peek() == "]":
            self._place += 1
            yield NoElement([])
            return
        while True:
            yield self.value()
            if self._take(",", "]") == "]":
                return

    def members(self) -> Iterator[tuple[str, object]]:
        """The members of the object that begins here, lists element by element."""
        self._take("{")
        if self.peek() == "}":
            self._place += 1
            return
        while True:
            if self.peek() != '"':
                self._take('"')
            key = cast(str, self.value())
            self._take(":")
            if self.peek() == "[":
                yield from ((key, element) for element in self.elements_or_none())
            else:
                yield key, NoElement(self.value())
            if self._take(",", "}") == "}":
                return

    def expect_end(self) -> None:
        """Checks that nothing follows."""
        if self.peek():
            self._fail(json.JSONDecodeError("Extra data", self._text, self._place))

    def _take(self, *characters: str) -> str:
        found = self.peek()
        if found not in characters:
            wanted = " or ".join(repr(character) for character in characters)
            self._fail(json.JSONDecodeError(f"Expecting {wanted}", self._text, self._place))
        self._place += 1
        return found

    def _fill(self) -> bool:
        """Reads on; False at the end of the file."""
        if self._is_whole:
            return False
        waiting = len(self._text) - self._place
        if waiting > _MAX_RECORD_CHARS:
            self._fail(ValueError(f"a record of more than {_MAX_RECORD_CHARS} characters"))
        # As much again as is waiting: a long record is looked at a few times, not once per chunk.
        data = self._file.read(max(_CHUNK_BYTES, waiting))
        self._is_whole = not data
        self._append(data)
        return True

    def _append(self, data: bytes) -> None:
        try:
            text = self._decoder.decode(data, final=self._is_whole)
        except UnicodeDecodeError as error:
            self._fail(error)
        self._num_chars += self._place
        self._text, self._place = self._text[self._place :] + text, 0

    def _fail(self, error: Exception) -> NoReturn:
        place = self._num_chars + (error.pos if isinstance(error, json.JSONDecodeError) else self._place)
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise SourceError(
            f"{self._file_name}: expected JSON, got text that can't be decoded at character {place} "
            f"({type(error).__name__}: {what}); fetch the file again"
        ) from error


def _any_integer(digits: str) -> int | str:
    """An integer; of more digits than Python converts, the digits, which no field takes for a number."""
    try:
        return int(digits)
    except ValueError:
        return digits


_DECODER = json.JSONDecoder()
_LENIENT = json.JSONDecoder(parse_int=cast("type[int]", _any_integer))
