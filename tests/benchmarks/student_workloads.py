"""Students, conversations and batches to measure with, all of them decided by a seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model.config import DistillationHead, StudentConfig
from model.feature_targets import plain_targets
from model.losses import PointDraws
from model.objective import TrainingBatch, training_batch
from model.packing import collate_packed
from model.processor import EncodedRow, Processor
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from storage.keys import Json

__all__ = [
    "MIXED_LENGTHS",
    "Grid",
    "LengthMixture",
    "Lengths",
    "Points",
    "Sample",
    "SampleMaker",
    "byte_tokenizer",
    "fill",
    "filled_student",
    "histogram",
    "mixed_lengths",
    "mixed_samples",
    "seeded_student",
    "shape_of",
    "tiny_student",
    "training_batch_of",
]

Grid = tuple[int, int]
Points = dict[Grid, PointDraws]

_QUESTION_SHARE = 0.4
"""Share of a conversation's text that asks; the rest answers and carries labels."""
_NUM_POINTS = 12_544
"""Points per mask, as published."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation with its targets."""

    row: EncodedRow
    masks: Tensor | None
    """uint8 (masks, height, width) at the size of the resized picture; None for text alone."""
    features: Mapping[str, Tensor]
    """Of each teacher (channels, h, w), at the grid that the student is compared at."""
    points: PointDraws | None
    """Where the masks are compared."""

    @property
    def num_tokens(self) -> int:
        """Length of the row."""
        return len(self.row.input_ids)

    @property
    def num_patches(self) -> int:
        """Patches of its picture."""
        return len(self.row.patches)


def byte_tokenizer(num_visual_prompts: int = 15) -> StudentTokenizer:
    """A tokenizer without merges: every ASCII character is one token, so that lengths can be asked for."""
    return StudentTokenizer.train([], 512, num_visual_prompts)


class SampleMaker:
    """Draws conversations of given lengths.

    Args:
        config: of the student.
        seed: decides everything but the lengths.
    """

    def __init__(self, config: StudentConfig, seed: int) -> None:
        self.config, self.tokenizer = config, byte_tokenizer(config.num_visual_prompts)
        self._processor = Processor(config, self.tokenizer)
        self._generator = np.random.default_rng(seed)
        self._torch_generator = torch.Generator().manual_seed(seed)

    def sample(self, grid: Grid | None, num_text_tokens: int, num_masks: int = 0) -> Sample:
        """One conversation.

        Args:
            grid: rows and columns of patches of its picture; None for text alone.
            num_text_tokens: tokens behind the picture.
            num_masks: `[SEG]` in the answer.
        """
        row = self.row(grid, num_text_tokens, num_masks)
        if grid is None:
            return Sample(row, None, {}, None)
        height, width = (side * self.config.patch_size_px for side in grid)
        masks = np.zeros((num_masks, height, width), np.uint8)
        for mask in masks:
            y0, x0 = self._generator.integers(0, [height // 2, width // 2])
            y1, x1 = self._generator.integers([height // 2, width // 2], [height, width]) + 1
            mask[y0:y1, x0:x1] = 1
        return Sample(
            row,
            torch.from_numpy(masks),
            {head.teacher: self._features(head, grid) for head in self.config.distillation},
            PointDraws.draw(num_masks, min(_NUM_POINTS, height * width), self._torch_generator),
        )

    def row(self, grid: Grid | None, num_text_tokens: int, num_masks: int = 0, *, answered: bool = True) -> EncodedRow:
        """The tokens of one conversation; unanswered, all text is question."""
        image = None
        if grid is not None:
            height, width = (side * self.config.patch_size_px for side in grid)
            image = self._generator.integers(0, 256, (height, width, 3), np.uint8)
        frame = len(self._processor.encode(None, [("", "" if answered else None)]).input_ids)
        letters = num_text_tokens - frame - num_masks
        assert letters > 0, num_text_tokens
        asked = round(_QUESTION_SHARE * letters) if answered else letters
        answer = self._letters(letters - asked) + "[SEG]" * num_masks
        row = self._processor.encode(image, [(self._letters(asked), answer if answered else None)])
        patches = 0 if grid is None else grid[0] * grid[1] + 2
        assert len(row.input_ids) == num_text_tokens + patches
        return row

    def _letters(self, count: int) -> str:
        return "".join(self._generator.choice(list("abcdefghijklmnopqrstuvwxyz "), count))

    def _features(self, head: DistillationHead, grid: Grid) -> Tensor:
        factor = self.config.cells_per_patch if head.source == "mask_features" else 1
        shape = (head.num_channels, grid[0] * factor, grid[1] * factor)
        return torch.from_numpy(self._generator.standard_normal(shape, np.float32))


@dataclass(frozen=True, slots=True)
class LengthMixture:
    """How long conversations are."""

    side_patches: tuple[int, int] = (8, 30)
    """Least and most patches along each side of a picture, drawn evenly: 64 to 900 patches."""
    text_tokens: tuple[int, int] = (20, 300)
    """Least and most tokens of text, the logarithm drawn evenly: most texts are short."""
    text_only_share: float = 0.2
    """Share of conversations without a picture."""
    masks: tuple[int, int] = (1, 3)
    """Least and most masks of a picture."""


MIXED_LENGTHS = LengthMixture()


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long one conversation is."""

    grid: Grid | None
    """Rows and columns of patches of its picture; None for text alone."""
    text_tokens: int
    masks: int

    @property
    def num_tokens(self) -> int:
        """Of the row; a picture stands between two tokens of its own."""
        return self.text_tokens + (0 if self.grid is None else self.grid[0] * self.grid[1] + 2)


def mixed_lengths(mixture: LengthMixture, num_samples: int, seed: int) -> list[Lengths]:
    """Lengths of a mixture in shuffled order.

    Every quantity is drawn once from each of as many equal slices of its range as it is drawn at all
    (a Latin hypercube), so that few conversations already have the mixture's histogram.
    """
    generator = np.random.default_rng(seed)

    def drawn(low: float, high: float, count: int) -> list[float]:
        places = (generator.permutation(count) + generator.random(count)) / count
        return (low + (high - low) * places).tolist()

    num_pictures = num_samples - round(mixture.text_only_share * num_samples)
    shortest, longest = np.log(mixture.text_tokens).tolist()
    texts = np.exp(drawn(shortest, longest, num_samples)).round().astype(int).tolist()
    rows, columns, masks = (
        [int(value) for value in drawn(low, high + 1, num_pictures)]
        for low, high in (mixture.side_patches, mixture.side_patches, mixture.masks)
    )
    found = [Lengths((rows[number], columns[number]), texts[number], masks[number]) for number in range(num_pictures)]
    found += [Lengths(None, num_tokens, 0) for num_tokens in texts[num_pictures:]]
    return [found[number] for number in generator.permutation(num_samples)]


def mixed_samples(maker: SampleMaker, mixture: LengthMixture, num_samples: int, seed: int) -> list[Sample]:
    """Conversations of a mixture, see `mixed_lengths`."""
    lengths = mixed_lengths(mixture, num_samples, seed)
    return [maker.sample(one.grid, one.text_tokens, one.masks) for one in lengths]


def training_batch_of(rows: Sequence[Sequence[Sample]], tokenizer: StudentTokenizer) -> tuple[TrainingBatch, Points]:
    """A batch of packed rows with its targets, and the points of its masks."""
    flat = [sample for samples in rows for sample in samples]
    pictures = [sample for sample in flat if sample.masks is not None]
    inputs, labels = collate_packed([[sample.row for sample in samples] for samples in rows], tokenizer.end_of_text)
    by_grid: dict[Grid, list[int]] = defaultdict(list)
    for number, sample in enumerate(pictures):
        by_grid[sample.row.grids[0]].append(number)
    teachers = pictures[0].features if pictures else {}
    features = {
        teacher: {
            grid: [(numbers, plain_targets(torch.stack([pictures[number].features[teacher] for number in numbers])))]
            for grid, numbers in by_grid.items()
        }
        for teacher in teachers
    }
    masks = [sample.masks for sample in pictures if sample.masks is not None]
    batch = training_batch(inputs, labels, masks, features, tokenizer.seg)
    points = {grid: _joined([pictures[number].points for number in by_grid[grid]]) for grid in batch.targets}
    return batch, points


def _joined(draws: Sequence[PointDraws | None]) -> PointDraws:
    """Points of several pictures of one size."""
    known = [draw for draw in draws if draw is not None]
    return PointDraws(
        torch.cat([draw.candidates for draw in known]),
        torch.cat([draw.uniform for draw in known]),
        known[0].num_uncertain,
    )


def tiny_student(**changes: object) -> StudentConfig:
    """A student of some thousand weights, for tests."""
    values: dict[str, object] = {
        "vocab_size": 512,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "patch_size_px": 8,
        "max_side_px": 512,
        "mask_dim": 12,
        "initializer_range": 0.2,
        "distillation": (
            DistillationHead(teacher="mask2former", num_channels=6, source="mask_features"),
            DistillationHead(teacher="sam2", num_channels=5, source="patches"),
        ),
    }
    return StudentConfig.model_validate({**values, **changes})


def seeded_student(config: StudentConfig, seed: int) -> PixelSail:
    """A student with freshly drawn weights."""
    return PixelSail(config).init_weights(torch.Generator().manual_seed(seed))


def filled_student(config: StudentConfig) -> PixelSail:
    """A student of arbitrary small weights, made without drawing it by its own rules first."""
    with torch.device("meta"):
        student = PixelSail(config)
    student.to_empty(device="cpu")
    fill(student)
    return student


@torch.no_grad()
def fill(module: nn.Module, seed: int = 0) -> None:
    """Fills a module with small numbers; what is a vector becomes ones in norms and zeros elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.uniform_(-0.03, 0.03, generator=generator)
        else:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)


def histogram(values: Sequence[int], edges: Sequence[int]) -> dict[str, Json]:
    """How many values lie from each edge up to the next, that one excluded.

    >>> histogram([5, 20, 25], [0, 10, 30])
    {'0-9': 1, '10-29': 2}
    """
    counts = np.histogram(values, [*edges[:-1], edges[-1] - 0.5])[0].tolist()
    return {f"{low}-{high - 1}": count for low, high, count in zip(edges, edges[1:], counts, strict=False)}


def shape_of(config: StudentConfig) -> dict[str, Json]:
    """The sizes of a student that decide what it costs."""
    return {
        "hidden_size": config.hidden_size,
        "num_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "patch_size_px": config.patch_size_px,
        "mask_stride_px": config.patch_size_px // config.cells_per_patch,
        "mask_dim": config.mask_dim,
    }
