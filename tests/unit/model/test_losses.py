"""The loss terms against plain formulas in float64, their gradients, and the points they are taken at."""

from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.losses import (
    PointDraws,
    chunked_next_token_loss,
    dice_loss,
    distillation_loss,
    mask_bce_loss,
    next_token_loss,
    sample_points,
    uncertain_points,
)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses lift half precision by `.float()`; as `.double()` they can be checked numerically."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def resized(grid: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Bilinear resize of (channels, h, w) without aligned corners, cell by cell."""
    out = np.zeros((len(grid), height, width))
    for y in range(height):
        for x in range(width):
            v = max((y + 0.5) * grid.shape[1] / height - 0.5, 0.0)
            u = max((x + 0.5) * grid.shape[2] / width - 0.5, 0.0)
            v0, u0 = int(v), int(u)
            v1, u1 = min(v0 + 1, grid.shape[1] - 1), min(u0 + 1, grid.shape[2] - 1)
            out[:, y, x] = (1 - v + v0) * ((1 - u + u0) * grid[:, v0, u0] + (u - u0) * grid[:, v0, u1])
            out[:, y, x] += (v - v0) * ((1 - u + u0) * grid[:, v1, u0] + (u - u0) * grid[:, v1, u1])
    return out


def test_next_token_is_cross_entropy() -> None:
    logits, targets = draws(5, 7), torch.tensor([0, 6, 3, 3, 1])
    expected = [
        math.log(sum(math.exp(v) for v in row)) - row[target]
        for row, target in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    torch.testing.assert_close(next_token_loss(logits.float(), targets).double(), torch.tensor(expected).double())


def test_mask_bce_is_the_mean_over_points() -> None:
    logits, targets = draws(3, 8), (draws(3, 8, seed=1) > 0).double()
    probabilities = 1 / (1 + (-logits).exp())
    expected = -(targets * probabilities.log() + (1 - targets) * (1 - probabilities).log()).mean(1)
    torch.testing.assert_close(mask_bce_loss(logits.float(), targets.float()).double(), expected, rtol=1e-5, atol=1e-6)


def test_mask_bce_stays_finite_where_the_student_is_sure() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = mask_bce_loss(logits, torch.tensor([[0.0, 0.0]]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(100.0)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5, 0.0]]))


def test_dice_is_naive_with_one_added() -> None:
    logits, targets = draws(3, 8), (draws(3, 8, seed=1) > 0).double()
    probabilities = 1 / (1 + (-logits).exp())
    expected = 1 - (2 * (probabilities * targets).sum(1) + 1) / (probabilities.sum(1) + targets.sum(1) + 1)
    torch.testing.assert_close(dice_loss(logits.float(), targets.float()).double(), expected, rtol=1e-5, atol=1e-6)


def test_dice_of_nothing_on_nothing_is_zero() -> None:
    sure = torch.full((1, 50), -80.0)
    assert dice_loss(sure, torch.zeros(1, 50)).item() == pytest.approx(0.0, abs=1e-6)
    assert dice_loss(-sure, torch.ones(1, 50)).item() == pytest.approx(0.0, abs=1e-6)
    assert dice_loss(sure, torch.ones(1, 50)).item() == pytest.approx(1 - 1 / 51)


@pytest.mark.parametrize("shape", [(4, 6), (2, 3), (7, 5), (12, 9)])
def test_distillation_resizes_the_teacher_to_the_student(shape: tuple[int, int]) -> None:
    student, teacher = draws(2, 4, 6, 3), draws(2, 3, *shape, seed=1)
    expected = [
        ((s.numpy().transpose(2, 0, 1) - resized(t.numpy(), 4, 6)) ** 2).mean()
        for s, t in zip(student, teacher, strict=True)
    ]
    found = distillation_loss(student.float(), teacher.float()).double()
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("double")
def test_gradients_are_those_of_differences() -> None:
    targets = (draws(2, 5, seed=1) > 0).double()
    tokens = torch.tensor([1, 0, 3])
    points = torch.rand(2, 6, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    teacher = draws(2, 3, 4, 2, seed=4)
    check = torch.autograd.gradcheck
    assert check(lambda logits: next_token_loss(logits, tokens), draws(3, 4).requires_grad_())
    assert check(lambda logits: mask_bce_loss(logits, targets), draws(2, 5).requires_grad_())
    assert check(lambda logits: dice_loss(logits, targets), draws(2, 5).requires_grad_())
    assert check(lambda student: distillation_loss(student, teacher), draws(2, 2, 3, 3).requires_grad_())
    assert check(lambda student: distillation_loss(student, teacher), draws(2, 4, 2, 3).requires_grad_())
    assert check(lambda maps: sample_points(maps, points), draws(2, 4, 3).requires_grad_())


def test_half_precision_is_lifted() -> None:
    logits, targets = draws(2, 6).bfloat16(), torch.ones(2, 6)
    for loss in (mask_bce_loss, dice_loss):
        assert loss(logits, targets).dtype == torch.float32
        torch.testing.assert_close(loss(logits, targets), loss(logits.float(), targets))


def test_points_at_cell_centres_have_the_values_of_the_cells() -> None:
    maps = draws(2, 4, 6).float()
    y, x = torch.meshgrid((torch.arange(4) + 0.5) / 4, (torch.arange(6) + 0.5) / 6, indexing="ij")
    points = torch.stack([x, y], dim=-1).view(1, 24, 2).expand(2, -1, -1)
    torch.testing.assert_close(sample_points(maps, points), maps.flatten(1), rtol=1e-5, atol=1e-5)


def test_points_between_centres_are_interpolated() -> None:
    maps = torch.tensor([[[0.0, 4.0], [8.0, 20.0]]])
    points = torch.tensor([[[0.5, 0.25], [0.25, 0.5], [0.5, 0.5]]])
    torch.testing.assert_close(sample_points(maps, points), torch.tensor([[2.0, 4.0, 8.0]]))


def drawn_points(num_masks: int, num_points: int, seed: int = 0, **fields: float) -> PointDraws:
    return PointDraws.draw(num_masks, num_points, torch.Generator().manual_seed(seed), **fields)


def test_uncertain_points_lie_where_the_logit_is_small() -> None:
    """A logit that falls from left to right through zero in the middle of the map."""
    logits = torch.linspace(-8, 8, 33).expand(2, 33, 33).contiguous()
    points = uncertain_points(logits, drawn_points(2, 400))
    assert points.shape == (2, 400, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    uncertain, uniform = sample_points(logits, points[:, :300]).abs(), sample_points(logits, points[:, 300:]).abs()
    # The 300 least certain of 1200 candidates fill about a quarter of the width: |logit| up to about 2.
    assert uncertain.max() < 2.6
    assert uniform.mean() > 3
    assert uncertain.mean() < uniform.mean() / 3


def test_uncertain_points_are_the_candidates_of_smallest_logits() -> None:
    """Those of each mask are its own, and so are the uniform ones."""
    logits, draws_of_three = draws(3, 6, 5).float(), drawn_points(3, 8)
    points = uncertain_points(logits, draws_of_three)
    sampled = sample_points(logits, draws_of_three.candidates).abs()
    for mask in range(3):
        best = sorted(range(24), key=lambda candidate: float(sampled[mask, candidate]))[:6]
        assert points[mask, :6].equal(draws_of_three.candidates[mask, best])
        assert points[mask, 6:].equal(draws_of_three.uniform[mask])


def test_points_follow_from_the_generator() -> None:
    first, again, other = (drawn_points(2, 20, seed) for seed in (1, 1, 2))
    assert first.candidates.equal(again.candidates)
    assert first.uniform.equal(again.uniform)
    assert not first.candidates.equal(other.candidates)
    assert not first.candidates[0].equal(first.candidates[1])
    logits = draws(2, 5, 5).float()
    assert uncertain_points(logits, first).equal(uncertain_points(logits, again))
    assert not uncertain_points(logits, first).equal(uncertain_points(logits, other))


@pytest.mark.parametrize(
    ("num_points", "fields", "expected"),
    [
        (1, {}, (3, 1, 0)),
        (3, {}, (9, 1, 2)),
        (10, {}, (30, 3, 7)),
        (12_544, {}, (37_632, 3136, 9408)),
        (10, {"importance": 0.0}, (30, 10, 0)),
        (10, {"importance": 1.0, "oversample": 1.0}, (10, 0, 10)),
    ],
)
def test_number_of_points(num_points: int, fields: dict[str, float], expected: tuple[int, int, int]) -> None:
    drawn = drawn_points(2, num_points, **fields)
    assert (drawn.candidates.shape[1], drawn.uniform.shape[1], drawn.num_uncertain) == expected
    assert uncertain_points(torch.zeros(2, 2, 2), drawn).shape == (2, num_points, 2)


def test_no_mask_has_no_points() -> None:
    assert uncertain_points(torch.zeros(0, 2, 2), drawn_points(0, 8)).shape == (0, 8, 2)


def test_choosing_points_passes_no_gradient() -> None:
    logits = draws(1, 4, 4).float().requires_grad_()
    assert not uncertain_points(logits, drawn_points(1, 8)).requires_grad


CHUNKS = [1, 3, 4, 6, 11, 12, 13, 100]


@pytest.mark.parametrize("chunk_tokens", CHUNKS)
def test_chunks_give_the_losses_and_gradients_of_all_logits(chunk_tokens: int) -> None:
    targets = torch.randint(0, 17, (12,), generator=torch.Generator().manual_seed(5))
    weights = draws(12, seed=6).float()

    def by(chunked: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        hidden, embedding = (part.float().requires_grad_() for part in (draws(12, 8), draws(17, 8, seed=1)))
        losses = (
            chunked_next_token_loss(hidden, embedding, targets, chunk_tokens)
            if chunked
            else next_token_loss(hidden @ embedding.T, targets)
        )
        return losses, torch.autograd.grad((losses * weights).sum(), (hidden, embedding))

    (found, gradients), (expected, expected_gradients) = by(True), by(False)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-5)
    for one, two in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=0.0, atol=1e-5)


def test_no_target_has_no_loss() -> None:
    found = chunked_next_token_loss(torch.zeros(0, 8), torch.zeros(17, 8), torch.zeros(0, dtype=torch.long), 4)
    assert found.shape == (0,)


def test_logits_of_half_precision_are_lifted_within_each_chunk() -> None:
    hidden, embedding, targets = draws(6, 8).bfloat16(), draws(17, 8, seed=1).bfloat16(), torch.arange(6)
    found = chunked_next_token_loss(hidden, embedding, targets, 4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, next_token_loss(hidden @ embedding.T, targets), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("chunk_tokens", [1, 4, 5])
def test_logits_are_held_for_one_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch, chunk_tokens: int) -> None:
    """Of each chunk they are computed once ahead and once again going back, and are gone before the next."""
    made: list[weakref.ref[Tensor]] = []
    sizes: list[int] = []
    linear = functional.linear

    def spying(inputs: Tensor, weight: Tensor) -> Tensor:
        assert not [logits for logits in made if logits() is not None]
        logits = linear(inputs, weight)
        made.append(weakref.ref(logits))
        sizes.append(len(logits))
        return logits

    monkeypatch.setattr(functional, "linear", spying)
    saved: list[tuple[int, ...]] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    hidden, embedding = draws(12, 8).float().requires_grad_(), draws(17, 8, seed=1).float().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = chunked_next_token_loss(hidden, embedding, torch.arange(12), chunk_tokens)
    chunks = [min(chunk_tokens, 12 - start) for start in range(0, 12, chunk_tokens)]
    assert sizes == chunks
    assert not [shape for shape in saved if shape[-1:] == (17,)]
    losses.sum().backward()
    assert sizes == chunks + chunks[::-1]
