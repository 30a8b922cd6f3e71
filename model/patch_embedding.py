"""The patch embedding of EVEv2, for patches that are already cut."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from model.config import StudentConfig

__all__ = ["ConvolutionalPatchEmbedding"]

_CHANNELS = 1024
"""Channels between the two convolutions."""


class ConvolutionalPatchEmbedding(nn.Module):
    """Two convolutions whose strides are their kernels: each patch is embedded by itself.

    Source: baaivision/EVE, `EVEv2/eve/model/multimodal_encoder/vision_tokenizer.py`; there p = 32.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        half = config.patch_size_px // 2
        self.patch_size_px = config.patch_size_px
        self.quarters = nn.Conv2d(3, min(_CHANNELS, config.hidden_size), kernel_size=half, stride=half)
        self.join = nn.Conv2d(min(_CHANNELS, config.hidden_size), config.hidden_size, kernel_size=2, stride=2)

    def forward(self, patches: Float[Tensor, "patches pixels"]) -> Float[Tensor, "patches dim"]:
        """Embeds patches, each flattened in (channel, row, column) order."""
        squares = patches.unflatten(1, (3, self.patch_size_px, self.patch_size_px))
        joined: Tensor = self.join(nn.functional.gelu(self.quarters(squares)))
        return joined.flatten(1)
