"""What an evaluation asks, gets and keeps: questions, answers, verdicts and scores."""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.evaluation.metrics.estimates import Estimate
from storage.errors import DataError
from storage.masks import encode_mask
from storage.schema import Mask, Sample

__all__ = [
    "PREDICTION_SCHEMA",
    "SCORE_SCHEMA",
    "AnswerLike",
    "Answered",
    "Benchmark",
    "Gap",
    "Prediction",
    "Question",
    "Score",
    "Truth",
    "Variant",
    "Verdict",
    "Wording",
    "lower_is_better",
    "predictions_to_table",
    "scores_to_table",
    "shown_scale",
    "table_to_predictions",
]


class Variant(StrEnum):
    """How the questions of a benchmark are put; all but `standard` and `released` are controls."""

    STANDARD = "standard"
    """As it is meant."""
    SWAPPED = "swapped"
    """The same answers, compared with the truth of another object of the same picture."""
    MOVED = "moved"
    """The visual prompt is moved to another object of the same picture; the text stays."""
    RELEASED = "released"
    """The answers by the rules of the released evaluation, faults included, for scores to set beside published ones.
    A question that got no mask may have been asked again; no control."""
    UNTRAINED = "untrained"
    """The same questions to a student of the same shape with random weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What an answer is compared with: masks (one per target), text, and whose they are.

    `references` are further texts that are as right, where a source has several for one thing. Pixels of `ignored`
    count neither way where masks are compared.
    """

    sample_id: str
    turn: int
    masks: tuple[Mask, ...] = ()
    ignored: Mask | None = None
    text: str = ""
    references: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts that are right."""
        return (self.text, *self.references)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question to the student, with the truth it is scored against.

    Attributes:
        benchmark: name of the benchmark in the recipe.
        expression: the fact in the middle of the question (`Turn.text`).
        text: the whole question, `<region1>` standing for the first of `prompts`.
        prompts: the visual prompts as masks, in order.
        options: what can be chosen from, where that is so.
        swapped: the truth of another object, if the answer is to be scored against that as well.
        released: whether the answer is judged by the released rules as well, as variant `released`.
        retry_prefix: for the released rules, the words that an answer has to begin with when the question is asked
            again because no mask came; empty: it isn't asked again.
        read: whether the student doesn't answer, but says how likely it holds the truth's text.
    """

    benchmark: str
    variant: Variant
    sample_id: str
    turn: int
    image_id: str
    family: str
    task: str
    split: str
    expression: str
    text: str
    prompts: tuple[Mask, ...]
    truth: Truth
    options: tuple[str, ...] = ()
    swapped: Truth | None = None
    released: bool = False
    retry_prefix: str = ""
    read: bool = False


class AnswerLike(Protocol):
    """What a predictor gives for one question."""

    @property
    def text(self) -> str:
        """The generated text."""
        ...

    @property
    def masks(self) -> Sequence[NDArray[np.bool_]]:
        """One bool (height, width) mask per `[SEG]`, in the picture's own pixels."""
        ...

    @property
    def scores(self) -> Sequence[float]:
        """The student's own confidence in each mask, between 0 and 1."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer as it is judged and kept, its masks in run lengths: encoded once, whatever it is compared with.

    Where the student only read the truth's text, that is `text`, `nats` its cross-entropy, summed over `num_tokens`.
    """

    text: str
    masks: tuple[Mask, ...] = ()
    scores: tuple[float, ...] = ()
    nats: float = 0.0
    num_tokens: int = 0

    @classmethod
    def of(cls, answer: AnswerLike) -> Answered:
        """A predictor's answer."""
        return cls(
            text=answer.text,
            masks=tuple(encode_mask(np.asarray(mask, dtype=np.bool_)) for mask in answer.masks),
            scores=tuple(float(score) for score in answer.scores),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an answer earned.

    Attributes:
        score: between 0 and 1; what it is depends on the task (IoU, accuracy, share of words).
        intersection_px: pixels in common, where masks are compared.
        union_px: pixels of either.
        ious: where several masks are compared with several targets: the IoU of each mask with each target, mask by
            mask.
        boundary_f: boundary F-score of the mask; None where it isn't taken.
    """

    score: float
    intersection_px: int = 0
    union_px: int = 0
    no_target: bool = False
    predicted_no_target: bool = False
    ious: tuple[float, ...] = ()
    boundary_f: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One row of the predictions: a question, its answer and the verdict."""

    benchmark: str
    variant: Variant
    sample_id: str
    turn: int
    image_id: str
    family: str
    task: str
    split: str
    expression: str
    question: str
    prompts: tuple[Mask, ...]
    answer: str
    masks: tuple[Mask, ...]
    mask_scores: tuple[float, ...]
    truth_sample_id: str
    truth_turn: int
    truth_text: str
    references: tuple[str, ...]
    num_targets: int
    truth_area_px: int
    """Pixels of all its targets together, each counted; 0 without."""
    intersection_px: int
    union_px: int
    no_target: bool
    predicted_no_target: bool
    ious: tuple[float, ...]
    score: float
    boundary_f: float | None = None
    """Where it was taken."""
    nats: float = 0.0
    """Cross-entropy of the truth's text, where it was read instead of answered: summed over its tokens."""
    num_tokens: int = 0
    """Tokens that were read."""

    @property
    def truths(self) -> tuple[str, ...]:
        """All texts that would have been right."""
        return (self.truth_text, *self.references)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number with its bootstrap interval over images.

    `family`, `task` and `split` are None where the number is over all of them.
    """

    benchmark: str
    variant: Variant
    family: str | None
    task: str | None
    split: str | None
    metric: str
    value: float
    low: float
    high: float
    num_samples: int
    num_images: int

    @property
    def overall(self) -> bool:
        """Over everything, not over one family, task and split."""
        return self.family is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A benchmark that misses samples."""

    benchmark: str
    """Its name."""
    whole: bool
    """Whether it has no question at all, and so no score."""
    reason: str
    """What is missing, and what the corpus has in its place."""


def lower_is_better(metric: str) -> bool:
    """Whether a score is a loss."""
    return metric == "text_loss"


def shown_scale(metric: str) -> int:
    """What people read of a score: 100 for percent, 1 for CIDEr and for nats as they are."""
    return 1 if metric in ("CIDEr", "text_loss") else 100


class Wording(Protocol):
    """Frames the facts of one turn as the question that the student is asked."""

    def __call__(self, sample: Sample, turn_index: int) -> str:
        """The question in the fixed default wording."""
        ...


class Benchmark(Protocol):
    """One way to examine a student; built from its part of the recipe."""

    def questions(self, samples: Sequence[Sample], wording: Wording) -> list[Question]:
        """What to ask about these samples, clustered by image."""
        ...

    def judge(self, question: Question, truth: Truth, answer: Answered) -> Verdict:
        """Compares an answer with a truth."""
        ...

    def metrics(
        self, variant: Variant, rows: Sequence[Prediction], standard: Sequence[Prediction]
    ) -> dict[str, Estimate]:
        """Scores of the rows of one variant; `standard` holds the rows of the standard one, for comparison."""
        ...


_MASKS = pa.list_(
    pa.struct(
        [
            pa.field("height", pa.int32(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("counts", pa.binary(), nullable=False),
        ]
    )
)

_MASK_COLUMNS = ("prompts", "masks")
_LIST_COLUMNS = ("mask_scores", "references", "ious")

PREDICTION_SCHEMA = pa.schema(
    [
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("family", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("expression", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("prompts", _MASKS, nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("masks", _MASKS, nullable=False),
        pa.field("mask_scores", pa.list_(pa.float32()), nullable=False),
        pa.field("truth_sample_id", pa.string(), nullable=False),
        pa.field("truth_turn", pa.int32(), nullable=False),
        pa.field("truth_text", pa.string(), nullable=False),
        pa.field("references", pa.list_(pa.string()), nullable=False),
        pa.field("num_targets", pa.int32(), nullable=False),
        pa.field("truth_area_px", pa.int64(), nullable=False),
        pa.field("intersection_px", pa.int64(), nullable=False),
        pa.field("union_px", pa.int64(), nullable=False),
        pa.field("no_target", pa.bool_(), nullable=False),
        pa.field("predicted_no_target", pa.bool_(), nullable=False),
        pa.field("ious", pa.list_(pa.float64()), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("boundary_f", pa.float64()),
        pa.field("nats", pa.float64(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
    ]
)

SCORE_SCHEMA = pa.schema(
    [
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("family", pa.string()),
        pa.field("task", pa.string()),
        pa.field("split", pa.string()),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("low", pa.float64(), nullable=False),
        pa.field("high", pa.float64(), nullable=False),
        pa.field("num_samples", pa.int64(), nullable=False),
        pa.field("num_images", pa.int64(), nullable=False),
    ]
)


def predictions_to_table(rows: Sequence[Prediction]) -> pa.Table:
    """Predictions as a table of `PREDICTION_SCHEMA`."""
    columns: dict[str, list[object]] = {
        name: [getattr(row, name) for row in rows]
        for name in PREDICTION_SCHEMA.names
        if name not in ("variant", *_MASK_COLUMNS)
    }
    columns["variant"] = [row.variant.value for row in rows]
    columns["prompts"] = [_structs(row.prompts) for row in rows]
    columns["masks"] = [_structs(row.masks) for row in rows]
    return pa.table({name: columns[name] for name in PREDICTION_SCHEMA.names}, schema=PREDICTION_SCHEMA)


def table_to_predictions(table: pa.Table) -> list[Prediction]:
    """The inverse of `predictions_to_table`.

    Raises:
        DataError: columns of another version.
    """
    if table.schema.names != PREDICTION_SCHEMA.names:
        missing = [name for name in PREDICTION_SCHEMA.names if name not in table.schema.names]
        raise DataError(
            f"predictions: expected the columns of this version, got others (without {', '.join(missing) or 'none'}); "
            "an earlier version wrote them: evaluate again"
        )
    rows: list[Prediction] = []
    for row in table.cast(PREDICTION_SCHEMA).to_pylist():
        row["variant"] = Variant(row["variant"])
        for name in _MASK_COLUMNS:
            row[name] = tuple(Mask(**mask) for mask in row[name])
        for name in _LIST_COLUMNS:
            row[name] = tuple(row[name])
        rows.append(Prediction(**row))
    return rows


def _structs(masks: Sequence[Mask]) -> list[dict[str, object]]:
    return [{"height": mask.height, "width": mask.width, "counts": mask.counts} for mask in masks]


def scores_to_table(scores: Sequence[Score]) -> pa.Table:
    """Scores as a table of `SCORE_SCHEMA`."""
    return pa.table(
        {name: [getattr(score, name) for score in scores] for name in SCORE_SCHEMA.names}, schema=SCORE_SCHEMA
    )
