"""Pictures that can be asked about: those that a browser sent, which stay in memory, and those of a corpus."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from pipelines.asking import upright_rgb
from pipelines.evaluation.inference import picture_of
from storage.corpus import Corpus
from storage.errors import UsageError
from storage.keys import bytes_key, content_key

__all__ = ["MAX_UPLOAD_BYTES", "TriedPictures"]

MAX_UPLOAD_BYTES = 32 * 1024 * 1024
"""Of a picture's file: a photograph of 50 Mpx has less as JPEG."""
_KEPT_BYTES = 512 * 1024 * 1024
"""Of decoded pictures; the latest stays whatever it takes."""

Pixels = NDArray[np.uint8]


class TriedPictures:
    """Decoded pictures by their ids. Safe to use from several threads.

    Args:
        corpus: whose pictures can be asked about as well.
    """

    def __init__(self, corpus: Corpus | None) -> None:
        self._corpus = corpus
        self._kept: OrderedDict[str, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, data: bytes) -> str:
        """Takes in a file, whatever type it is said to be of, and returns its id.

        The same file in a corpus has another id, since there it isn't turned upright.

        Raises:
            UsageError: none of the formats that are read, damaged, or with too many pixels.
        """
        picture_id = content_key(["upright", bytes_key(data)])
        self._keep(picture_id, upright_rgb("picture", data))
        return picture_id

    def pixels(self, picture_id: str) -> Pixels:
        """uint8 RGB (height, width, 3): upright if it was sent, as stored if it is the corpus's.

        Raises:
            UsageError: there is no such picture, or no longer.
            DataError: it isn't the corpus's either, or its file is damaged.
        """
        with self._lock:
            if picture_id in self._kept:
                self._kept.move_to_end(picture_id)
                return self._kept[picture_id]
        if self._corpus is None:
            raise UsageError(
                "picture: expected one that this server has seen, got another; it keeps the latest alone, so choose "
                "the file again"
            )
        pixels = np.asarray(picture_of(self._corpus.image(picture_id)))
        self._keep(picture_id, pixels)
        return pixels

    def _keep(self, picture_id: str, pixels: Pixels) -> None:
        with self._lock:
            self._kept[picture_id] = pixels
            self._kept.move_to_end(picture_id)
            while len(self._kept) > 1 and sum(own.nbytes for own in self._kept.values()) > _KEPT_BYTES:
                self._kept.popitem(last=False)
