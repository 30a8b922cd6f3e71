"""Samples of a corpus at hand: found, read once, and drawn when they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from starlette.exceptions import HTTPException
from starlette.requests import Request

from pipelines.curation.cards.sample_pictures import sample_picture
from pipelines.image_files import image_file
from pipelines.viewer.corpus.tables import SampleIndex
from storage.corpus import Corpus, image_bytes
from storage.schema import Sample

__all__ = ["CARDS", "SampleShelf"]

CARDS = 48
"""Samples of a page."""
_CARD_PX = (300, 220)
_WHOLE_PX = (1100, 760)
_KEPT_PICTURES = 512
_KEPT_SAMPLES = 16 * CARDS


class SampleShelf:
    """Samples by their places. Safe to use from several threads.

    Args:
        corpus: whose they are.
        pictured: whether samples of text alone are left out of searches.
    """

    def __init__(self, corpus: Corpus, *, pictured: bool = False) -> None:
        self.corpus = corpus
        self.index = SampleIndex(corpus, pictured=pictured)
        self._drawn = lru_cache(_KEPT_PICTURES)(self._draw)
        self._kept: dict[int, Sample] = {}
        self._lock = threading.Lock()

    def row(self, request: Request) -> int:
        """Where the sample that an address names stands.

        Raises:
            HTTPException: there is none of that name.
        """
        row = self.index.row_of(request.path_params["sample_id"])
        if row is None:
            raise HTTPException(404, "There is no such sample in this corpus.")
        return row

    def read(self, rows: Sequence[int]) -> list[Sample]:
        """Samples by their places. The latest are kept: each card of a list asks for its own once more."""
        with self._lock:
            missing = [row for row in rows if row not in self._kept]
            self._kept |= dict(zip(missing, self.corpus.read_samples(missing), strict=True))
            found = [self._kept[row] for row in rows]
            for row in list(self._kept)[:-_KEPT_SAMPLES]:
                del self._kept[row]
            return found

    def card(self, row: int) -> bytes:
        """A small JPEG with the targets of the first turn outlined; raises HTTPException for text alone."""
        return self._drawn(row, 0, *_CARD_PX, filled=False)

    def whole(self, row: int, turn: int | None) -> bytes:
        """A large JPEG with the targets of a turn tinted; None: the picture alone. Raises as `card`."""
        return self._drawn(row, turn, *_WHOLE_PX, filled=turn is not None)

    def _draw(self, row: int, turn: int | None, width_px: int, height_px: int, *, filled: bool) -> bytes:
        sample = self.read([row])[0]
        if sample.image_id is None:
            raise HTTPException(404, "This sample is text alone.")
        data = image_bytes(self.corpus.image(sample.image_id))
        if turn is None:
            sample, turn = replace(sample, turns=(), prompts=()), 0
        return image_file(sample_picture(sample, data, width_px, height_px, turn, filled=filled), "JPEG", quality=88)
