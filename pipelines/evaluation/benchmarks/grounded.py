"""Grounded captions (GCG): the whole picture described, with a mask for each phrase.

The scores are those of GLaMM's evaluation (mbzuai-oryx/groundingLMM at e74865f, `eval/gcg/evaluate.py`; its paper is
arXiv 2311.03356), except where the docstring of `metrics` says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.benchmarks.base import BenchmarkConfig, ask, plain_words, truth_of, units_by_image
from pipelines.evaluation.benchmarks.captions import bare_text, cider
from pipelines.evaluation.metrics.captions import meteor
from pipelines.evaluation.metrics.estimates import AveragePrecision, Estimate, Ratio
from pipelines.evaluation.records import AnswerLike, Prediction, Question, Truth, Variant, Verdict, Wording
from storage.masks import encode_mask, pairwise_ious
from storage.schema import Sample, Task

__all__ = ["GroundedCaption", "GroundedCaptionConfig", "greedy_pairs", "phrase_similarity", "seg_phrases"]

_FOUND = 0.5
"""IoU, and likeness of phrases, from which on a mask counts as found (as released)."""


class GroundedCaptionConfig(BenchmarkConfig):
    """Grounded captions by mask recall, mIoU, AP50, METEOR and CIDEr."""

    kind: Literal["grounded_caption"] = "grounded_caption"
    variants: tuple[Literal[Variant.STANDARD, Variant.UNTRAINED], ...] = (Variant.STANDARD,)
    """With which students it is asked."""

    def build(self) -> GroundedCaption:
        """The benchmark."""
        return GroundedCaption(self)


class GroundedCaption:
    """Asks for a description of the picture with masks."""

    def __init__(self, config: GroundedCaptionConfig) -> None:
        self._config = config
        self._name = config.name or config.kind

    def questions(self, samples: Sequence[Sample], wording: Wording) -> list[Question]:
        """One question per caption and student."""
        chosen = [sample for sample in samples if sample.task is Task.GROUNDED_CAPTION]
        return [
            ask(self._name, variant, unit, wording, truth=truth_of(unit))
            for units in units_by_image(chosen, self._config.max_images)
            for variant in self._config.variants
            for unit in units
        ]

    def judge(self, question: Question, truth: Truth, answer: AnswerLike) -> Verdict:
        """The mean IoU of masks and targets paired one to one, as the score; each mask's IoU with each target."""
        predicted = [encode_mask(np.asarray(mask, np.bool_)) for mask in answer.masks]
        if not predicted or not truth.masks:
            return Verdict(score=0.0)
        ious = pairwise_ious(predicted, truth.masks)
        pairs = greedy_pairs(ious, np.finfo(np.float64).tiny)
        score = float(np.mean([ious[pair] for pair in pairs])) if pairs else 0.0
        return Verdict(score=score, ious=tuple(ious.ravel().tolist()))

    def metrics(
        self, variant: Variant, rows: Sequence[Prediction], standard: Sequence[Prediction]
    ) -> dict[str, Estimate]:
        """The five scores, with two of them in a second form.

        - `mIoU`: masks and targets of a picture are paired one to one, the best pair first; the mean IoU of the pairs,
          then the mean over pictures. What isn't paired doesn't count, as released.
        - `AP50`: COCO's average precision at IoU 0.5 without classes. As released, every mask is equally certain, so
          that masks count in the order of pictures; `AP50_ranked` takes them by the student's certainty, which is
          what the score is meant to be.
        - `mask_recall`: targets paired with a mask of IoU 0.5 and a like phrase, over all targets. Released is a
          cosine of BERT's embeddings of 0.5, and a search that ends at the first pair whose phrases differ; here
          phrases are alike if their words are (`phrase_similarity`), which is stricter, and the search goes on. Not
          to be set beside published values. `mask_recall_iou` asks for the IoU alone.
        - `METEOR`, `CIDEr` of the caption without tags. Published METEOR is version 1.5 (Java); this is nltk's.
        """
        paired = [_found(row) for row in rows]
        targets = np.array([row.num_targets for row in rows], np.float64)
        places = np.arange(len(rows))
        return {
            "mask_recall": Ratio(places, np.array([named for named, _ in paired], np.float64), targets),
            "mask_recall_iou": Ratio(places, np.array([found for _, found in paired], np.float64), targets),
            "mIoU": Ratio.mean([row.score for row in rows]),
            "AP50": _average_precision(rows, ranked=False),
            "AP50_ranked": _average_precision(rows, ranked=True),
            "METEOR": Ratio.mean(
                [meteor(bare_text(row.answer), [bare_text(text) for text in row.truths]) for row in rows]
            ),
            "CIDEr": cider(rows),
        }


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


def phrase_similarity(first: str, second: str) -> float:
    """F1 of the words of two phrases, between 0 and 1.

    >>> phrase_similarity("the brown dog", "a brown dog")
    0.6666666666666666
    """
    one, other = set(plain_words(first)), set(plain_words(second))
    return 2 * len(one & other) / (len(one) + len(other)) if one or other else 0.0


def _matrix(row: Prediction) -> NDArray[np.float64]:
    return np.array(row.ious, np.float64).reshape(-1, row.num_targets) if row.ious else np.zeros((0, row.num_targets))


def _found(row: Prediction) -> tuple[int, int]:
    """Targets found by mask and phrase, and those found by mask alone."""
    ious = _matrix(row)
    said, meant = seg_phrases(row.answer), seg_phrases(row.truth_text)
    alike = np.zeros(ious.shape, bool)
    for place in range(min(len(said), len(ious))):
        for target in range(min(len(meant), row.num_targets)):
            alike[place, target] = phrase_similarity(said[place], meant[target]) >= _FOUND
    return len(greedy_pairs(np.where(alike, ious, 0.0), _FOUND)), len(greedy_pairs(ious, _FOUND))


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
