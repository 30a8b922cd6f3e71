"""What a prediction is shown with: the picture, what was pointed at, the truth and the answers."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any, cast

import numpy as np
import pyarrow.compute
from numpy.typing import NDArray
from PIL import Image

from model.drawing import ANSWER, PROMPT, TRUTH, Colour, fit, outlined, spotlit
from pipelines.evaluation.benchmarks.base import Truth, Unit, truth_of, with_regions
from pipelines.evaluation.inference import joined_bitmap, picture_of, truth_bitmap
from pipelines.evaluation.records import Prediction
from pipelines.image_files import image_file
from storage.corpus import Corpus
from storage.errors import DataError
from storage.masks import decode_mask

__all__ = ["PredictionGallery", "has_masks"]

pc: Any = pyarrow.compute

_KEPT_PICTURES = 4
"""Decoded, of a photograph up to hundreds of megabytes."""
_KEPT_TRUTHS = 256

Pixels = NDArray[np.uint8]
Bitmap = NDArray[np.bool_]


def has_masks(prediction: Prediction) -> bool:
    """Whether a question is answered by masks; else by words alone."""
    return prediction.num_targets > 0 or bool(prediction.masks)


class PredictionGallery:
    """Pictures of predictions. Safe to use from several threads.

    Args:
        corpus: that the questions are about.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._sample_ids: Any = None
        self._lock = threading.Lock()
        self._picture = lru_cache(_KEPT_PICTURES)(self._read_picture)
        self._truth = lru_cache(_KEPT_TRUTHS)(self._read_truth)

    def asked(self, prediction: Prediction, side_px: int) -> bytes:
        """A JPEG of the picture with what is pointed at, no larger than `side_px`.

        Raises:
            DataError: the corpus doesn't hold it, or it is damaged.
        """
        pixels = fit(self._picture(prediction.image_id), side_px)
        for prompt in prediction.prompts:
            pixels = outlined(pixels, decode_mask(prompt), PROMPT)
        return _jpeg(pixels)

    def truth(self, prediction: Prediction, side_px: int) -> bytes:
        """A JPEG with all that is outside the truth darkened; raises as `asked`."""
        truth = self._truth(prediction.truth_sample_id, prediction.truth_turn)
        return self._lit(prediction, truth_bitmap(truth), TRUTH, side_px)

    def answer(self, prediction: Prediction, side_px: int) -> bytes:
        """Likewise for the answer; raises as `asked`."""
        mask = None if prediction.predicted_no_target else joined_bitmap(prediction.masks)
        return self._lit(prediction, mask, ANSWER, side_px)

    def _lit(self, prediction: Prediction, mask: Bitmap | None, colour: Colour, side_px: int) -> bytes:
        return _jpeg(spotlit(fit(self._picture(prediction.image_id), side_px), mask, colour))

    def _read_picture(self, image_id: str) -> Image.Image:
        return picture_of(self._corpus.image(image_id))

    def _read_truth(self, sample_id: str, turn: int) -> Truth:
        with self._lock:
            if self._sample_ids is None:
                self._sample_ids = self._corpus.sample_table(["sample_id"])["sample_id"]
        row = cast(int, pc.index(self._sample_ids, sample_id).as_py())
        if row < 0:
            raise DataError(
                f"{self._corpus.objects.url}: expected sample {sample_id}, found none; --corpus names another corpus "
                "than the one that was evaluated on"
            )
        sample = self._corpus.read_samples([row])[0]
        image = self._picture(sample.image_id or "")
        return truth_of(Unit(with_regions(sample, image.height, image.width), turn))


def _jpeg(pixels: Pixels) -> bytes:
    return image_file(Image.fromarray(pixels), "JPEG", quality=88)
