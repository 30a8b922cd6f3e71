"""Gradients of every loss term against a plain computation in float64, conversation by conversation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.objective import LossWeights, TrainingBatch, compute_losses
from model.processor import IGNORED
from model.student import PixelSail
from pipelines.training.config import TrainingConfig
from pipelines.training.feed import TrainingFeed

MakeFeed = Callable[..., TrainingFeed]

NOTHING: dict[str, object] = {
    "text_with_masks": 0.0,
    "text": 0.0,
    "mask_bce": 0.0,
    "mask_dice": 0.0,
    "distillation": {},
}
TERMS: dict[str, dict[str, object]] = {
    "text": {"text_with_masks": 1.0, "text": 1.0},
    "mask_bce": {"mask_bce": 1.0},
    "mask_dice": {"mask_dice": 1.0},
    "distillation/mask2former": {"distillation": {"mask2former": 1.0}},
    "distillation/sam2": {"distillation": {"sam2": 1.0}},
}


@pytest.fixture
def batch(make_feed: MakeFeed) -> TrainingBatch:
    """Seven conversations: with masks and without, pictures of two grids, features of two shapes."""
    config = TrainingConfig(num_steps=1, batch_rows=7, micro_batch_rows=7, seed=3)
    return make_feed(config).step_batches(0).micro_batches[0]


def plain_term(term: str, model: PixelSail, batch: TrainingBatch) -> Tensor:
    """One term, averaged over the conversations, of a student in float64; loops and textbook formulas."""
    inputs = replace(batch.inputs, patches=batch.inputs.patches.double())
    hidden = model(inputs)
    flat, documents = hidden.flatten(0, 1), inputs.document.flatten()
    by_document: list[Tensor] = []
    for document in range(batch.num_documents):
        if term == "text":
            by_document.append(_text(model, hidden, batch, document))
            continue
        losses = [
            loss
            for image in range(len(inputs.grids))
            if batch.image_documents[image] == document
            for loss in _of_image(term, model, flat, batch, image)
        ]
        over = len(losses) + 1e-4 if term.startswith("mask") else 1 + 1e-4
        by_document.append(torch.stack(losses).sum() / over if losses else flat.sum() * 0)
    assert int(documents.max()) + 1 == batch.num_documents
    return torch.stack(by_document).mean()


def _text(model: PixelSail, hidden: Tensor, batch: TrainingBatch, document: int) -> Tensor:
    losses: list[Tensor] = []
    for row in range(len(batch.labels)):
        for place in range(1, batch.labels.shape[1]):
            here, before = batch.inputs.document[row, place], batch.inputs.document[row, place - 1]
            label = int(batch.labels[row, place])
            if label != IGNORED and here == before == document:
                logits = model.output_embedding @ hidden[row, place - 1]
                losses.append(torch.log(torch.exp(logits - logits.max()).sum()) + logits.max() - logits[label])
    return torch.stack(losses).mean() if losses else hidden.sum() * 0


def _of_image(term: str, model: PixelSail, flat: Tensor, batch: TrainingBatch, image: int) -> list[Tensor]:
    grid = batch.inputs.grids[image]
    first = sum(rows * columns for rows, columns in batch.inputs.grids[:image])
    slots = batch.inputs.patch_slots[first : first + grid[0] * grid[1]]
    patches = flat[slots].reshape(1, *grid, -1)
    cells = model.mask_features(patches)
    if term.startswith("distillation/"):
        teacher = term.removeprefix("distillation/")
        head = next(head for head in model.config.distillation if head.teacher == teacher)
        student = model.distillation_heads[teacher](cells if head.source == "mask_features" else patches)[0]
        found: list[Tensor] = []
        for images, targets in batch.features.get(teacher, {}).get(grid, ()):
            if image in images:
                feature = targets.features()[images.index(image)].double()
                wanted = _resized(feature, (student.shape[0], student.shape[1]))
                found.append(((student.permute(2, 0, 1) - wanted) ** 2).sum() / wanted.numel())
        return found
    targets = batch.targets.get(grid)
    place = batch.inputs.images_by_grid()[grid].index(image)
    if targets is None or place not in targets.owner.tolist():
        return []
    size = (grid[0] * model.config.patch_size_px, grid[1] * model.config.patch_size_px)
    with_masks = sorted(set(targets.owner.tolist()))
    truths = functional.interpolate(targets.masks[with_masks.index(place)][None].double(), size=size)[0]
    numbers = [number for number, owner in enumerate(targets.owner.tolist()) if owner == place]
    losses: list[Tensor] = []
    for truth, number in zip(truths, numbers, strict=True):
        query = model.seg_query(flat[targets.seg_slots[number]])
        logits = _resized((cells[0] @ query)[None], size)[0]
        probability = 1 / (1 + torch.exp(-logits))
        if term == "mask_bce":
            losses.append(-(truth * probability.log() + (1 - truth) * (1 - probability).log()).mean())
        else:
            losses.append(1 - (2 * (probability * truth).sum() + 1) / (probability.sum() + truth.sum() + 1))
    return losses


def _resized(channels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, by a matrix for each axis."""
    rows, columns = (_weights(old, new) for old, new in zip(channels.shape[-2:], size, strict=True))
    return rows @ channels @ columns.T


def _weights(old: int, new: int) -> Tensor:
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for place in range(new):
        at = min(max((place + 0.5) * old / new - 0.5, 0.0), old - 1.0)
        low = int(at)
        matrix[place, low] += 1 - (at - low)
        matrix[place, min(low + 1, old - 1)] += at - low
    return matrix


def gradients(model: PixelSail, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("term", TERMS)
def test_gradient_of_a_term(term: str, batch: TrainingBatch, student: PixelSail) -> None:
    """Of every parameter, to 1e-5 of the largest (measured: 6e-7, float32's share)."""
    exact = copy.deepcopy(student).double()
    expected_loss = plain_term(term, exact, batch)
    expected = gradients(exact, expected_loss)
    losses = compute_losses(student, batch, LossWeights.model_validate({**NOTHING, **TERMS[term]}))
    assert losses.total.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    assert losses.terms[term].item() == pytest.approx(expected_loss.item(), rel=1e-5)
    found = gradients(student, losses.total)
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    assert scale > 1e-3
    for name in expected.keys() | found.keys():
        theirs = expected.get(name, torch.zeros_like(exact.get_parameter(name)))
        ours = found.get(name, torch.zeros_like(student.get_parameter(name)))
        assert (ours.double() - theirs).abs().max() < 1e-5 * scale, name
