"""One training step as pure functions: mask targets, the five loss terms, their weights.

Weighting and normalising are per conversation and averaged over the batch, as the released run does
by its micro-batches of one: within a conversation, mask losses are summed and divided by their
number + 1e-4, and so are distillation losses; a term that is absent counts zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from model.losses import (
    dice_loss,
    distillation_loss,
    mask_bce_loss,
    next_token_loss,
    sample_points,
    uncertain_points,
)
from model.processor import IGNORED
from model.student import PixelSail, StudentInputs
from pipelines.training.config import LossWeights

__all__ = ["LossTerms", "TrainingBatch", "compute_losses"]

_EPSILON = 1e-4


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """A batch with its targets. Images are numbered as in `inputs.grids`."""

    inputs: StudentInputs
    labels: Int[Tensor, "batch tokens"]
    image_rows: Int[Tensor, " images"]
    """Row of the batch that each image stands in."""
    masks: tuple[Shaped[Tensor, "masks height width"], ...]
    """Per image: target masks as uint8, one per `[SEG]` of its answers, in their order."""
    features: Mapping[str, Mapping[tuple[int, int], tuple[list[int], Float[Tensor, "images channels h w"]]]]
    """Per teacher: images of one student grid stacked, grid -> (image numbers, features). A teacher's
    images are those whose features are known."""

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same batch on another device."""
        return TrainingBatch(
            self.inputs.to(device),
            self.labels.to(device, non_blocking=True),
            self.image_rows.to(device, non_blocking=True),
            tuple(masks.to(device, non_blocking=True) for masks in self.masks),
            {
                teacher: {grid: (images, stack.to(device, non_blocking=True)) for grid, (images, stack) in maps.items()}
                for teacher, maps in self.features.items()
            },
        )


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The weighted total, and each term as it stands in the total's average over conversations."""

    total: Float[Tensor, ""]
    terms: Mapping[str, Float[Tensor, ""]]
    """Unweighted: `text`, `mask_bce`, `mask_dice` and one `distillation/<teacher>` each."""


def compute_losses(
    model: PixelSail,
    batch: TrainingBatch,
    weights: LossWeights,
    seg_id: int,
    mask_points: int | None,
    generator: torch.Generator,
) -> LossTerms:
    """Forward pass and losses of one batch.

    Args:
        model: the student.
        batch: rows and targets on the student's device.
        weights: of the terms.
        seg_id: token id of `[SEG]`.
        mask_points: points per mask, None for every pixel of the student's resized image.
        generator: draws the points, on the student's device.
    """
    inputs = batch.inputs
    num_rows = len(inputs.input_ids)
    hidden = model(inputs)
    text = _text_loss(model, hidden, batch.labels)
    seg = (inputs.input_ids == seg_id) & (batch.labels == seg_id)
    zeros = hidden.new_zeros(num_rows, dtype=torch.float32)
    bce, dice, num_masks = zeros, zeros, zeros
    distilled: dict[str, Tensor] = {}
    maps = model.patch_maps(hidden, inputs)
    sources = {head.teacher: head.source for head in model.config.distillation}
    for grid, (images, patches) in maps.items():
        rows = batch.image_rows[images]
        cells = model.mask_features(patches)
        found = _mask_losses(model, hidden, seg, rows, cells, [batch.masks[i] for i in images], mask_points, generator)
        if found is not None:
            mask_rows, mask_bce, mask_dice = found
            bce, dice = bce.index_add(0, mask_rows, mask_bce), dice.index_add(0, mask_rows, mask_dice)
            num_masks = num_masks.index_add(0, mask_rows, torch.ones_like(mask_bce))
        for teacher, source in sources.items():
            known = batch.features.get(teacher, {}).get(grid)
            if known is None:
                continue
            of_teacher, targets = known
            picked = [images.index(image) for image in of_teacher]
            student = model.distillation_heads[teacher]((cells if source == "mask_features" else patches)[picked])
            loss = distillation_loss(student, targets) / (1 + _EPSILON)
            distilled[teacher] = distilled.setdefault(teacher, zeros).index_add(0, rows[picked], loss)
    bce, dice = bce / (num_masks + _EPSILON), dice / (num_masks + _EPSILON)
    text_weight = torch.where(num_masks > 0, weights.text_with_masks, weights.text)
    per_row = text_weight * text + weights.mask_bce * bce + weights.mask_dice * dice
    for teacher, loss in distilled.items():
        per_row = per_row + weights.distillation.get(teacher, 0.0) * loss
    terms = {"text": text, "mask_bce": bce, "mask_dice": dice}
    terms |= {f"distillation/{teacher}": loss for teacher, loss in distilled.items()}
    return LossTerms(per_row.mean(), {name: value.detach().mean() for name, value in terms.items()})


def _text_loss(model: PixelSail, hidden: Tensor, labels: Tensor) -> Tensor:
    """Mean next-token loss of each row (B,); logits are computed at labelled places alone."""
    shifted = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    row, token = (shifted != IGNORED).nonzero(as_tuple=True)
    losses = next_token_loss(model.logits(hidden[row, token]), shifted[row, token])
    sums = losses.new_zeros(len(labels)).index_add(0, row, losses)
    counts = losses.new_zeros(len(labels)).index_add(0, row, torch.ones_like(losses))
    return sums / counts.clamp_min(1)


def _mask_losses(
    model: PixelSail,
    hidden: Tensor,
    seg: Tensor,
    rows: Tensor,
    cells: Tensor,
    masks: Sequence[Tensor],
    mask_points: int | None,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Row number, BCE and dice of every mask of images of one grid; None if they have no mask."""
    counts = torch.tensor([len(per_image) for per_image in masks], device=hidden.device)
    if not int(counts.sum()):
        return None
    owner = torch.arange(len(masks), device=hidden.device).repeat_interleave(counts)
    queries = torch.cat([hidden[row][seg[row]] for row in rows.tolist()])
    if len(queries) != len(owner):
        raise ValueError(f"[SEG] tokens: expected {len(owner)}, one per target mask, got {len(queries)}")
    logits = _dot(model.seg_query(queries), cells, owner, int(counts.max()))
    if mask_points is None:
        stride = model.config.mask_stride_px
        size = (cells.shape[1] * stride, cells.shape[2] * stride)
        targets = torch.cat([_resize_mask(per_image, size) for per_image in masks if len(per_image)])
        points = functional.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        points, targets = points.flatten(1), targets.flatten(1)
    else:
        where = uncertain_points(logits, mask_points, generator)
        points = sample_points(logits, where)
        pieces = where.split([len(per_image) for per_image in masks])
        targets = torch.cat([sample_points(m.float(), at) for m, at in zip(masks, pieces, strict=True) if len(m)])
    return rows[owner], mask_bce_loss(points, targets), dice_loss(points, targets)


def _dot(queries: Tensor, cells: Tensor, owner: Tensor, most: int) -> Tensor:
    """Mask logits (M, h, w) of queries (M, Q) on the map of their own image (N, h, w, Q)."""
    num_images, height, width, dim = cells.shape
    first = torch.searchsorted(owner, torch.arange(num_images, device=owner.device))
    place = torch.arange(len(owner), device=owner.device) - first[owner]
    padded = queries.new_zeros(num_images, most, dim).index_put((owner, place), queries)
    return torch.bmm(padded, cells.flatten(1, 2).mT)[owner, place].unflatten(1, (height, width))


def _resize_mask(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (M, H, W) as float at another size; nearest, as the released code does."""
    if masks.shape[-2:] == size:
        return masks.float()
    return functional.interpolate(masks[:, None].float(), size=size, mode="nearest")[:, 0]
