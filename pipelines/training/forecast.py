"""What training will take before any of it runs: steps, tokens, operations, accelerator hours. Pure arithmetic.

Rows come from the corpus, whose conversations are drawn as in training but not tokenised: text counts as characters
over `costs.characters_per_token`. Without a corpus they come from what the recipe says of its data sets in `costs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np

from model.config import StudentConfig
from model.flops import layer_flops_per_token, mask_feature_flops_per_patch
from pipelines.distillation.costs import CostsConfig
from pipelines.training.config import TrainingConfig
from pipelines.training.feed import corpus_mixture
from pipelines.training.mixture import Mixture, Place, row_generator
from pipelines.training.rows import Conversation, draw_conversation
from storage.corpus import Corpus
from storage.geometry import student_grid
from storage.keys import Json

__all__ = ["RowShape", "TrainingForecast", "forecast_training", "row_flops", "rows_of_corpus", "stated_rows"]

_NUM_DRAWN = 256
"""Conversations that are drawn: of lengths that spread as widely as their mean, that is 6 % of it (1 sigma)."""
_FRAME_TOKENS_PER_TURN = 8
"""`<|im_start|>`, `user`, a line break, `<|im_end|>`, a line break, `<|endoftext|>`, and two more at the seams."""
_HOUR_S, _TERA = 3600.0, 1e12


@dataclass(frozen=True, slots=True)
class RowShape:
    """What a conversation is to the student."""

    grid: tuple[int, int]
    """Rows and columns of patches; (0, 0): no picture."""
    question_tokens: float
    """Text without labels."""
    answer_tokens: float
    """Text with labels."""
    num_masks: float
    """Masks that are asked for."""

    @property
    def num_patches(self) -> int:
        """Patches of the picture."""
        return self.grid[0] * self.grid[1]

    @property
    def num_tokens(self) -> float:
        """All of it, `<vision>` and `</vision>` with a picture."""
        return self.question_tokens + self.answer_tokens + (self.num_patches + 2 if self.num_patches else 0)


@dataclass(frozen=True, slots=True)
class TrainingForecast:
    """What the run would take; None: unknown."""

    source: str
    """Where the rows come from, for people."""
    rows_per_epoch: float | None
    num_steps: int | None
    num_epochs: float | None
    tokens_per_row: float | None
    tokens_per_epoch: float | None
    tokens: float | None
    """Of the whole run, patches among them."""
    flops: float | None
    """Of forward and backward passes; what gradient checkpointing computes again isn't counted, as is the habit."""
    accelerator_hours: float | None
    """Operations over peak and MFU of `costs`."""
    wall_s: float | None
    """With the recipe's workers."""
    price: float | None
    """US dollars; None: not priced."""

    def to_json(self) -> dict[str, Json]:
        """The forecast as plain data."""
        return cast("dict[str, Json]", asdict(self))


def row_flops(config: StudentConfig, row: RowShape, teachers: Sequence[str] = ()) -> float:
    """Operations of the forward pass of one conversation, after `model.flops`.

    Args:
        config: the student.
        row: the conversation, its turns chained.
        teachers: those that it is compared with.
    """
    patches, text = row.num_patches, row.question_tokens + row.answer_tokens
    span = patches + 2 if patches else 0
    # The span of a picture sees itself whole, text what stands before it and itself.
    pairs = span * span + text * span + text * (text + 1) / 2
    dim, cells = config.hidden_size, config.cells_per_patch**2
    heads = config.num_attention_heads * config.head_dim
    vp_embed = dim if config.visual_prompt == "injected" else 0
    flops = config.num_layers * (layer_flops_per_token(config) * row.num_tokens + 4 * heads * pairs)
    flops += 2 * patches * dim * (3 * config.patch_size_px**2 + vp_embed)
    flops += 2 * dim * config.vocab_size * row.answer_tokens
    # The mask head runs over every picture of a batch, whether or not it is asked for a mask.
    flops += patches * mask_feature_flops_per_patch(config)
    flops += row.num_masks * 2 * (dim * (dim + config.mask_dim) + config.mask_dim * patches * cells)
    for head in config.distillation:
        if head.teacher in teachers:
            flops += (
                2 * patches * (cells * config.mask_dim if head.source == "mask_features" else dim) * head.num_channels
            )
    return flops


def rows_of_corpus(
    corpus: Corpus, student: StudentConfig, config: TrainingConfig, costs: CostsConfig
) -> tuple[float, list[RowShape]]:
    """Conversations of an epoch, and the shapes of some that stand anywhere in it.

    Args:
        corpus: samples and the sizes of images.
        student: patches and wordings.
        config: the mixture.
        costs: characters per token.
    """
    mixture, sizes = corpus_mixture(corpus, config)
    return mixture.rows_per_epoch, _drawn_rows(mixture, sizes, student, config, costs)


def _drawn_rows(
    mixture: Mixture,
    sizes: Mapping[str, tuple[int, int]],
    student: StudentConfig,
    config: TrainingConfig,
    costs: CostsConfig,
) -> list[RowShape]:
    order = mixture.order(config.seed, 0, config.shuffle_shards)
    places = np.unique(np.linspace(0, len(order) - 1, min(_NUM_DRAWN, len(order))).astype(int))
    shapes: list[RowShape] = []
    for place in map(int, places):
        source = mixture.sources[int(order[place])]
        size = (1, 1) if source.image_id is None else sizes[source.image_id]
        drawn = draw_conversation(
            source,
            size,
            student.num_visual_prompts,
            config.absent_prompt_share,
            student.wordings,
            row_generator(config.seed, Place(0, place)),
        )
        grid = (0, 0) if source.image_id is None else student_grid(*size, student.patch_size_px, student.max_side_px)
        shapes.append(_shape(drawn, grid, costs))
    return shapes


def _shape(drawn: Conversation, grid: tuple[int, int], costs: CostsConfig) -> RowShape:
    questions = sum(len(question) for question, _ in drawn.turns) / costs.characters_per_token
    answers = sum(len(answer) for _, answer in drawn.turns) / costs.characters_per_token
    frames = _FRAME_TOKENS_PER_TURN * len(drawn.turns)
    return RowShape(grid, questions + frames - len(drawn.turns), answers + len(drawn.turns), len(drawn.targets))


def stated_rows(
    student: StudentConfig, config: TrainingConfig, costs: CostsConfig
) -> tuple[float | None, list[RowShape]]:
    """Conversations of an epoch and their shape, as `costs` states them; None: it doesn't state them."""
    grid = student_grid(*costs.image_px, student.patch_size_px, student.max_side_px)
    answer = costs.answer_tokens_per_row
    shape = RowShape(grid, max(costs.text_tokens_per_row - answer, 0.0), answer, costs.masks_per_row)
    if costs.mixture_rows is None or len(costs.mixture_rows) != len(config.mixture):
        return None, [shape]
    parts = zip(costs.mixture_rows, config.mixture, strict=True)
    return sum(rows * entry.repeats for rows, entry in parts), [shape]


def forecast_training(
    student: StudentConfig,
    config: TrainingConfig,
    costs: CostsConfig,
    teachers: Sequence[str],
    corpus: Corpus | None = None,
) -> TrainingForecast:
    """What training would take.

    Args:
        student: architecture.
        config: the run.
        costs: rates, and sizes of data sets where there is no corpus.
        teachers: kinds of those that are distilled.
        corpus: None: it isn't there yet.
    """
    if corpus is not None:
        rows_per_epoch, shapes = rows_of_corpus(corpus, student, config, costs)
        source = f"{len(shapes)} conversations drawn from the corpus"
    else:
        rows_per_epoch, shapes = stated_rows(student, config, costs)
        source = "costs.mixture_rows" if rows_per_epoch is not None else "nothing says"
    if rows_per_epoch is None and config.num_epochs is not None:
        return TrainingForecast(source, None, None, config.num_epochs, *([None] * 7))
    num_steps = config.num_steps if rows_per_epoch is None else config.steps_of(rows_per_epoch)
    num_rows = num_steps * config.batch_rows
    tokens_per_row = sum(shape.num_tokens for shape in shapes) / len(shapes)
    weighed = tuple(teacher for teacher in teachers if config.losses.distillation.get(teacher))
    forward = num_rows * sum(row_flops(student, shape, weighed) for shape in shapes) / len(shapes)
    flops = config.passes_per_step * forward
    hours = flops / (costs.peak_tflops * _TERA * costs.mfu) / _HOUR_S
    price = None if costs.usd_per_accelerator_hour is None else hours * costs.usd_per_accelerator_hour
    return TrainingForecast(
        source=source,
        rows_per_epoch=rows_per_epoch,
        num_steps=num_steps,
        num_epochs=None if rows_per_epoch is None else num_rows / rows_per_epoch,
        tokens_per_row=tokens_per_row,
        tokens_per_epoch=None if rows_per_epoch is None else rows_per_epoch * tokens_per_row,
        tokens=num_rows * tokens_per_row,
        flops=flops,
        accelerator_hours=hours,
        wall_s=hours * _HOUR_S / config.num_workers,
        price=price,
    )
