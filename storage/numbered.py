"""Numbered objects of a folder, each written once: `<folder>/<number>.json`, from 1 on without gaps.

The create-only write decides who gets a number. Who loses looks again at what is newest by now, and decides anew.
"""

from __future__ import annotations

import re

from storage.errors import CorruptObject
from storage.objects import Objects

__all__ = ["NumberedObjects", "numbered_key"]


def numbered_key(folder: str, number: int, num_digits: int) -> str:
    """Key of a numbered object below the prefix of its folder."""
    return f"{folder}/{number:0{num_digits}d}.json"


class NumberedObjects:
    """The numbered objects of one folder.

    Args:
        objects: prefix above the folder.
        folder: its key.
        num_digits: digits of a number in a key, at least.
    """

    def __init__(self, objects: Objects, folder: str, num_digits: int) -> None:
        self._objects, self._folder, self._num_digits = objects, folder, num_digits
        self._form = re.compile(rf"{re.escape(folder)}/(\d{{{num_digits},}})\.json")

    def key(self, number: int) -> str:
        """Key of a number below the prefix."""
        return numbered_key(self._folder, number, self._num_digits)

    def url(self, number: int) -> str:
        """Where a number lies, for messages."""
        return f"{self._objects.url}/{self.key(number)}"

    def newest(self) -> int | None:
        """The highest number; None: there is none. Lists the folder, or looks for it where nothing can be listed."""
        return max(self._numbers(), default=None) if self._objects.can_list else self._probed()

    def newest_without_gaps(self) -> int | None:
        """As `newest`.

        Raises:
            CorruptObject: a lower number is missing; told only where the folder can be listed.
        """
        if not self._objects.can_list:
            return self._probed()
        numbers = self._numbers()
        gap = next((place for place, number in enumerate(sorted(numbers), start=1) if number != place), None)
        if gap is not None:
            raise CorruptObject(f"{self.url(gap)}: missing, though {self.key(max(numbers))} is there; restore it")
        return max(numbers, default=None)

    def read(self, number: int) -> bytes:
        """What stands under a number; raises ObjectNotFound."""
        return self._objects.read(self.key(number))

    def create(self, number: int, data: bytes) -> bool:
        """Writes a number; False if something else stands there.

        The answer to a write may be lost on its way, and its repeat then finds what it wrote itself: the same bytes
        count as written.
        """
        key = self.key(number)
        return self._objects.create(key, data) or self._objects.read(key) == data

    def _numbers(self) -> set[int]:
        """All that are there; other objects in the folder are passed over."""
        matches = [self._form.fullmatch(info.key) for info in self._objects.list(self._folder)]
        return {int(match[1]) for match in matches if match}

    def _probed(self) -> int | None:
        present, absent = 0, 1
        while self._objects.exists(self.key(absent)):
            present, absent = absent, 2 * absent
        while absent - present > 1:
            middle = (present + absent) // 2
            there = self._objects.exists(self.key(middle))
            present, absent = (middle, absent) if there else (present, middle)
        return present or None
