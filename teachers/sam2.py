"""SAM 2: the image embedding at stride 16 that its image predictor caches.

The network comes from transformers. The feature is the coarsest level of the feature pyramid plus
the no-memory embedding (Ravi et al., "SAM 2: Segment Anything in Images and Videos",
arXiv 2408.00714, section 4); prompt encoder and mask decoder are neither needed nor kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from storage.recipe import RecipeModel
from teachers.base import DType, ModuleTeacher, build_seeded, require_loaded
from teachers.packaged import resolve_checkpoint
from teachers.resize import require_rgb, resize_antialiased

if TYPE_CHECKING:
    from transformers import Sam2VisionConfig

__all__ = ["Sam2Sizes", "Sam2Teacher", "Sam2TeacherConfig", "vision_config"]

_STRIDE = 16
_LAYER = "image_embed"


class Sam2Sizes(RecipeModel):
    """Sizes of a small SAM 2 image encoder with random weights."""

    embed_dim: int = Field(default=16, ge=8, multiple_of=8)
    """Channels of the first Hiera stage; doubled from stage to stage."""
    blocks: tuple[int, int, int, int] = (1, 1, 2, 1)
    """Blocks of the four Hiera stages; the last of the third stage attends globally, so that has two or more."""
    num_channels: int = Field(default=32, ge=8, multiple_of=4)
    """Channels of the feature pyramid and of the features."""
    seed: int = Field(default=0, ge=0)
    """Seed of the random weights."""


class Sam2TeacherConfig(RecipeModel):
    """A SAM 2 teacher, from a checkpoint or small and random."""

    student_source: ClassVar[Literal["mask_features", "patches"]] = "patches"
    """Compared with the student's patches, which are at a like stride."""
    kind: Literal["sam2"] = "sam2"
    """Names this teacher among the others."""
    checkpoint: str | None = None
    """Folder, hub or packaged name in transformers' format, such as `facebook/sam2.1-hiera-large`.

    None: a random network of the sizes in `tiny`.
    """
    tiny: Sam2Sizes = Sam2Sizes()
    """Sizes of the random network that is used without a checkpoint."""
    image_size_px: int = Field(default=1024, ge=32, multiple_of=32)
    """Both sides of the stretched image in px."""
    dtype: DType = "float32"
    """Arithmetic of the forward pass."""

    def input_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        """The same square for every image."""
        return self.image_size_px, self.image_size_px

    def output_grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """A sixteenth of the input size."""
        return self.image_size_px // _STRIDE, self.image_size_px // _STRIDE

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """Stretches to the square with an antialiased bilinear filter on floats, then normalises."""
        require_rgb(image)
        return resize_antialiased(image, self.image_size_px, self.image_size_px)

    def build(self, device: str = "cpu") -> Sam2Teacher:
        """Loads or draws the weights and puts the teacher on the device.

        Raises:
            DataError: the checkpoint lacks weights of the feature network.
            OSError: no checkpoint under that path or name.
        """
        network = _random_network(self.tiny) if self.checkpoint is None else _load(self.checkpoint)
        return Sam2Teacher(network, self, device)


class Sam2Teacher(ModuleTeacher):
    """See `Sam2TeacherConfig`; every image has the same square grid."""

    def __init__(self, network: _ImageEmbedding, config: Sam2TeacherConfig, device: str) -> None:
        identity = {
            "kind": config.kind,
            "layer": _LAYER,
            "preprocessing": {
                "rule": "stretch to square, antialiased bilinear on floats, ImageNet",
                "image_size_px": config.image_size_px,
            },
        }
        num_channels = network.no_memory_embedding.numel()
        super().__init__(
            network,
            num_channels=num_channels,
            geometry=config,
            identity=identity,
            dtype=config.dtype,
            device=device,
        )

    def _features(self, batch: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        return self._module(batch)


class _ImageEmbedding(nn.Module):
    """The part of SAM 2 that the image embedding needs; equals `Sam2Model.get_image_embeddings(...)[-1]`."""

    def __init__(self, vision_encoder: nn.Module, no_memory_embedding: Tensor) -> None:
        super().__init__()
        self.vision_encoder = vision_encoder
        self.no_memory_embedding = nn.Parameter(no_memory_embedding.detach().reshape(-1))

    def forward(self, batch: Tensor) -> Tensor:
        coarsest = self.vision_encoder(batch).fpn_hidden_states[-1]
        return coarsest + self.no_memory_embedding.view(1, -1, 1, 1)


def vision_config(sizes: Sam2Sizes) -> Sam2VisionConfig:
    """Transformers' configuration of a small SAM 2 image encoder."""
    # transformers takes seconds to import; recipes that only name a teacher don't pay for it.
    from transformers import Sam2HieraDetConfig, Sam2VisionConfig

    channels = [sizes.embed_dim * factor for factor in (1, 2, 4, 8)]
    backbone = Sam2HieraDetConfig(
        hidden_size=sizes.embed_dim,
        blocks_per_stage=list(sizes.blocks),
        embed_dim_per_stage=channels,
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 8, 4],
        global_attention_blocks=[sum(sizes.blocks[:3]) - 1],
    )
    return Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=channels[::-1], fpn_hidden_size=sizes.num_channels
    )


def _random_network(sizes: Sam2Sizes) -> _ImageEmbedding:
    from transformers.models.sam2.modeling_sam2 import Sam2VisionModel

    config = vision_config(sizes)

    def build() -> _ImageEmbedding:
        return _ImageEmbedding(Sam2VisionModel(config), 0.1 * torch.randn(sizes.num_channels))

    network = build_seeded(build, sizes.seed)
    assert isinstance(network, _ImageEmbedding)
    return network


def _load(checkpoint: str) -> _ImageEmbedding:
    from transformers.models.sam2.modeling_sam2 import Sam2Model

    loaded = Sam2Model.from_pretrained(resolve_checkpoint(checkpoint), dtype=torch.float32, output_loading_info=True)
    model, info = cast("tuple[Sam2Model, dict[str, set[str]]]", loaded)
    require_loaded(checkpoint, set(info["missing_keys"]), ("vision_encoder.", "no_memory_embedding"))
    return _ImageEmbedding(model.vision_encoder, model.no_memory_embedding)
