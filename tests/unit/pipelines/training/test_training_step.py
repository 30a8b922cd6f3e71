"""The loss of a batch: its terms, their weights, and what they are averaged over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.losses import dice_loss, distillation_loss, mask_bce_loss, sample_points, uncertain_points
from model.processor import Processor, collate
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from pipelines.training.config import LossWeights
from pipelines.training.step import LossTerms, TrainingBatch, compute_losses

WEIGHTS = LossWeights()


class Conversations:
    """Conversations with different numbers of masks, sizes and known features, to be put into batches."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        generator = np.random.default_rng(0)
        self.images = [
            generator.integers(0, 256, (*size, 3), np.uint8) for size in ((16, 24), (16, 24), (32, 16), (16, 24))
        ]
        self.turns = [
            [("segment red", "It is [SEG].")],
            [("segment both", "[SEG] [SEG] [SEG]."), ("and that [SEG]?", "No target [SEG].")],
            [("segment blue", "[SEG].")],
            [("what is it?", "a ring")],
            [("hello", "good day to you")],
        ]
        self.masks = [
            torch.from_numpy(generator.random((count, *image.shape[:2])) < 0.4).to(torch.uint8)
            for count, image in zip((1, 4, 1, 0), self.images, strict=True)
        ]
        shapes = {"mask2former": [(4, 6), (4, 6), (8, 4)], "sam2": [(5, 5)] * 2}
        self.features = {
            teacher: [torch.from_numpy(generator.normal(size=(6, *shape))).float() for shape in of_teacher]
            for teacher, of_teacher in shapes.items()
        }

    def batch(self, *numbers: int) -> TrainingBatch:
        """Number 4 is text alone, 3 has no mask and no features, 2 has features of one teacher."""
        rows = [
            self.processor.encode(self.images[number] if number < 4 else None, self.turns[number]) for number in numbers
        ]
        inputs, labels = collate(rows, 0)
        with_image = [number for number in numbers if number < 4]
        features: dict[str, dict[tuple[int, int], tuple[list[int], Tensor]]] = {}
        for teacher, known in self.features.items():
            maps = features.setdefault(teacher, {})
            for grid in sorted(set(inputs.grids)):
                found = [i for i, n in enumerate(with_image) if n < len(known) and inputs.grids[i] == grid]
                if found:
                    maps[grid] = (found, torch.stack([known[with_image[i]] for i in found]))
        return TrainingBatch(
            inputs,
            labels,
            torch.tensor([row for row, number in enumerate(numbers) if number < 4], dtype=torch.long),
            tuple(self.masks[number] for number in with_image),
            features,
        )


@pytest.fixture
def conversations(processor: Processor) -> Conversations:
    return Conversations(processor)


@pytest.fixture
def losses(student: PixelSail, tokenizer: StudentTokenizer) -> Callable[..., LossTerms]:
    def compute(batch: TrainingBatch, weights: LossWeights = WEIGHTS, points: int | None = None) -> LossTerms:
        return compute_losses(student, batch, weights, tokenizer.seg, points, torch.Generator().manual_seed(0))

    return compute


def values(found: LossTerms) -> dict[str, float]:
    return {"total": found.total.item(), **{name: value.item() for name, value in found.terms.items()}}


@pytest.mark.parametrize("numbers", [(0, 1), (0, 2), (1, 4), (3, 1), (4, 3), (2, 0, 4, 1, 3)])
def test_a_batch_is_the_mean_of_its_conversations(
    losses: Callable[..., LossTerms], conversations: Conversations, numbers: tuple[int, ...]
) -> None:
    together = values(losses(conversations.batch(*numbers)))
    alone = [values(losses(conversations.batch(number))) for number in numbers]
    for name, value in together.items():
        expected = sum(found.get(name, 0.0) for found in alone) / len(numbers)
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-7), name


def test_gradients_of_a_batch_are_the_mean_of_its_conversations(
    losses: Callable[..., LossTerms], conversations: Conversations, student: PixelSail
) -> None:
    def gradients(batch: TrainingBatch) -> list[Tensor]:
        parameters = list(student.parameters())
        found = torch.autograd.grad(losses(batch).total, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    numbers = (1, 4, 2)
    together = gradients(conversations.batch(*numbers))
    alone = [gradients(conversations.batch(number)) for number in numbers]
    for whole, *parts in zip(together, *alone, strict=True):
        torch.testing.assert_close(whole, sum(parts) / 3, rtol=1e-4, atol=1e-6)


def test_terms_are_the_formulas(
    losses: Callable[..., LossTerms], conversations: Conversations, student: PixelSail, tokenizer: StudentTokenizer
) -> None:
    batch = conversations.batch(1)
    found = values(losses(batch))
    with torch.no_grad():
        hidden = student(batch.inputs)
        maps = student.patch_maps(hidden, batch.inputs)[2, 3][1]
        cells = student.mask_features(maps)
        answers = (batch.inputs.input_ids[0] == tokenizer.seg) & (batch.labels[0] == tokenizer.seg)
        logits = torch.einsum("mq,hwq->mhw", student.seg_query(hidden[0][answers]), cells[0])
        logits = functional.interpolate(logits[None], size=(16, 24), mode="bilinear", align_corners=False)[0].flatten(1)
        targets = batch.masks[0].float().flatten(1)
        labels = batch.labels[0, 1:]
        text = functional.cross_entropy(student.logits(hidden[0, :-1]), labels, ignore_index=-100)
        head = student.distillation_heads
        mask2former = distillation_loss(head["mask2former"](cells), batch.features["mask2former"][2, 3][1])
        sam2 = distillation_loss(head["sam2"](maps), batch.features["sam2"][2, 3][1])
    assert found["text"] == pytest.approx(text.item(), rel=1e-5)
    assert found["mask_bce"] == pytest.approx(mask_bce_loss(logits, targets).sum().item() / 4.0001, rel=1e-5)
    assert found["mask_dice"] == pytest.approx(dice_loss(logits, targets).sum().item() / 4.0001, rel=1e-5)
    assert found["distillation/mask2former"] == pytest.approx(mask2former.item() / 1.0001, rel=1e-5)
    assert found["distillation/sam2"] == pytest.approx(sam2.item() / 1.0001, rel=1e-5)


NONE = LossWeights(text_with_masks=0, text=0, mask_bce=0, mask_dice=0, distillation={})


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("text", {"text_with_masks": 3.0}),
        ("mask_bce", {"mask_bce": 3.0}),
        ("mask_dice", {"mask_dice": 3.0}),
        ("distillation/mask2former", {"distillation": {"mask2former": 3.0}}),
        ("distillation/sam2", {"distillation": {"sam2": 3.0}}),
    ],
)
def test_each_term_has_its_own_weight(
    losses: Callable[..., LossTerms], conversations: Conversations, name: str, weights: dict[str, object]
) -> None:
    batch = conversations.batch(0, 1)
    found = values(losses(batch, NONE.model_copy(update=weights)))
    assert found[name] > 0
    assert found["total"] == pytest.approx(3.0 * found[name], rel=1e-5)
    assert values(losses(batch, NONE))["total"] == 0


def test_published_weights_add_up(losses: Callable[..., LossTerms], conversations: Conversations) -> None:
    found = values(losses(conversations.batch(0, 1)))
    expected = 0.1 * found["text"] + 2.0 * found["mask_bce"] + 0.5 * found["mask_dice"]
    expected += 0.5 * (found["distillation/mask2former"] + found["distillation/sam2"])
    assert found["total"] == pytest.approx(expected, rel=1e-5)


def test_text_counts_in_full_where_there_is_no_mask(
    losses: Callable[..., LossTerms], conversations: Conversations
) -> None:
    for number in (3, 4):
        found = values(losses(conversations.batch(number)))
        assert found == {
            "total": pytest.approx(found["text"]),
            "text": pytest.approx(6, abs=2),
            "mask_bce": 0.0,
            "mask_dice": 0.0,
        }
    only_text = LossWeights(text_with_masks=0.1, text=1.0, mask_bce=0, mask_dice=0, distillation={})
    both = values(losses(conversations.batch(0, 4), only_text))["total"]
    first, second = (values(losses(conversations.batch(number), only_text)) for number in (0, 4))
    assert both == pytest.approx((0.1 * first["text"] + second["text"]) / 2, rel=1e-5)


def test_a_teacher_without_weight_costs_nothing(
    losses: Callable[..., LossTerms], conversations: Conversations, student: PixelSail
) -> None:
    weights = WEIGHTS.model_copy(update={"distillation": {"sam2": 0.5}})
    losses(conversations.batch(0, 1), weights).total.backward()
    gradient = student.distillation_heads["mask2former"].weight.grad
    assert gradient is None or not gradient.any()
    assert student.distillation_heads["sam2"].weight.grad.any()


def test_masks_in_questions_are_no_targets(losses: Callable[..., LossTerms], conversations: Conversations) -> None:
    """Conversation 1 has a `[SEG]` in a question and four in its answers."""
    batch = conversations.batch(1)
    assert losses(batch).terms["mask_bce"] > 0
    fewer = replace(batch, masks=(batch.masks[0][:3],))
    with pytest.raises(ValueError, match=r"\[SEG\] tokens: expected 3, one per target mask, got 4"):
        losses(fewer)


def test_each_mask_meets_its_own_answer(losses: Callable[..., LossTerms], conversations: Conversations) -> None:
    batch = conversations.batch(0, 1)
    first, second = batch.masks
    swapped = replace(batch, masks=(first, second.flip(0)))
    assert values(losses(batch))["mask_bce"] != pytest.approx(values(losses(swapped))["mask_bce"], rel=1e-4)


def test_sampled_points_are_the_uncertain_ones(
    losses: Callable[..., LossTerms], conversations: Conversations, student: PixelSail, tokenizer: StudentTokenizer
) -> None:
    """Three pictures of one grid, the first without a mask: logits and targets are sampled at the same points."""
    batch = conversations.batch(3, 0, 1)
    found = values(losses(batch, points=40))
    with torch.no_grad():
        hidden = student(batch.inputs)
        cells = student.mask_features(student.patch_maps(hidden, batch.inputs)[2, 3][1])
        answers = (batch.inputs.input_ids == tokenizer.seg) & (batch.labels == tokenizer.seg)
        logits = [
            torch.einsum("mq,hwq->mhw", student.seg_query(hidden[row][answers[row]]), cells[row]) for row in (1, 2)
        ]
        where = uncertain_points(torch.cat(logits), 40, torch.Generator().manual_seed(0))
        points = sample_points(torch.cat(logits), where).split([1, 4])
        targets = [
            sample_points(masks.float(), at) for masks, at in zip(batch.masks[1:], where.split([1, 4]), strict=True)
        ]
    for name, loss in (("mask_bce", mask_bce_loss), ("mask_dice", dice_loss)):
        per_row = [loss(p, t).sum().item() / (len(p) + 1e-4) for p, t in zip(points, targets, strict=True)]
        assert found[name] == pytest.approx(sum(per_row) / 3, rel=1e-5)


def test_the_total_falls_along_its_gradient(
    losses: Callable[..., LossTerms], conversations: Conversations, student: PixelSail
) -> None:
    """The derivative along the gradient, by central differences, is the gradient's squared norm."""
    batch = conversations.batch(0, 1, 2, 3, 4)
    losses(batch).total.backward()
    parameters = [p for p in student.parameters() if p.grad is not None]
    gradients = [p.grad.clone() for p in parameters if p.grad is not None]
    squared = sum(float((g**2).sum()) for g in gradients)
    step, found = 3e-4, list[float]()
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter += sign * step * gradient
            found.append(losses(batch).total.item())
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= sign * step * gradient
    assert (found[0] - found[1]) / (2 * step) == pytest.approx(squared, rel=0.01)


def test_a_batch_moves_as_a_whole(conversations: Conversations) -> None:
    moved = conversations.batch(0, 2).to("meta")
    assert moved.labels.device.type == moved.masks[1].device.type == "meta"
    assert moved.features["sam2"][2, 3][1].device.type == "meta"
    assert moved.features["sam2"][2, 3][0] == [0]
