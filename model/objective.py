"""The training objective: mask targets, the five loss terms, their weights.

Weighting and normalising are per conversation and averaged over the batch, as the released run does
by its micro-batches of one: within a conversation, mask losses are summed and divided by their
number + 1e-4, and so are distillation losses; a term that is absent counts zero.

What depends on the data (which tokens carry labels, which image a `[SEG]` belongs to) is worked out
once, on the host, by `training_batch`; the step itself asks the device for nothing and has no
graph breaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import cast

import torch
from jaxtyping import Float, Int, Shaped
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from model.attention import AttentionPlan
from model.feature_targets import FeatureTargets
from model.losses import (
    PointDraws,
    chunked_next_token_loss,
    dice_loss,
    mask_bce_loss,
    sample_points,
    uncertain_points,
)
from model.processor import IGNORED
from model.student import PixelSail, StudentInputs
from storage.recipe import RecipeModel

__all__ = ["LossTerms", "LossWeights", "TrainingBatch", "compute_losses", "draw_points", "losses_of", "training_batch"]

_EPSILON = 1e-4

Grid = tuple[int, int]
FeatureGroup = tuple[list[int], FeatureTargets]
"""Numbers of images, and what a teacher says of them, as it is stored; all of one shape."""
Features = Mapping[str, Mapping[Grid, Sequence[FeatureGroup]]]
"""Per teacher and student grid the images whose features are known; a group for each shape of theirs."""
Missing = Mapping[str, Sequence[tuple[int, str, Tensor]]]
"""Per teacher: number, id and uint8 RGB (height, width, 3) of images whose features are yet to be computed."""


class LossWeights(RecipeModel):
    """Weights of the loss terms; the defaults are the published ones."""

    text_with_masks: float = Field(default=0.1, ge=0)
    """Next-token loss of a conversation whose answers hold masks."""
    text: float = Field(default=1.0, ge=0)
    """Next-token loss of a conversation without masks."""
    mask_bce: float = Field(default=2.0, ge=0)
    """Binary cross-entropy of masks."""
    mask_dice: float = Field(default=0.5, ge=0)
    """Dice loss of masks."""
    distillation: dict[str, float] = Field(default_factory=lambda: {"mask2former": 0.5, "sam2": 0.5})
    """Feature distillation, by the teacher's kind; a teacher that is not named has weight 0."""


@dataclass(frozen=True, slots=True)
class MaskTargets:
    """Masks of the images of one grid, and the `[SEG]` tokens that answer with them."""

    seg_slots: Int[Tensor, " masks"]
    """Index of each `[SEG]` into the flattened rows."""
    owner: Int[Tensor, " masks"]
    """Which image of the grid each belongs to, ascending."""
    place: Int[Tensor, " masks"]
    """Which of its image's masks each is."""
    documents: Int[Tensor, " masks"]
    """Conversation of each."""
    most: int
    """Masks of the image that has the most."""
    masks: tuple[Shaped[Tensor, "_masks _height _width"], ...]
    """Target masks as uint8, of each image that has any."""

    def to(self, device: torch.device | str) -> MaskTargets:
        """The same targets on another device."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in _SLOTS}
        return replace(self, **moved, masks=tuple(masks.to(device, non_blocking=True) for masks in self.masks))


_SLOTS = ("seg_slots", "owner", "place", "documents")


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """A batch with its targets. Images are numbered as in `inputs.grids`."""

    inputs: StudentInputs
    labels: Int[Tensor, "batch tokens"]
    num_documents: int
    image_documents: Int[Tensor, " images"]
    """Conversation that each image stands in."""
    label_slots: Int[Tensor, " labels"]
    """Tokens (indices into the flattened rows) whose next token carries a label."""
    label_ids: Int[Tensor, " labels"]
    """That next token."""
    label_documents: Int[Tensor, " labels"]
    """The conversation of each."""
    targets: Mapping[Grid, MaskTargets]
    """Masks, by the grid of their images; grids without any are left out."""
    features: Features
    missing: Missing = field(default_factory=dict)
    """Filled where teachers run beside the student; stays on the host, where they take pictures from."""

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same batch on another device."""
        tensors = {
            item.name: getattr(self, item.name).to(device, non_blocking=True)
            for item in fields(self)
            if isinstance(getattr(self, item.name), Tensor)
        }
        return replace(
            self,
            **tensors,
            inputs=self.inputs.to(device),
            targets={grid: targets.to(device) for grid, targets in self.targets.items()},
            features={
                teacher: {
                    grid: [(images, group.to(device, non_blocking=True)) for images, group in groups]
                    for grid, groups in maps.items()
                }
                for teacher, maps in self.features.items()
            },
        )


def training_batch(
    inputs: StudentInputs,
    labels: Int[Tensor, "batch tokens"],
    masks: Sequence[Shaped[Tensor, "_masks _height _width"]],
    features: Features,
    seg_id: int,
    missing: Missing | None = None,
) -> TrainingBatch:
    """Joins a batch with its targets and finds out which token answers for what.

    A `[SEG]` that carries a label belongs to the image shown last before it in its conversation.

    Args:
        inputs: on the CPU, as collated.
        labels: of its tokens.
        masks: target masks of each image as uint8, one per `[SEG]` of the answers on it, in their order.
        features: see `TrainingBatch`.
        seg_id: token id of `[SEG]`.
        missing: see `TrainingBatch`.

    Raises:
        ValueError: an image with another number of masks than of `[SEG]`.
    """
    document = inputs.document.flatten()
    # The first token of a conversation is predicted by nothing, least of all by the end of another one.
    goes_on = inputs.document[:, 1:] == inputs.document[:, :-1]
    following = functional.pad(labels[:, 1:].where(goes_on, IGNORED), (0, 1), value=IGNORED).flatten()
    label_slots = (following != IGNORED).nonzero()[:, 0]
    sizes = torch.tensor([rows * columns for rows, columns in inputs.grids], dtype=torch.long)
    first_patches = inputs.patch_slots[sizes.cumsum(0) - sizes]
    image_documents = document[first_patches]
    seg_slots = ((inputs.input_ids == seg_id) & (labels == seg_id)).flatten().nonzero()[:, 0]
    images = _image_of(seg_slots, first_patches, document)
    seg_slots, images = seg_slots[images >= 0], images[images >= 0]
    found = torch.bincount(images, minlength=len(inputs.grids)).tolist()
    for image, (expected, actual) in enumerate(zip(map(len, masks), found, strict=True)):
        if expected != actual:
            raise ValueError(f"[SEG] tokens of image {image}: expected {expected}, one per target mask, got {actual}")
    targets: dict[Grid, MaskTargets] = {}
    for grid, of_grid in inputs.images_by_grid().items():
        counts = torch.tensor([found[image] for image in of_grid])
        if not counts.any():
            continue
        owner = torch.arange(len(of_grid)).repeat_interleave(counts)
        slots = torch.cat([seg_slots[images == image] for image in of_grid])
        targets[grid] = MaskTargets(
            seg_slots=slots,
            owner=owner,
            place=torch.cat([torch.arange(count) for count in counts.tolist()]),
            documents=document[slots],
            most=int(counts.max()),
            masks=tuple(masks[image] for image in of_grid if found[image]),
        )
    return TrainingBatch(
        inputs=inputs,
        labels=labels,
        num_documents=int(document.max()) + 1,
        image_documents=image_documents,
        label_slots=label_slots,
        label_ids=following[label_slots],
        label_documents=document[label_slots],
        targets=targets,
        features=features,
        missing=missing or {},
    )


def _image_of(slots: Tensor, first_patches: Tensor, document: Tensor) -> Tensor:
    """Image shown last before each token in its conversation, -1 for none."""
    if not len(first_patches):
        return torch.full_like(slots, -1)
    before = torch.searchsorted(first_patches, slots) - 1
    same = document[first_patches[before.clamp_min(0)]] == document[slots]
    return torch.where((before >= 0) & same, before, -1)


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The weighted total, and each term as it stands in the total's average over conversations."""

    total: Float[Tensor, ""]
    terms: Mapping[str, Float[Tensor, ""]]
    """Unweighted: `text`, `mask_bce`, `mask_dice` and one `distillation/<teacher>` each."""
    per_document: Float[Tensor, " documents"]
    """The weighted loss of each conversation, of which `total` is the mean; detached."""


def draw_points(batch: TrainingBatch, num_points: int, generator: torch.Generator) -> dict[Grid, PointDraws]:
    """Random points for the masks of a batch, by the grid of their images.

    Args:
        batch: its masks.
        num_points: points per mask.
        generator: source of the numbers, on the batch's device.
    """
    return {grid: PointDraws.draw(len(targets.owner), num_points, generator) for grid, targets in batch.targets.items()}


def compute_losses(
    model: PixelSail,
    batch: TrainingBatch,
    weights: LossWeights,
    points: Mapping[Grid, PointDraws] | None = None,
    plan: AttentionPlan | None = None,
) -> LossTerms:
    """Forward pass and losses of one batch.

    Args:
        model: the student.
        batch: rows and targets on the student's device.
        weights: of the terms; a teacher without weight is not computed.
        points: where masks are compared, see `draw_points`; None: at every pixel of the student's
            resized image.
        plan: see `PixelSail.forward`.
    """
    return losses_of(model, model(batch.inputs, plan=plan), batch, weights, points)


def losses_of(
    model: PixelSail,
    hidden: Float[Tensor, "batch tokens dim"],
    batch: TrainingBatch,
    weights: LossWeights,
    points: Mapping[Grid, PointDraws] | None = None,
) -> LossTerms:
    """Losses of a batch whose forward pass is done; arguments as of `compute_losses`."""
    flat = hidden.flatten(0, 1)
    zeros = flat.new_zeros(batch.num_documents, dtype=torch.float32)
    text = _text_loss(model, flat, batch, zeros)
    bce, dice, num_masks = zeros, zeros, zeros
    distilled: dict[str, Tensor] = {}
    layers = cast("Mapping[str, nn.Linear]", model.distillation_heads)
    for grid, (images, patches) in model.patch_maps(hidden, batch.inputs).items():
        documents = batch.image_documents[images]
        cells = model.mask_features(patches)
        targets = batch.targets.get(grid)
        if targets is not None:
            of_grid = None if points is None else points[grid]
            mask_bce, mask_dice = _mask_losses(model, flat, cells, targets, of_grid)
            bce = bce.index_add(0, targets.documents, mask_bce)
            dice = dice.index_add(0, targets.documents, mask_dice)
            num_masks = num_masks.index_add(0, targets.documents, torch.ones_like(mask_bce))
        for head in model.config.distillation:
            groups = batch.features.get(head.teacher, {}).get(grid, ())
            if not weights.distillation.get(head.teacher):
                continue
            for of_teacher, features in groups:
                picked = [images.index(image) for image in of_teacher]
                student = cells if head.source == "mask_features" else patches
                if picked != list(range(len(images))):  # the usual case needs no copy
                    student = student[picked]
                loss = features.error_of(layers[head.teacher], student) / (1 + _EPSILON)
                so_far = distilled.setdefault(head.teacher, zeros)
                distilled[head.teacher] = so_far.index_add(0, documents[picked], loss)
    bce, dice = bce / (num_masks + _EPSILON), dice / (num_masks + _EPSILON)
    text_weight = torch.where(num_masks > 0, weights.text_with_masks, weights.text)
    per_document = text_weight * text + weights.mask_bce * bce + weights.mask_dice * dice
    for teacher, loss in distilled.items():
        per_document = per_document + weights.distillation[teacher] * loss
    terms = {"text": text, "mask_bce": bce, "mask_dice": dice}
    terms |= {f"distillation/{teacher}": loss for teacher, loss in distilled.items()}
    means = {name: value.detach().mean() for name, value in terms.items()}
    return LossTerms(per_document.mean(), means, per_document.detach())


def _text_loss(model: PixelSail, flat: Tensor, batch: TrainingBatch, zeros: Tensor) -> Tensor:
    """Mean next-token loss of each conversation; logits are computed at labelled places alone."""
    losses = chunked_next_token_loss(flat[batch.label_slots], model.output_embedding, batch.label_ids)
    sums = zeros.index_add(0, batch.label_documents, losses)
    counts = zeros.index_add(0, batch.label_documents, torch.ones_like(losses))
    return sums / counts.clamp_min(1)


def _mask_losses(
    model: PixelSail, flat: Tensor, cells: Tensor, targets: MaskTargets, points: PointDraws | None
) -> tuple[Tensor, Tensor]:
    """BCE and dice of every mask of the images of one grid."""
    queries = model.seg_query(flat[targets.seg_slots])
    logits = _dot(queries, cells, targets)
    if points is None:
        stride = model.config.patch_size_px // model.config.cells_per_patch
        size = (cells.shape[1] * stride, cells.shape[2] * stride)
        truth = torch.cat([_resize_mask(masks, size) for masks in targets.masks]).flatten(1)
        predicted = functional.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False)
        predicted = predicted.flatten(1)
    else:
        where = uncertain_points(logits, points)
        predicted = sample_points(logits, where)
        pieces = where.split([len(masks) for masks in targets.masks])
        truth = torch.cat([sample_points(m.float(), at) for m, at in zip(targets.masks, pieces, strict=True)])
    return mask_bce_loss(predicted, truth), dice_loss(predicted, truth)


def _dot(queries: Tensor, cells: Tensor, targets: MaskTargets) -> Tensor:
    """Mask logits (M, h, w) of queries (M, Q) on the map of their own image (N, h, w, Q)."""
    num_images, height, width, dim = cells.shape
    padded = queries.new_zeros(num_images, targets.most, dim).index_put((targets.owner, targets.place), queries)
    maps = torch.bmm(padded, cells.flatten(1, 2).mT)
    return maps[targets.owner, targets.place].unflatten(1, (height, width))


def _resize_mask(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (M, H, W) as float at another size; nearest, as the released code does."""
    if masks.shape[-2:] == size:
        return masks.float()
    return functional.interpolate(masks[:, None].float(), size=size, mode="nearest")[:, 0]
