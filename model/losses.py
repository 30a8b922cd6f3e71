"""The five loss terms: next token, mask BCE, dice, and the two feature distillations.

Sources: Pixel-SAIL (arXiv 2504.10465) section 3.4 and the released code; point sampling as in
PointRend / Mask2Former. Every function returns one value per mask or per image; how they are
weighted and averaged is decided in one place, `model.objective`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

__all__ = [
    "PointDraws",
    "chunked_next_token_loss",
    "dice_loss",
    "distillation_loss",
    "mask_bce_loss",
    "next_token_loss",
    "sample_points",
    "uncertain_points",
]


def next_token_loss(logits: Float[Tensor, "tokens vocab"], targets: Int[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Cross-entropy of each labelled token, in nats."""
    return functional.cross_entropy(logits.float(), targets, reduction="none")


def mask_bce_loss(
    logits: Float[Tensor, "masks points"], targets: Float[Tensor, "masks points"]
) -> Float[Tensor, " masks"]:
    """Binary cross-entropy of each mask, averaged over its points."""
    return functional.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none").mean(1)


def dice_loss(logits: Float[Tensor, "masks points"], targets: Float[Tensor, "masks points"]) -> Float[Tensor, " masks"]:
    """Naive dice of each mask: 1 - (2 * overlap + 1) / (sum + 1)."""
    probabilities, targets = logits.float().sigmoid(), targets.float()
    overlap = (probabilities * targets).sum(1)
    return 1 - (2 * overlap + 1) / (probabilities.sum(1) + targets.sum(1) + 1)


def distillation_loss(
    student: Float[Tensor, "images h w channels"], teacher: Float[Tensor, "images channels th tw"]
) -> Float[Tensor, " images"]:
    """Mean squared error of each image; the teacher is resized bilinearly to the student's grid."""
    if teacher.shape[-2:] != student.shape[1:3]:
        teacher = functional.interpolate(teacher.float(), size=student.shape[1:3], mode="bilinear", align_corners=False)
    return (student.float() - teacher.permute(0, 2, 3, 1)).square().mean((1, 2, 3))


def sample_points(
    maps: Float[Tensor, "masks h w"], points_xy: Float[Tensor, "masks points 2"]
) -> Float[Tensor, "masks points"]:
    """Bilinear samples of maps at points; x and y run from 0 to 1 over the whole map."""
    return functional.grid_sample(
        maps[:, None].float(), 2 * points_xy[:, None] - 1, mode="bilinear", align_corners=False
    )[:, 0, 0]


@dataclass(frozen=True, slots=True)
class PointDraws:
    """Random points for the mask losses, drawn before the logits are known; x and y from 0 to 1."""

    candidates: Float[Tensor, "masks candidates 2"]
    """Points of which the most uncertain are taken."""
    uniform: Float[Tensor, "masks uniform 2"]
    """Points that are taken as they are."""
    num_uncertain: int
    """Candidates to take."""

    @classmethod
    def draw(
        cls,
        num_masks: int,
        num_points: int,
        generator: torch.Generator,
        oversample: float = 3.0,
        importance: float = 0.75,
    ) -> PointDraws:
        """Draws for a number of masks.

        Args:
            num_masks: masks.
            num_points: points per mask that will be taken.
            generator: source of the numbers; it decides the device.
            oversample: candidates per point wanted.
            importance: share of points that are the most uncertain candidates; the rest are uniform.
        """
        num_uncertain = int(importance * num_points)
        candidates, uniform = (
            torch.rand(num_masks, count, 2, generator=generator, device=generator.device)
            for count in (int(num_points * oversample), num_points - num_uncertain)
        )
        return cls(candidates, uniform, num_uncertain)


def uncertain_points(logits: Float[Tensor, "masks h w"], draws: PointDraws) -> Float[Tensor, "masks points 2"]:
    """Points for the mask losses, most of them where the student is least sure (PointRend)."""
    uncertainty = -sample_points(logits.detach(), draws.candidates).abs()
    chosen = uncertainty.topk(draws.num_uncertain, dim=1).indices
    return torch.cat([draws.candidates.gather(1, chosen[..., None].expand(-1, -1, 2)), draws.uniform], dim=1)


def chunked_next_token_loss(
    hidden: Float[Tensor, "tokens dim"],
    output_embedding: Float[Tensor, "vocab dim"],
    targets: Int[Tensor, " tokens"],
    chunk_tokens: int = 512,
) -> Float[Tensor, " tokens"]:
    """Cross-entropy of each token from its hidden state, in nats.

    Logits are held for one chunk at a time; going back, they are computed again.

    Args:
        hidden: hidden states of the tokens before the targets.
        output_embedding: what turns them into logits.
        targets: the tokens to be predicted.
        chunk_tokens: tokens per chunk.
    """

    def losses(states: Tensor, weight: Tensor, wanted: Tensor) -> Tensor:
        return next_token_loss(functional.linear(states, weight), wanted)

    if len(targets) <= chunk_tokens:
        return losses(hidden, output_embedding, targets)
    parts = [
        checkpoint(losses, states, output_embedding, wanted, use_reentrant=False)
        for states, wanted in zip(hidden.split(chunk_tokens), targets.split(chunk_tokens), strict=True)
    ]
    return torch.cat(cast("list[Tensor]", parts))
