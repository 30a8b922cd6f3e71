"""Grounded captions (GCG): the whole picture described, with a mask for each phrase.

The scores are those of GLaMM's evaluation (mbzuai-oryx/groundingLMM at dd7ad1a, `eval/gcg/evaluate.py`; its paper is
arXiv 2311.03356), except where the docstring of `metrics` says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.benchmarks.base import BenchmarkConfig, ask, plain_words, truth_of, units_by_image
from pipelines.evaluation.benchmarks.captions import bare_text, cider, meteor_1_5
from pipelines.evaluation.metrics.captions import check_java, meteor
from pipelines.evaluation.metrics.estimates import AveragePrecision, Estimate, Ratio
from pipelines.evaluation.metrics.phrases import PhraseEncoder, word_f1
from pipelines.evaluation.records import Answered, Prediction, Question, Truth, Variant, Verdict, Wording
from storage.masks import pairwise_ious
from storage.schema import Sample, Task

__all__ = ["GroundedCaption", "GroundedCaptionConfig", "greedy_pairs", "seg_phrases"]

_FOUND = 0.5
"""IoU, and likeness of phrases, from which on a mask counts as found (as released)."""


class GroundedCaptionConfig(BenchmarkConfig):
    """Grounded captions by mask recall, mIoU, AP50, METEOR and CIDEr."""

    kind: Literal["grounded_caption"] = "grounded_caption"
    variants: tuple[Literal[Variant.STANDARD, Variant.UNTRAINED], ...] = (Variant.STANDARD,)
    """With which students it is asked."""
    phrase_encoder: str | None = None
    """Folder of a text encoder in transformers' format, by which `mask_recall` compares phrases as published (there it
    is bert-base-uncased). None: that score is left out. Nothing is downloaded."""
    meteor_1_5: bool = False
    """Also METEOR 1.5, as published; needs Java."""

    def build(self) -> GroundedCaption:
        """The benchmark."""
        return GroundedCaption(self)

    def check(self) -> None:
        """See `BenchmarkConfig`."""
        if self.meteor_1_5:
            check_java()
        if self.phrase_encoder is not None:
            PhraseEncoder(self.phrase_encoder)

    def asked_tasks(self) -> tuple[Task, ...]:
        """See `BenchmarkConfig`."""
        return (Task.GROUNDED_CAPTION,)


class GroundedCaption:
    """Asks for a description of the picture with masks."""

    def __init__(self, config: GroundedCaptionConfig) -> None:
        self._config = config
        self._name = config.name or config.kind
        self._encoder: PhraseEncoder | None = None

    def questions(self, samples: Sequence[Sample], wording: Wording) -> list[Question]:
        """One question per caption and student."""
        chosen = [sample for sample in samples if sample.task is Task.GROUNDED_CAPTION]
        return [
            ask(self._name, variant, unit, wording, truth=truth_of(unit))
            for units in units_by_image(chosen, self._config.max_images)
            for variant in self._config.variants
            for unit in units
        ]

    def judge(self, question: Question, truth: Truth, answer: Answered) -> Verdict:
        """The mean IoU of masks and targets paired one to one, as the score; each mask's IoU with each target."""
        if not answer.masks or not truth.masks:
            return Verdict(score=0.0)
        ious = pairwise_ious(answer.masks, truth.masks)
        pairs = greedy_pairs(ious, np.finfo(np.float64).tiny)
        score = float(np.mean([ious[pair] for pair in pairs])) if pairs else 0.0
        return Verdict(score=score, ious=tuple(ious.ravel().tolist()))

    def metrics(
        self, variant: Variant, rows: Sequence[Prediction], standard: Sequence[Prediction]
    ) -> dict[str, Estimate]:
        """The five scores, some of them in several forms.

        - `mIoU`: masks and targets of a picture are paired one to one, the best pair first; the mean IoU of the pairs,
          then the mean over pictures. What isn't paired doesn't count, as released.
        - `AP50`: COCO's average precision at IoU 0.5 without classes. As released, every mask is equally certain, so
          that masks count in the order of pictures; `AP50_ranked` takes them by the student's certainty, which is
          what the score is meant to be.
        - `mask_recall_word_F1`: targets paired with a mask of IoU 0.5 and a phrase of like words (F1 of 0.5), over all
          targets. Not the published score, which compares phrases by BERT and is less strict.
        - `mask_recall`, where `phrase_encoder` is given: the published one, a cosine of the encoder's embeddings of
          0.5, and a search that ends at the first pair whose phrases differ, as released.
        - `mask_recall_iou` asks for the IoU alone.
        - `METEOR`, `CIDEr` of the caption without tags. Published METEOR is `METEOR_1.5`; the other is nltk's.
        """
        paired = [_found(row) for row in rows]
        targets = np.array([row.num_targets for row in rows], np.float64)
        places = np.arange(len(rows))
        scores: dict[str, Estimate] = {
            "mask_recall_word_F1": Ratio(places, np.array([named for named, _ in paired], np.float64), targets),
            "mask_recall_iou": Ratio(places, np.array([found for _, found in paired], np.float64), targets),
            "mIoU": Ratio.mean([row.score for row in rows]),
            "AP50": _average_precision(rows, ranked=False),
            "AP50_ranked": _average_precision(rows, ranked=True),
            "METEOR": Ratio.mean(
                [meteor(bare_text(row.answer), [bare_text(text) for text in row.truths]) for row in rows]
            ),
            "CIDEr": cider(rows),
        }
        if self._config.phrase_encoder is not None and rows:
            encoder = self._encoder = self._encoder or PhraseEncoder(self._config.phrase_encoder)
            released = np.array([_found_as_released(row, encoder) for row in rows], np.float64)
            scores["mask_recall"] = Ratio(places, released, targets)
        if self._config.meteor_1_5 and rows:
            scores["METEOR_1.5"] = meteor_1_5(rows)
        return scores


def greedy_pairs(scores: NDArray[np.float64], least: float) -> list[tuple[int, int]]:
    """One-to-one pairs (row, column) of a matrix, the largest first, none below `least`.

    >>> greedy_pairs(np.array([[0.9, 0.8], [0.7, 0.1]]), 0.2)
    [(0, 0)]
    """
    left = scores.copy()
    pairs: list[tuple[int, int]] = []
    while left.size and float(left.max()) >= least:
        row, column = divmod(int(left.argmax()), left.shape[1])
        pairs.append((row, column))
        left[row, :] = left[:, column] = -1.0
    return pairs


def seg_phrases(text: str) -> list[str]:
    """The phrase before each `[SEG]` of a text; empty where there is none.

    >>> seg_phrases("<p> A dog </p> [SEG] and <p>two cats</p> [SEG] [SEG].")
    ['A dog', 'two cats', 'two cats']
    """
    phrases: list[str] = []
    phrase = ""
    for piece in text.split("[SEG]")[:-1]:
        found = re.findall(r"<p>(.*?)</p>", piece)
        phrase = found[-1].strip() if found else phrase
        phrases.append(phrase)
    return phrases


def _matrix(row: Prediction) -> NDArray[np.float64]:
    return np.array(row.ious, np.float64).reshape(-1, row.num_targets) if row.ious else np.zeros((0, row.num_targets))


def _found(row: Prediction) -> tuple[int, int]:
    """Targets found by mask and by a phrase with like words, and those found by mask alone."""
    ious = _matrix(row)
    said, meant = seg_phrases(row.answer), seg_phrases(row.truth_text)
    alike = np.zeros(ious.shape, bool)
    for place in range(min(len(said), len(ious))):
        for target in range(min(len(meant), row.num_targets)):
            alike[place, target] = word_f1(plain_words(said[place]), plain_words(meant[target])) >= _FOUND
    return len(greedy_pairs(np.where(alike, ious, 0.0), _FOUND)), len(greedy_pairs(ious, _FOUND))


def _found_as_released(row: Prediction, encoder: PhraseEncoder) -> int:
    """Targets found before the first pair whose phrases differ, the best masks first."""
    ious = _matrix(row).T
    alike = np.zeros(ious.shape)
    meant, said = seg_phrases(row.truth_text)[: len(ious)], seg_phrases(row.answer)[: ious.shape[1]]
    alike[: len(meant), : len(said)] = encoder.cosines(meant, said)
    pairs = greedy_pairs(ious, _FOUND)
    return next((place for place, pair in enumerate(pairs) if alike[pair] < _FOUND), len(pairs))


def _average_precision(rows: Sequence[Prediction], *, ranked: bool) -> AveragePrecision:
    places: list[int] = []
    hits: list[bool] = []
    certainty: list[float] = []
    for place, row in enumerate(rows):
        ious = _matrix(row)
        scores = np.array(row.mask_scores[: len(ious)]) if ranked else np.ones(len(ious))
        free = np.ones(row.num_targets, bool)
        for mask in np.argsort(-scores, kind="stable"):
            own = np.where(free, ious[mask], -1.0)
            target = int(own.argmax())
            hit = bool(own[target] >= _FOUND)
            free[target] &= not hit
            places.append(place)
            hits.append(hit)
            certainty.append(float(scores[mask]))
    order = np.argsort(-np.array(certainty), kind="stable")
    return AveragePrecision(
        np.arange(len(rows)),
        np.array([row.num_targets for row in rows], np.int64),
        np.array(places, np.int64)[order],
        np.array(hits, bool)[order],
    )
