"""What a store holds of all that a corpus wants: one window in memory, numbers of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from pipelines.distillation.forecast import ImageCounts
from pipelines.distillation.wanted import KnownImages, WantedImages
from pipelines.distillation.windows import WantedWindows
from storage.feature_index import Snapshot
from storage.objects import Objects
from storage.stored_features import Codec

__all__ = ["Census"]

_Result = TypeVar("_Result")


class Census:
    """The images of a corpus and what a store knows of them.

    Args:
        windows: of the corpus.
        store: prefix of the store; None: there is none yet.
        codec: of the store; None together with `store`.
        look: lets `KnownImages` learn what the store holds now.
        read: gives the images of a window; tries again where `WantedWindows.wanted` fails for a moment.
    """

    snapshot: Snapshot | None = None
    """The newest state of the store that was looked at; None: an empty store."""

    def __init__(
        self,
        windows: WantedWindows,
        store: Objects | None,
        codec: Codec | None,
        look: Callable[[KnownImages], None],
        read: Callable[[int], WantedImages] | None = None,
    ) -> None:
        self._windows, self._store, self._codec = windows, store, codec
        self._look, self._read = look, read or windows.wanted
        self._counts: dict[int, ImageCounts] = {}
        self._rejected: dict[int, Mapping[str, str]] = {}
        self._number, self._known = -1, None

    def visit(self, number: int, tell: Callable[[KnownImages], _Result]) -> _Result:
        """Lets `tell` have one window, with what the store knows of it now. It must not keep it.

        The window stays in memory until another one is visited; visited again meanwhile, it isn't looked at anew.
        """
        if self._known is None or self._number != number:
            self._known = None  # before the next one is read
            known = KnownImages(self._read(number), self._store, self._codec, self._windows.tables, number)
            self._look(known)
            self._known, self._number = known, number
        result = tell(self._known)
        self._note()
        return result

    def visit_all(self, tell: Callable[[KnownImages], _Result]) -> list[_Result]:
        """Visits one window after another, backwards: the first is then in memory for whoever begins with it."""
        return [self.visit(number, tell) for number in reversed(range(len(self._windows)))][::-1]

    def counts(self) -> ImageCounts:
        """Of all windows as they were left, and of the present one as it is."""
        self._note()
        return sum(self._counts.values(), ImageCounts(0, 0, 0, 0))

    def rejected(self) -> dict[str, str]:
        """Wanted images on which the teacher failed, with the reason."""
        return {image_id: reason for found in self._rejected.values() for image_id, reason in found.items()}

    def _note(self) -> None:
        if self._known is not None:
            self._counts[self._number] = self._known.counts()
            self._rejected[self._number] = self._known.rejected
            self.snapshot = self._known.snapshot
