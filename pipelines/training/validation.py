"""Scores of a student while it trains: the same expressions every time, with pictures of some answers.

Questions, verdicts and scores are those of `pipelines.evaluation`. Training doesn't notice: the student
that answers is a copy, and the global random state is put back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from model.drawing import ANSWER, TRUTH, fit, side_by_side, spotlit
from model.predictor import Predictor
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from model.wordings import WordingStyle, question_of
from pipelines.evaluation.benchmarks.referring import Referring, ReferringConfig
from pipelines.evaluation.inference import answer_questions, picture_of, truth_bitmap
from pipelines.evaluation.records import Prediction, Question, Variant
from pipelines.training.config import ValidationConfig
from storage.corpus import Corpus
from storage.errors import DataError
from storage.masks import decode_mask
from storage.schema import Sample, Task

__all__ = ["Validation", "Validator", "validation_samples"]

_SHOWN_SCORES = ("cIoU", "gIoU", "N_acc", "T_acc")
_SIDE_PX = 288
"""Longer side of each of the three panels of a picture."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What one validation found."""

    scores: Mapping[str, float]
    """cIoU and gIoU, and the shares of right "no target" answers where such expressions are asked."""
    pictures: tuple[Image.Image, ...]
    """Picture, answer and truth side by side, of the same expressions every time."""


def validation_samples(corpus: Corpus, config: ValidationConfig) -> list[Sample]:
    """The referring expressions about the pictures that a validation asks about; a pure function of its seed.

    Raises:
        DataError: there are none in these splits and families.
    """
    samples = [
        sample
        for sample in corpus.samples(families=config.families, splits=config.splits)
        if sample.task is Task.REFERRING and sample.image_id is not None
    ]
    if not samples:
        raise DataError(
            f"training.validation: expected referring expressions in splits {list(config.splits)} and families "
            f"{list(config.families) if config.families else 'any'} of {corpus.objects.url}, found none; name others, "
            "or set it to null"
        )
    image_ids = sorted({str(sample.image_id) for sample in samples})
    drawn = np.random.default_rng(config.seed).permutation(len(image_ids))[: config.num_images]
    chosen = {image_ids[place] for place in drawn}
    return [sample for sample in samples if sample.image_id in chosen]


class Validator:
    """Examines students on a fixed set of expressions.

    Args:
        corpus: questions, truths and pictures.
        config: which of them.
        wordings: the student's set of sentences; the first of each task is asked.
        tokenizer: its tokenizer.
        device: where it answers.
    """

    def __init__(
        self,
        corpus: Corpus,
        config: ValidationConfig,
        wordings: WordingStyle,
        tokenizer: StudentTokenizer,
        device: torch.device,
    ) -> None:
        self._corpus, self._config, self._tokenizer, self._device = corpus, config, tokenizer, device
        self._benchmark: Referring = ReferringConfig(variants=(Variant.STANDARD,)).build()
        self._questions = self._benchmark.questions(
            validation_samples(corpus, config),
            lambda sample, turn_index: question_of(sample, turn_index, None, wordings),
        )

    def examine(self, make_student: Callable[[], PixelSail]) -> Validation:
        """Scores of a student.

        Args:
            make_student: gives a student of its own, as it would be published; building one draws random numbers.
        """
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            rows = answer_questions(
                self._questions,
                self._corpus,
                Predictor(make_student(), self._tokenizer, str(self._device)),
                {question.benchmark: self._benchmark for question in self._questions},
                questions_per_batch=self._config.questions_per_batch,
                max_new_tokens=self._config.max_new_tokens,
            )
        ratios = self._benchmark.metrics(Variant.STANDARD, rows, rows)
        scores = {name: ratios[name].value for name in _SHOWN_SCORES if name in ratios}
        return Validation(
            {name: value for name, value in scores.items() if math.isfinite(value)}, tuple(self._pictures(rows))
        )

    def _pictures(self, rows: list[Prediction]) -> list[Image.Image]:
        """Of the first expression of each picture."""
        shown: dict[str, tuple[Question, Prediction]] = {}
        for question, row in zip(self._questions, rows, strict=True):
            shown.setdefault(row.image_id, (question, row))
        return [self._picture(*pair) for pair in list(shown.values())[: self._config.num_pictures]]

    def _picture(self, question: Question, row: Prediction) -> Image.Image:
        pixels = fit(picture_of(self._corpus.image(row.image_id)), _SIDE_PX)
        masks = [decode_mask(mask) for mask in row.masks]
        answer = None if row.predicted_no_target or not masks else np.logical_or.reduce(masks)
        panels = (
            ("picture", pixels),
            ("answer", spotlit(pixels, answer, ANSWER)),
            ("truth", spotlit(pixels, truth_bitmap(question.truth), TRUTH)),
        )
        return side_by_side(panels, f"{row.expression}  (IoU {row.score:.2f})")
