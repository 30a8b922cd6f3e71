"""Mask2Former: per-pixel mask features at stride 4, the output of its pixel decoder.

Backbone and pixel decoder come from transformers; the transformer decoder behind them is neither
needed nor kept. Cheng et al., "Masked-attention Mask Transformer for Universal Image
Segmentation" (arXiv 2112.01527), section 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from jaxtyping import Float
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor, nn

from storage.keys import Json
from teachers.base import BaseTeacherConfig, ModuleTeacher, StudentSource, build_seeded
from teachers.checkpoints import check_source, load_pretrained
from teachers.device import real_dtype, wants_compilation
from teachers.mask2former_sizes import MASK2FORMER_SIZES, Mask2FormerSize, Mask2FormerSizes
from teachers.official_detectron2 import load_official_mask2former
from teachers.resize import (
    lookup_normalised,
    nearest_short_side_size,
    pad_to,
    require_rgb,
    round_up,
    short_side_size,
    subtract_and_divide,
)

if TYPE_CHECKING:
    from transformers import Mask2FormerConfig
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentation

__all__ = ["Mask2FormerSizes", "Mask2FormerTeacher", "Mask2FormerTeacherConfig", "network_config"]

_STRIDE = 4
_LAYER = "pixel_decoder.mask_features"


class Mask2FormerTeacherConfig(BaseTeacherConfig, frozen=True):
    """A Mask2Former teacher, from a checkpoint, or random of a published or a small size."""

    student_source: ClassVar[StudentSource] = "mask_features"
    """Compared with the student's mask features, which are at a like stride."""
    kind: Literal["mask2former"] = "mask2former"
    """Names this teacher among the others."""
    checkpoint: str | None = None
    """Folder, hub or packaged name in transformers' format, such as `facebook/mask2former-swin-large-coco-panoptic`,
    or an official `.pkl` of detectron2 with a Swin backbone.

    None: a random network of `size` or `tiny`.
    """
    backend: Literal["transformers", "official"] = "transformers"
    """Whose code runs: transformers', or the authors' on detectron2 with their own file, which is optional."""
    size: Mask2FormerSize | None = None
    """Published size of a random network; null: the sizes in `tiny`."""
    tiny: Mask2FormerSizes = Mask2FormerSizes()
    """Sizes of the random network that is used without a checkpoint; of a published `size` the seed alone counts."""
    resize: Literal["stretch", "pad"] = "stretch"
    """How both sides come to be multiples of `multiple_px`. `stretch`: transformers' rule, which released Pixel-SAIL
    weights were distilled with; features cover the image exactly. `pad`: detectron2's rule, zeros on the right and
    below; the last rows and columns of features are of padding, so that their grid isn't quite the image's."""
    short_side_px: int = Field(default=800, gt=32)
    """Short side of the resized image in px, before stretching or padding to multiples of `multiple_px`.

    A single image of 32 x 32 px would be one cell at stride 32, which torch's group norm refuses.
    """
    long_side_px: int = Field(default=1333, gt=32)
    """Upper limit of the long side in px, before stretching or padding."""
    multiple_px: int = Field(default=32, ge=32, multiple_of=32)
    """Both sides are stretched or padded up to a multiple of this many px."""

    @model_validator(mode="after")
    def _one_source(self) -> Mask2FormerTeacherConfig:
        check_source(self.checkpoint, self.size, self.backend)
        return self

    def input_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Aspect-preserving size, each side then rounded up to a multiple."""
        height, width = self._resized(height_px, width_px)
        return round_up(height, self.multiple_px), round_up(width, self.multiple_px)

    def output_grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """A quarter of the input size."""
        height, width = self.input_size(height_px, width_px)
        return height // _STRIDE, width // _STRIDE

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """Resizes with PIL's bilinear filter and normalises.

        `stretch` equals transformers' PIL processor, `pad` detectron2's test-time transform, bit for bit.
        """
        require_rgb(image)
        height, width = self.input_size(image.height, image.width)
        if self.resize == "stretch":
            return lookup_normalised(image.resize((width, height), Image.Resampling.BILINEAR))
        inner_height, inner_width = self._resized(image.height, image.width)
        resized = image.resize((inner_width, inner_height), Image.Resampling.BILINEAR)
        return pad_to(subtract_and_divide(resized), height, width)

    def build(self, device: str = "cpu") -> Mask2FormerTeacher:
        """Loads or draws the weights and puts the teacher on the device.

        Raises:
            DataError: the checkpoint lacks weights of the feature network.
            OSError: no checkpoint under that path or name.
        """
        if self.checkpoint is None:
            network, num_channels = _random_network(self)
        elif self.backend == "official":
            network, num_channels = load_official_mask2former(Path(self.checkpoint).expanduser())
        else:
            network, num_channels = _load(self.checkpoint)
        return Mask2FormerTeacher(network, num_channels, self, device)

    def identity(self) -> dict[str, Json]:
        """What decides the features besides weights and dtype."""
        rules = {
            "stretch": "short side, stretch to multiple, PIL bilinear, ImageNet",
            "pad": "short side rounded to nearest, PIL bilinear, ImageNet, pad to multiple",
        }
        identity: dict[str, Json] = {
            "kind": self.kind,
            "layer": _LAYER,
            "preprocessing": {
                "rule": rules[self.resize],
                "short_side_px": self.short_side_px,
                "long_side_px": self.long_side_px,
                "multiple_px": self.multiple_px,
            },
        }
        return identity if self.backend == "transformers" else {**identity, "backend": self.backend}

    def _resized(self, height_px: int, width_px: int) -> tuple[int, int]:
        rule = short_side_size if self.resize == "stretch" else nearest_short_side_size
        return rule(height_px, width_px, self.short_side_px, self.long_side_px)


class Mask2FormerTeacher(ModuleTeacher):
    """See `Mask2FormerTeacherConfig`; features lie on the network's input at stride 4."""

    def __init__(self, network: nn.Module, num_channels: int, config: Mask2FormerTeacherConfig, device: str) -> None:
        super().__init__(
            network,
            num_channels=num_channels,
            geometry=config,
            identity=config.identity(),
            dtype=real_dtype(config, device),
            device=device,
            compiled=wants_compilation(config, device),
        )

    def _features(self, batch: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        return self._module(batch).decoder_last_hidden_state


def network_config(sizes: Mask2FormerSizes) -> Mask2FormerConfig:
    """Transformers' configuration of a small Mask2Former; of the transformer decoder as little as the class allows."""
    return sizes.architecture().network_config()


def _random_network(config: Mask2FormerTeacherConfig) -> tuple[nn.Module, int]:
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerModel

    architecture = config.tiny.architecture() if config.size is None else MASK2FORMER_SIZES[config.size]
    whole = architecture.network_config()
    network = build_seeded(lambda: Mask2FormerModel(whole).pixel_level_module, config.tiny.seed)
    return network, architecture.num_mask_channels


def _load(checkpoint: str) -> tuple[nn.Module, int]:
    model = cast("Mask2FormerForUniversalSegmentation", load_pretrained("mask2former", checkpoint))
    return model.model.pixel_level_module, model.config.mask_feature_size
