"""The loss of a batch: which token answers for what, its terms, their weights, and what they are averaged over."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.attention import plan_attention
from model.config import StudentConfig
from model.feature_targets import FeatureTargets, plain_targets
from model.losses import dice_loss, distillation_loss, mask_bce_loss, sample_points, uncertain_points
from model.objective import (
    FeatureGroup,
    LossTerms,
    LossWeights,
    TrainingBatch,
    compute_losses,
    draw_points,
    losses_of,
    training_batch,
)
from model.packing import collate_packed
from model.processor import IGNORED, EncodedRow, Picture, Processor, Text
from model.student import PixelSail
from model.tokenizer import StudentTokenizer

WEIGHTS = LossWeights()
Masks = Sequence[Tensor]


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
        shapes = {"mask2former": (6, [(4, 6), (4, 6), (8, 4)]), "sam2": (5, [(5, 5)] * 2)}
        self.features = {
            teacher: [torch.from_numpy(generator.normal(size=(channels, *shape))).float() for shape in of_teacher]
            for teacher, (channels, of_teacher) in shapes.items()
        }

    def row(self, number: int) -> EncodedRow:
        """Number 4 is text alone, 3 has no mask and no features, 2 has features of one teacher."""
        return self.processor.encode(self.images[number] if number < 4 else None, self.turns[number])

    def batch(self, *numbers: int, masks: Masks | None = None) -> TrainingBatch:
        """One conversation a row."""
        return self.packed(*([number] for number in numbers), masks=masks)

    def packed(self, *groups: list[int], masks: Masks | None = None) -> TrainingBatch:
        """Several conversations a row."""
        inputs, labels = collate_packed([[self.row(number) for number in group] for group in groups], 0)
        with_image = [number for group in groups for number in group if number < 4]
        features: dict[str, dict[tuple[int, int], list[FeatureGroup]]] = {}
        for teacher, known in self.features.items():
            maps = features.setdefault(teacher, {})
            for grid in sorted(set(inputs.grids)):
                found = [i for i, n in enumerate(with_image) if n < len(known) and inputs.grids[i] == grid]
                if found:
                    maps[grid] = [(found, plain_targets(torch.stack([known[with_image[i]] for i in found])))]
        masks = [self.masks[number] for number in with_image] if masks is None else masks
        return training_batch(inputs, labels, masks, features, self.processor.tokenizer.seg)


@pytest.fixture
def student(config: StudentConfig) -> PixelSail:
    """Weights as small as those that training starts from."""
    config = config.model_copy(update={"initializer_range": 0.02, "rope_theta": 100.0, "mask_dim": 16})
    return PixelSail(config).init_weights(torch.Generator().manual_seed(0))


@pytest.fixture
def conversations(processor: Processor) -> Conversations:
    return Conversations(processor)


@pytest.fixture
def losses(student: PixelSail) -> Callable[..., LossTerms]:
    def compute(batch: TrainingBatch, weights: LossWeights = WEIGHTS, points: int | None = None) -> LossTerms:
        drawn = None if points is None else draw_points(batch, points, torch.Generator().manual_seed(0))
        return compute_losses(student, batch, weights, drawn)

    return compute


def values(found: LossTerms) -> dict[str, float]:
    return {"total": found.total.item(), **{name: value.item() for name, value in found.terms.items()}}


def gradients_of(student: PixelSail, loss: Tensor) -> dict[str, Tensor]:
    names = [name for name, _ in student.named_parameters()]
    found = torch.autograd.grad(loss, list(student.parameters()), allow_unused=True)
    return {name: part for name, part in zip(names, found, strict=True) if part is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To 1e-5 of the largest."""
    scale = max(float(part.abs().max()) for part in expected.values())
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        torch.testing.assert_close(found[name] / scale, part / scale, rtol=0.0, atol=1e-5, msg=name)


@pytest.mark.parametrize("numbers", [(0, 1), (0, 2), (1, 4), (3, 1), (4, 3), (2, 0, 4, 1, 3)])
def test_a_batch_is_the_mean_of_its_conversations(
    losses: Callable[..., LossTerms], conversations: Conversations, numbers: tuple[int, ...]
) -> None:
    together = values(losses(conversations.batch(*numbers)))
    alone = [values(losses(conversations.batch(number))) for number in numbers]
    for name, value in together.items():
        expected = sum(found.get(name, 0.0) for found in alone) / len(numbers)
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-7), name


def test_each_conversation_has_its_loss(losses: Callable[..., LossTerms], conversations: Conversations) -> None:
    numbers = (2, 0, 4, 1, 3)
    together = losses(conversations.packed([2, 0], [4, 1, 3])).per_document
    alone = torch.stack([losses(conversations.batch(number)).total for number in numbers])
    torch.testing.assert_close(together, alone.detach(), rtol=1e-4, atol=1e-7)
    assert not together.requires_grad


def test_shapes_of_features_are_groups_of_their_own(
    losses: Callable[..., LossTerms], conversations: Conversations
) -> None:
    """A teacher's maps of two shapes for one student grid: each image counts as it would alone."""
    batch = conversations.batch(0, 1)
    ((images, stacked),) = batch.features["mask2former"][2, 3]
    assert images == [0, 1]
    wider = functional.interpolate(stacked.values[1:], size=(8, 12), mode="bilinear", align_corners=False)
    groups = [([1], plain_targets(wider)), ([0], plain_targets(stacked.values[:1]))]
    mixed = replace(batch, features={**batch.features, "mask2former": {(2, 3): groups}})
    resized = functional.interpolate(wider, size=(4, 6), mode="bilinear", align_corners=False)
    one = [([0, 1], plain_targets(torch.cat([stacked.values[:1], resized])))]
    expected = replace(batch, features={**batch.features, "mask2former": {(2, 3): one}})
    assert values(losses(mixed)) == pytest.approx(values(losses(expected)), rel=1e-6)


def test_gradients_of_a_batch_are_the_mean_of_its_conversations(
    losses: Callable[..., LossTerms], conversations: Conversations, student: PixelSail
) -> None:
    def gradients(batch: TrainingBatch) -> list[Tensor]:
        found = gradients_of(student, losses(batch).total)
        return [found.get(name, torch.zeros_like(p)) for name, p in student.named_parameters()]

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
        targets = conversations.masks[1].float().flatten(1)
        labels = batch.labels[0, 1:]
        text = functional.cross_entropy(student.logits(hidden[0, :-1]), labels, ignore_index=-100)
        head = student.distillation_heads
        of_teachers = {teacher: grids[2, 3][0][1].values for teacher, grids in batch.features.items()}
        mask2former = distillation_loss(head["mask2former"](cells), of_teachers["mask2former"])
        sam2 = distillation_loss(head["sam2"](maps), of_teachers["sam2"])
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


@pytest.mark.parametrize("distillation", [{"sam2": 0.5}, {"sam2": 0.5, "mask2former": 0.0}])
def test_a_teacher_without_weight_is_not_computed(
    losses: Callable[..., LossTerms],
    conversations: Conversations,
    student: PixelSail,
    distillation: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed: list[int] = []
    error_of = FeatureTargets.error_of

    def noted(self: FeatureTargets, head: torch.nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        computed.append(id(head))
        return error_of(self, head, inputs)

    monkeypatch.setattr(FeatureTargets, "error_of", noted)
    found = losses(conversations.batch(0, 1), WEIGHTS.model_copy(update={"distillation": distillation}))
    assert set(computed) == {id(student.distillation_heads["sam2"])}
    assert set(found.terms) == {"text", "mask_bce", "mask_dice", "distillation/sam2"}
    found.total.backward()
    assert student.distillation_heads["mask2former"].weight.grad is None
    assert student.distillation_heads["sam2"].weight.grad.any()


def test_masks_in_questions_are_no_targets(losses: Callable[..., LossTerms], conversations: Conversations) -> None:
    """Conversation 1 has a `[SEG]` in a question and four in its answers."""
    assert losses(conversations.batch(1)).terms["mask_bce"] > 0
    with pytest.raises(ValueError, match=r"\[SEG\] tokens of image 1: expected 3, one per target mask, got 4"):
        conversations.batch(0, 1, masks=[conversations.masks[0], conversations.masks[1][:3]])


def test_each_mask_meets_its_own_answer(losses: Callable[..., LossTerms], conversations: Conversations) -> None:
    first, second = conversations.masks[:2]
    swapped = conversations.batch(0, 1, masks=[first, second.flip(0)])
    expected = values(losses(conversations.batch(0, 1)))["mask_bce"]
    assert expected != pytest.approx(values(losses(swapped))["mask_bce"], rel=1e-4)


def answers_of(batch: TrainingBatch) -> dict[int, list[int]]:
    """Places of the `[SEG]` tokens in the flattened rows that answer with the masks of each image."""
    found: dict[int, list[int]] = {}
    for grid, images in batch.inputs.images_by_grid().items():
        if grid in batch.targets:
            targets = batch.targets[grid]
            for owner, place, slot in zip(targets.owner, targets.place, targets.seg_slots.tolist(), strict=True):
                slots = found.setdefault(images[int(owner)], [])
                assert len(slots) == int(place)
                slots.append(slot)
    return found


def blank(*counts: int, size: tuple[int, int] = (8, 8)) -> list[Tensor]:
    return [torch.zeros(count, *size, dtype=torch.uint8) for count in counts]


def joined(tokenizer: StudentTokenizer, masks: Masks, *rows: Sequence[EncodedRow]) -> TrainingBatch:
    inputs, labels = collate_packed(rows, 0)
    return training_batch(inputs, labels, masks, {}, tokenizer.seg)


def test_a_mask_belongs_to_the_image_shown_last_before_it(
    processor: Processor, tokenizer: StudentTokenizer, picture: Callable[..., NDArray[np.uint8]]
) -> None:
    """Three pictures, about one of which nothing is said; before them another conversation, and padding."""
    row = processor.encode_parts(
        [
            Text("[SEG]", is_answer=True),
            Picture(picture(8, 8, 1)),
            Text("[SEG] and"),
            Text("[SEG] [SEG]", is_answer=True),
            Picture(picture(8, 16, 2)),
            Picture(picture(8, 8, 3)),
            Text("[SEG]", is_answer=True, branch=1),
            Text("It is [SEG]", is_answer=True, branch=2),
        ]
    )
    other = processor.encode(picture(8, 8, 4), [("q", "[SEG]")])
    text = processor.encode(None, [("q", "[SEG]")])
    seg = (row.input_ids == tokenizer.seg).nonzero()[:, 0].tolist()
    assert len(seg) == 6
    batch = joined(tokenizer, blank(1, 2, 0, 2), [other, text], [text, row])
    start = batch.inputs.input_ids.shape[1] + len(text.input_ids)
    own = (other.input_ids == tokenizer.seg).nonzero()[:, 0].tolist()
    assert answers_of(batch) == {0: own, 1: [start + seg[2], start + seg[3]], 3: [start + seg[4], start + seg[5]]}
    assert batch.image_documents.tolist() == [0, 3, 3, 3]
    assert batch.num_documents == 4
    (targets,) = batch.targets.values()
    assert targets.documents.tolist() == [0, 3, 3, 3, 3]
    assert [len(masks) for masks in targets.masks] == [1, 2, 2]
    assert targets.most == 2


def test_two_pictures_of_one_conversation_are_segmented_each_by_its_own_map(
    student: PixelSail, processor: Processor, tokenizer: StudentTokenizer, picture: Callable[..., NDArray[np.uint8]]
) -> None:
    row = processor.encode_parts(
        [
            Picture(picture(16, 24, 1)),
            Text("[SEG] [SEG]", is_answer=True),
            Picture(picture(16, 24, 2)),
            Text("[SEG]", is_answer=True),
        ]
    )
    masks = [(torch.rand(count, 16, 24, generator=torch.Generator().manual_seed(count)) < 0.4) for count in (2, 1)]
    batch = joined(tokenizer, [mask.to(torch.uint8) for mask in masks], [row])
    found = compute_losses(student, batch, WEIGHTS)
    with torch.no_grad():
        hidden = student(batch.inputs)
        cells = student.mask_features(student.patch_maps(hidden, batch.inputs)[2, 3][1])
        queries = student.seg_query(hidden[0][row.labels == tokenizer.seg])
        logits = torch.einsum("mq,mhwq->mhw", queries, cells[[0, 0, 1]])
        logits = functional.interpolate(logits[None], size=(16, 24), mode="bilinear", align_corners=False)[0]
        expected = mask_bce_loss(logits.flatten(1), torch.cat(masks).float().flatten(1)).sum() / 3.0001
    assert found.terms["mask_bce"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_labels_are_predicted_by_the_token_before_them(conversations: Conversations) -> None:
    for batch in (conversations.batch(1, 4, 3), conversations.packed([1, 4], [3])):
        following = batch.inputs.input_ids.flatten()[batch.label_slots + 1]
        assert batch.label_ids.equal(following)
        assert batch.label_ids.equal(batch.labels[batch.labels != IGNORED])
        assert batch.label_documents.equal(batch.inputs.document.flatten()[batch.label_slots + 1])


def test_a_label_on_the_first_token_of_a_conversation_has_nothing_before_it(
    processor: Processor, tokenizer: StudentTokenizer
) -> None:
    rows = [processor.encode_parts([Text(text, is_answer=True)]) for text in ("good day", "the blue ring")]
    alone, packed = joined(tokenizer, [], rows[:1], rows[1:]), joined(tokenizer, [], rows)
    assert alone.label_ids.equal(torch.cat([row.labels[1:] for row in rows]))
    assert packed.label_ids.equal(alone.label_ids)
    assert packed.label_documents.equal(alone.label_documents)


PACKED = [[[0, 1]], [[2, 0], [4, 1, 3]], [[4], [3, 1], [2]], [[1, 2, 0, 4, 3]]]


@pytest.mark.parametrize("points", [None, 40])
@pytest.mark.parametrize("groups", PACKED)
def test_packing_changes_no_term(
    losses: Callable[..., LossTerms], conversations: Conversations, groups: list[list[int]], points: int | None
) -> None:
    packed = values(losses(conversations.packed(*groups), points=points))
    alone = values(losses(conversations.batch(*(number for group in groups for number in group)), points=points))
    assert packed == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("groups", PACKED)
def test_packing_changes_no_gradient(
    losses: Callable[..., LossTerms], conversations: Conversations, student: PixelSail, groups: list[list[int]]
) -> None:
    packed = gradients_of(student, losses(conversations.packed(*groups)).total)
    alone = gradients_of(student, losses(conversations.batch(*(n for group in groups for n in group))).total)
    assert_same_gradients(packed, alone)


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
        draws = draw_points(batch, 40, torch.Generator().manual_seed(0))
        assert list(draws) == [(2, 3)]
        where = uncertain_points(torch.cat(logits), draws[2, 3])
        points = sample_points(torch.cat(logits), where).split([1, 4])
        targets = [
            sample_points(masks.float(), at)
            for masks, at in zip(conversations.masks[:2], where.split([1, 4]), strict=True)
        ]
    for name, loss in (("mask_bce", mask_bce_loss), ("mask_dice", dice_loss)):
        per_row = [loss(p, t).sum().item() / (len(p) + 1e-4) for p, t in zip(points, targets, strict=True)]
        assert found[name] == pytest.approx(sum(per_row) / 3, rel=1e-5)


def test_points_are_drawn_for_each_grid_with_masks(conversations: Conversations) -> None:
    draws = draw_points(conversations.batch(2, 0, 1, 3), 8, torch.Generator().manual_seed(0))
    assert {grid: len(drawn.candidates) for grid, drawn in draws.items()} == {(4, 2): 1, (2, 3): 5}
    assert draw_points(conversations.batch(3, 4), 8, torch.Generator()) == {}


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


def test_masks_of_another_size_are_resized(
    losses: Callable[..., LossTerms], processor: Processor, tokenizer: StudentTokenizer
) -> None:
    """A picture that isn't a whole number of patches: its masks come in its own pixels."""
    image = np.zeros((20, 30, 3), np.uint8)
    row = processor.encode(image, [("q", "[SEG]")])
    mask = (torch.rand(1, 20, 30, generator=torch.Generator().manual_seed(0)) < 0.4).to(torch.uint8)
    size = tuple(8 * side for side in row.grids[0])
    assert size != (20, 30)
    nearest = functional.interpolate(mask[None].float(), size=size, mode="nearest")[0].to(torch.uint8)
    found, expected = (losses(joined(tokenizer, [masks], [row])) for masks in (mask, nearest))
    assert values(found) == pytest.approx(values(expected), rel=1e-6)


def test_losses_of_a_forward_pass_that_is_done(conversations: Conversations, student: PixelSail) -> None:
    batch = conversations.batch(0, 1)
    found = losses_of(student, student(batch.inputs), batch, WEIGHTS)
    assert values(found) == values(compute_losses(student, batch, WEIGHTS))


def test_the_plan_of_attention_can_be_made_before(conversations: Conversations, student: PixelSail) -> None:
    batch = conversations.packed([0, 1], [2])
    expected = values(compute_losses(student, batch, WEIGHTS))
    for compiled in (False, True):
        plan = plan_attention(batch.inputs.structure, compiled=compiled)
        assert values(compute_losses(student, batch, WEIGHTS, plan=plan)) == pytest.approx(expected, rel=1e-5)


def test_long_answers_are_read_in_chunks(
    losses: Callable[..., LossTerms], processor: Processor, student: PixelSail, tokenizer: StudentTokenizer
) -> None:
    row = processor.encode(None, [("hello", "good day to you, " * 50)])
    batch = joined(tokenizer, [], [row])
    assert len(batch.label_ids) > 512
    with torch.no_grad():
        logits = student.logits(student(batch.inputs)[0, :-1])
        expected = functional.cross_entropy(logits, row.labels[1:], ignore_index=IGNORED)
    assert losses(batch).terms["text"].item() == pytest.approx(expected.item(), rel=1e-5)


VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "separate": {"modality_weights": "separate", "patch_embedding": "convolutions"},
    "plain": {"visual_prompt": "pooled", "upsampling": "none", "tie_word_embeddings": False},
}


def varied(student: PixelSail, tokenizer: StudentTokenizer, fields: dict[str, Any]) -> tuple[PixelSail, TrainingBatch]:
    """A student of another kind and a packed batch, with regions that are pointed at."""
    config = student.config.model_copy(update=fields)
    conversations = Conversations(Processor(config, tokenizer))
    region = np.zeros((16, 24), np.bool_)
    region[:9, 9:] = True
    pointing = conversations.processor.encode(
        conversations.images[0], [("what is <Prompt1>?", "a ring, It is [SEG].")], [(1, region)]
    )
    rows = [[conversations.row(1), conversations.row(4), pointing], [conversations.row(2), conversations.row(3)]]
    inputs, labels = collate_packed(rows, 0)
    masks = [conversations.masks[number] for number in (1, 0, 2, 3)]
    sam2, mask2former = (conversations.features[teacher] for teacher in ("sam2", "mask2former"))
    features = {
        "sam2": {(2, 3): [([0, 1], plain_targets(torch.stack(sam2)))]},
        "mask2former": {
            (4, 2): [([2], plain_targets(mask2former[2][None]))],
            (2, 3): [([1], plain_targets(mask2former[0][None]))],
        },
    }
    batch = training_batch(inputs, labels, masks, features, tokenizer.seg)
    return PixelSail(config).init_weights(torch.Generator().manual_seed(0)), batch


@pytest.mark.parametrize("whole", [False, True], ids=["autocast", "weights too"])
@pytest.mark.parametrize("points", [None, 40])
@pytest.mark.parametrize("fields", VARIANTS.values(), ids=list(VARIANTS))
def test_half_precision_gives_close_losses(
    student: PixelSail, tokenizer: StudentTokenizer, fields: dict[str, Any], points: int | None, *, whole: bool
) -> None:
    """Of eight bits, the terms measured differ by up to 0.007; every weight gets a finite gradient."""
    model, batch = varied(student, tokenizer, fields)
    drawn = None if points is None else draw_points(batch, points, torch.Generator().manual_seed(0))
    exact = values(compute_losses(model, batch, WEIGHTS, drawn))
    if whole:
        model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=not whole):
        half = compute_losses(model, batch, WEIGHTS, drawn)
    assert half.total.dtype == torch.float32
    assert values(half) == pytest.approx(exact, rel=0.02)
    gradients = gradients_of(model, half.total)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    unused = {"vp_embed.weight"} if model.config.visual_prompt == "pooled" else set()
    assert {name for name, _ in model.named_parameters()} - gradients.keys() == unused


def test_the_objective_is_one_graph(
    student: PixelSail, processor: Processor, tokenizer: StudentTokenizer, tmp_path: Path
) -> None:
    """Forward and back, with the losses and gradients of plain execution, whatever the student and its batch."""
    long = joined(tokenizer, [], [processor.encode(None, [("hello", "good day to you, " * 50)])])
    assert len(long.label_ids) > 512
    kinds = [("published", None, True), ("published", 40, False), ("separate", 40, False), ("plain", None, True)]
    cases = {
        f"{name}, {'all pixels' if points is None else 'points'}": (
            *varied(student, tokenizer, VARIANTS[name]),
            points,
            again,
        )
        for name, points, again in kinds
    }
    cases["a long answer"] = (student, long, None, False)
    expected: dict[str, tuple[dict[str, float], dict[str, Tensor]]] = {}
    for name, (model, batch, points, again) in cases.items():
        drawn = None if points is None else draw_points(batch, points, torch.Generator().manual_seed(0))
        plan = plan_attention(batch.inputs.structure, compiled=True) if again else None
        job = (model.config, model.state_dict(), again, batch, drawn, plan)
        (tmp_path / f"{name}.job").write_bytes(pickle.dumps(job))
        losses = compute_losses(model, batch, WEIGHTS, drawn)
        expected[name] = values(losses), gradients_of(model, losses.total)
    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    worker = Path(__file__).with_name("graph_worker.py")
    done = subprocess.run(
        [sys.executable, str(worker), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name, (losses, gradients) in expected.items():
        found, compiled = pickle.loads((tmp_path / f"{name}.found").read_bytes())
        assert found == pytest.approx(losses, rel=1e-5), name
        assert_same_gradients(compiled, gradients)


def test_a_batch_moves_as_a_whole(conversations: Conversations) -> None:
    moved = conversations.batch(0, 2).to("meta")
    tensors = [moved.labels, moved.image_documents, moved.label_slots, moved.label_ids, moved.label_documents]
    ((images, sam2),) = moved.features["sam2"][2, 3]
    tensors += [moved.inputs.input_ids, sam2.values]
    for targets in moved.targets.values():
        tensors += [targets.seg_slots, targets.owner, targets.place, targets.documents, *targets.masks]
    assert len(tensors) == 7 + 2 * 5
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert images == [0]
    assert moved.num_documents == 2
