"""The examples of a report: which predictions are shown, and as which pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.drawing import ANSWER, PROMPT, TRUTH, fit, outlined, spotlit
from pipelines.evaluation.benchmarks.base import Unit, truth_of
from pipelines.evaluation.inference import joined_bitmap, picture_of, truth_bitmap
from pipelines.evaluation.records import Prediction, Variant
from pipelines.feature_pictures import pca_picture
from pipelines.report.inputs import Features
from pipelines.report.pictures import SIDE_PX, data_uri
from pipelines.report.zoo import least_certain
from storage.corpus import Corpus
from storage.masks import decode_mask
from storage.schema import Mask, Task

__all__ = [
    "Card",
    "CardGroup",
    "FeatureRow",
    "Gallery",
    "feature_rows",
    "prompt_extremes",
    "prompt_groups",
    "segmentation_groups",
]

_SEGMENTATION = (
    *(Task.REFERRING.value, Task.SEMANTIC.value, Task.REASONING.value),
    Task.GROUNDED_CAPTION.value,
)
_PROMPT_TITLES = {
    Task.DESCRIPTION.value: "Describe what is pointed at",
    Task.CATEGORY.value: "Name what is pointed at",
    Task.MULTIPLE_CHOICE.value: "Choose the right answer",
    Task.VISUAL_TEXT_REFERRING.value: "Segment by pointing and words",
}


@dataclass(frozen=True, slots=True)
class Card:
    """One question with its pictures, answer and verdict.

    Attributes:
        pictures: (caption, kind, data URI); kind names the style of the caption.
        lines: further (label, text) pairs.
        verdict: short words on the score.
        good: whether the verdict is a success; None: in between.
    """

    question: str
    pictures: tuple[tuple[str, str, str], ...]
    lines: tuple[tuple[str, str], ...]
    verdict: str
    good: bool | None


@dataclass(frozen=True, slots=True)
class CardGroup:
    """Cards under one heading."""

    title: str
    about: str
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A picture beside what each teacher sees in it: (caption, data URI)."""

    pictures: tuple[tuple[str, str], ...]


class Gallery:
    """Pictures and truths of a corpus, each read once."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._pictures: dict[str, Image.Image] = {}
        self._truths: dict[tuple[str, int], NDArray[np.bool_] | None] = {}

    def load_truths(self, rows: Iterable[Prediction]) -> None:
        """Reads the truths of some predictions in one pass over the families and splits concerned."""
        wanted: dict[str, set[int]] = {}
        rows = list(rows)
        for row in rows:
            wanted.setdefault(row.truth_sample_id, set()).add(row.truth_turn)
        families, splits = {row.family for row in rows}, {row.split for row in rows}
        for sample in self._corpus.samples(families=families, splits=splits) if wanted else ():
            for turn in wanted.get(sample.sample_id, ()):
                self._truths[sample.sample_id, turn] = truth_bitmap(truth_of(Unit(sample, turn)))

    def picture(self, image_id: str) -> NDArray[np.uint8]:
        """A picture at the size that is shown."""
        if image_id not in self._pictures:
            self._pictures[image_id] = picture_of(self._corpus.image(image_id))
        return fit(self._pictures[image_id], SIDE_PX)

    def truth(self, row: Prediction) -> NDArray[np.bool_] | None:
        """The mask that a prediction was compared with; None: nothing is meant."""
        return self._truths.get((row.truth_sample_id, row.truth_turn))


def segmentation_groups(predictions: Sequence[Prediction], gallery: Gallery, num: int) -> list[CardGroup]:
    """Best, middle, worst and least certain answers to expressions, and to those that mean nothing in the picture."""
    rows = [row for row in predictions if row.variant is Variant.STANDARD and row.task in _SEGMENTATION]
    rows.sort(key=lambda row: (row.score, row.sample_id, row.turn))
    meant = [row for row in rows if not row.no_target]
    middle = len(meant) // 2
    around = sorted(range(len(meant)), key=lambda index: abs(index - middle))
    absent = sorted((row for row in rows if row.no_target), key=lambda row: row.sample_id)
    chosen = [
        ("Best", "closest to the truth", _distinct(reversed(meant), num)),
        ("Middle", "half of all answers are better, half are worse", _distinct((meant[i] for i in around), num)),
        ("Worst", "what it gets wrong", _distinct(meant, num)),
        ("Most uncertain", "by the student's own mean certainty of its mask", _distinct(least_certain(meant), num)),
        ("Nothing to find", "the sentence names what isn't there; the right answer is no mask", _distinct(absent, num)),
    ]
    gallery.load_truths(row for _, _, members in chosen for row in members)
    return [
        CardGroup(title, about, tuple(_segmentation_card(row, gallery) for row in members))
        for title, about, members in chosen
        if members
    ]


def prompt_groups(predictions: Sequence[Prediction], gallery: Gallery, num: int) -> list[CardGroup]:
    """Answers on visual prompts, drawn without regard to their score; with the moved prompt beside where asked."""
    groups: list[CardGroup] = []
    moved = {(r.benchmark, r.sample_id, r.turn): r for r in predictions if r.variant is Variant.MOVED}
    for task, title in _PROMPT_TITLES.items():
        rows = [row for row in predictions if row.variant is Variant.STANDARD and row.task == task and row.prompts]
        # Those with a moved twin tell more.
        rows.sort(key=lambda row: ((row.benchmark, row.sample_id, row.turn) not in moved, row.sample_id, row.turn))
        members = _distinct(rows, num)
        gallery.load_truths(members)
        cards = tuple(
            _prompt_card(row, moved.get((row.benchmark, row.sample_id, row.turn)), gallery) for row in members
        )
        if cards:
            groups.append(CardGroup(title, "chosen without regard to the score", cards))
    return groups


def prompt_extremes(predictions: Sequence[Prediction], gallery: Gallery, num: int) -> list[CardGroup]:
    """Best, worst and least certain answers on visual prompts, task by task."""
    groups: list[CardGroup] = []
    for task, title in _PROMPT_TITLES.items():
        rows = [row for row in predictions if row.variant is Variant.STANDARD and row.task == task and row.prompts]
        rows.sort(key=lambda row: (row.score, row.sample_id, row.turn))
        if not rows or rows[0].score == rows[-1].score:
            continue
        chosen = [
            ("best", _distinct(reversed(rows), num)),
            ("worst", _distinct(rows, num)),
            ("most uncertain", _distinct(least_certain(rows), num)),
        ]
        gallery.load_truths(row for _, members in chosen for row in members)
        groups += [
            CardGroup(title, about, tuple(_prompt_card(row, None, gallery) for row in members))
            for about, members in chosen
            if members
        ]
    return groups


def feature_rows(
    features: Sequence[tuple[str, Features]], gallery: Gallery, image_ids: Sequence[str], num: int
) -> list[FeatureRow]:
    """Pictures beside the teachers' features of them.

    Args:
        features: stores by the teacher's name.
        gallery: the pictures.
        image_ids: candidates, the most interesting first; those that every teacher has seen are shown.
        num: how many rows.
    """
    known = list(dict.fromkeys(image_ids))
    for _, store in features:
        absent = set(store.missing(known))
        known = [image_id for image_id in known if image_id not in absent]
    rows: list[FeatureRow] = []
    for image_id in known[:num] if features else ():
        pixels = gallery.picture(image_id)
        shown = [("picture", data_uri(pixels))]
        for name, store in features:
            seen = Image.fromarray(pca_picture(store.read([image_id])[0]))
            scaled = seen.resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.NEAREST)
            shown.append((name, data_uri(np.asarray(scaled))))
        rows.append(FeatureRow(tuple(shown)))
    return rows


def _distinct(rows: Iterable[Prediction], num: int) -> list[Prediction]:
    """The first rows on different pictures; on the same ones only if there are too few."""
    chosen: list[Prediction] = []
    later: list[Prediction] = []
    seen: set[str] = set()
    for row in rows:
        if len(chosen) == num:
            break
        (later if row.image_id in seen else chosen).append(row)
        seen.add(row.image_id)
    return (chosen + later)[:num]


def _segmentation_card(row: Prediction, gallery: Gallery) -> Card:
    pixels = gallery.picture(row.image_id)
    answer = None if row.predicted_no_target else joined_bitmap(row.masks)
    pictures = (
        ("picture", "plain", data_uri(pixels)),
        ("truth", "truth", data_uri(spotlit(pixels, gallery.truth(row), TRUTH))),
        ("answer", "answer", data_uri(spotlit(pixels, answer, ANSWER))),
    )
    if row.no_target:
        verdict, good = ("right: no target", True) if row.predicted_no_target else ("a mask where none belongs", False)
    else:
        certainty = f", certainty {min(row.mask_scores):.2f}" if row.mask_scores else ""
        verdict, good = f"IoU {row.score:.2f}{certainty}", _grade(row.score)
    return Card(row.expression or row.question, pictures, (("answer", row.answer),), verdict, good)


def _prompt_card(row: Prediction, moved: Prediction | None, gallery: Gallery) -> Card:
    pixels = gallery.picture(row.image_id)
    pictures = [("pointed at", "prompt", data_uri(_with_prompts(pixels, row.prompts)))]
    lines = [("answer", row.answer)]
    if row.task == Task.VISUAL_TEXT_REFERRING.value:
        pictures.append(("truth", "truth", data_uri(spotlit(pixels, gallery.truth(row), TRUTH))))
        pictures.append(("answer", "answer", data_uri(spotlit(pixels, joined_bitmap(row.masks), ANSWER))))
        return Card(row.question, tuple(pictures), tuple(lines), f"IoU {row.score:.2f}", _grade(row.score))
    lines.append(("truth", row.truth_text))
    if moved is not None:
        pictures.append(("prompt moved", "prompt", data_uri(_with_prompts(pixels, moved.prompts))))
        lines += [("answer, moved", moved.answer), ("truth, moved", moved.truth_text)]
    verdict = {1.0: "right", 0.0: "wrong"}.get(row.score, f"{row.score:.0%} of the words")
    return Card(row.question, tuple(pictures), tuple(lines), verdict, _grade(row.score))


def _with_prompts(pixels: NDArray[np.uint8], prompts: Sequence[Mask]) -> NDArray[np.uint8]:
    for prompt in prompts:
        pixels = outlined(pixels, decode_mask(prompt), PROMPT)
    return pixels


def _grade(score: float) -> bool | None:
    return True if score >= 0.7 else False if score < 0.3 else None
