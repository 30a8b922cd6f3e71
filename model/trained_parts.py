"""Which parts of a student are updated: a language model that has never seen a picture starts with the patches alone.

EVEv2 trains its patch embedding beside a frozen language model first, then the weights of patches in every layer, then
everything (arXiv 2502.06788, section 3.3; baaivision/EVE at 14ad99d, EVEv2/scripts/eve). SOLO trains everything from
the first step (arXiv 2407.06438, section 3).
"""

from __future__ import annotations

from typing import Literal

from model.student import PixelSail
from storage.errors import UsageError

__all__ = ["TrainedParts", "train_parts"]

TrainedParts = Literal["all", "patch_embedding", "vision"]
"""`patch_embedding`: `vis_embed` alone; `vision`: with it the weights of patches inside the layers."""


def train_parts(student: PixelSail, parts: TrainedParts) -> PixelSail:
    """Freezes, in place, what isn't among the parts.

    Args:
        student: with whatever is frozen already, which stays so.
        parts: what remains to be trained.

    Raises:
        UsageError: `vision` where patches share their weights with text.
    """
    if parts == "all":
        return student
    if parts == "vision" and student.config.modality_weights == "shared":
        raise UsageError(
            "training.trained: expected student.modality_weights separate beside vision, got shared, where patches "
            "have no weights of their own in the layers; say patch_embedding or all"
        )
    for name, parameter in student.named_parameters():
        is_vision = parts == "vision" and name.startswith("layers.") and ".vision." in name
        if not name.startswith("vis_embed.") and not is_vision:
            parameter.requires_grad_(False)
    return student
