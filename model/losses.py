"""The five loss terms: next token, mask BCE, dice, and the two feature distillations.

Sources: Pixel-SAIL (arXiv 2504.10465) section 3.4 and the released code; point sampling as in
PointRend / Mask2Former. Every function returns one value per mask or per image; how they are
weighted and averaged is decided in one place, `pipelines.training.step`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

__all__ = ["dice_loss", "distillation_loss", "mask_bce_loss", "next_token_loss", "sample_points", "uncertain_points"]


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


def uncertain_points(
    logits: Float[Tensor, "masks h w"],
    num_points: int,
    generator: torch.Generator,
    oversample: float = 3.0,
    importance: float = 0.75,
) -> Float[Tensor, "masks points 2"]:
    """Points for the mask losses, most of them where the student is least sure (PointRend).

    Args:
        logits: predicted mask logits.
        num_points: points per mask.
        generator: source of the random points, on the device of the logits.
        oversample: candidates per point wanted.
        importance: share of points that are the most uncertain candidates; the rest are uniform.
    """
    num_masks = len(logits)
    candidates = torch.rand(num_masks, int(num_points * oversample), 2, generator=generator, device=logits.device)
    uncertainty = -sample_points(logits.detach(), candidates).abs()
    num_uncertain = int(importance * num_points)
    chosen = uncertainty.topk(num_uncertain, dim=1).indices
    uncertain = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    uniform = torch.rand(num_masks, num_points - num_uncertain, 2, generator=generator, device=logits.device)
    return torch.cat([uncertain, uniform], dim=1)
