"""SAM 2: the image embedding at stride 16 that its image predictor caches.

The network comes from transformers. The feature is the coarsest level of the feature pyramid plus
the no-memory embedding (Ravi et al., "SAM 2: Segment Anything in Images and Videos",
arXiv 2408.00714, section 4); prompt encoder and mask decoder are neither needed nor kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor, nn

from storage.keys import Json
from teachers.base import BaseTeacherConfig, ModuleTeacher, StudentSource, build_seeded
from teachers.checkpoints import check_source, load_pretrained
from teachers.device import real_dtype, wants_compilation
from teachers.official_sam2 import OfficialImageEmbedding, load_official_sam2
from teachers.resize import require_rgb, resize_antialiased
from teachers.sam2_sizes import SAM2_SIZES, Sam2Architecture, Sam2Details, Sam2Size, Sam2Sizes

if TYPE_CHECKING:
    from transformers import Sam2Model, Sam2VisionConfig

__all__ = ["Sam2Sizes", "Sam2Teacher", "Sam2TeacherConfig", "vision_config"]

_STRIDE = 16
_LAYER = "image_embed"


class Sam2TeacherConfig(BaseTeacherConfig, frozen=True):
    """A SAM 2 teacher, from a checkpoint, or random of a published or a small size."""

    student_source: ClassVar[StudentSource] = "patches"
    """Compared with the student's patches, which are at a like stride."""
    kind: Literal["sam2"] = "sam2"
    """Names this teacher among the others."""
    checkpoint: str | None = None
    """Folder, hub or packaged name in transformers' format, such as `facebook/sam2.1-hiera-large`, or an official
    `.pt` of SAM 2 or SAM 2.1.

    None: a random network of `size` or `tiny`.
    """
    backend: Literal["transformers", "official"] = "transformers"
    """Whose code runs: transformers', or the package `sam2` of the authors on their own file, which is optional."""
    details: Sam2Details | None = None
    """What an official file of a size that was never published doesn't tell."""
    size: Sam2Size | None = None
    """Published size of a random network; null: the sizes in `tiny`."""
    tiny: Sam2Sizes = Sam2Sizes()
    """Sizes of the random network that is used without a checkpoint; of a published `size` the seed alone counts."""
    image_size_px: int = Field(default=1024, ge=32, multiple_of=32)
    """Both sides of the stretched image in px."""

    @model_validator(mode="after")
    def _one_source(self) -> Sam2TeacherConfig:
        check_source(self.checkpoint, self.size, self.backend)
        return self

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
        if self.checkpoint is None:
            network = _random_network(self)
        elif self.backend == "official":
            network = load_official_sam2(Path(self.checkpoint).expanduser(), self.details)
        else:
            network = _load(self.checkpoint, self.details)
        return Sam2Teacher(network, self, device)

    def identity(self) -> dict[str, Json]:
        """What decides the features besides weights and dtype."""
        identity: dict[str, Json] = {
            "kind": self.kind,
            "layer": _LAYER,
            "preprocessing": {
                "rule": "stretch to square, antialiased bilinear on floats, ImageNet",
                "image_size_px": self.image_size_px,
            },
        }
        return identity if self.backend == "transformers" else {**identity, "backend": self.backend}


class Sam2Teacher(ModuleTeacher):
    """See `Sam2TeacherConfig`; every image has the same square grid."""

    def __init__(
        self, network: ImageEmbedding | OfficialImageEmbedding, config: Sam2TeacherConfig, device: str
    ) -> None:
        # Heads and windows don't show in the weights: hashed where they aren't as usual for their shapes.
        unusual = cast("dict[str, Json]", network.architecture.unusual())
        super().__init__(
            network,
            num_channels=network.no_memory_embedding.numel(),
            geometry=config,
            identity=config.identity() | ({"architecture": unusual} if unusual else {}),
            dtype=real_dtype(config, device),
            device=device,
            compiled=wants_compilation(config, device),
        )

    def _features(self, batch: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        return self._module(batch)


class ImageEmbedding(nn.Module):
    """The part of SAM 2 that the image embedding needs; equals `Sam2Model.get_image_embeddings(...)[-1]`."""

    def __init__(self, vision_encoder: nn.Module, no_memory_embedding: Tensor, architecture: Sam2Architecture) -> None:
        super().__init__()
        self.vision_encoder = vision_encoder
        self.no_memory_embedding = nn.Parameter(no_memory_embedding.detach().reshape(-1))
        self.architecture = architecture

    def forward(self, batch: Tensor) -> Tensor:
        """Features [batch, channels, rows, columns] of inputs [batch, 3, height, width]."""
        coarsest = self.vision_encoder(batch).fpn_hidden_states[-1]
        return coarsest + self.no_memory_embedding.view(1, -1, 1, 1)


def vision_config(sizes: Sam2Sizes) -> Sam2VisionConfig:
    """Transformers' configuration of a small SAM 2 image encoder."""
    return sizes.architecture().vision_config()


def _random_network(config: Sam2TeacherConfig) -> ImageEmbedding:
    # transformers takes seconds to import; recipes that only name a teacher don't pay for it.
    from transformers.models.sam2.modeling_sam2 import Sam2VisionModel

    architecture = config.tiny.architecture() if config.size is None else SAM2_SIZES[config.size]
    vision = architecture.vision_config()

    def build() -> ImageEmbedding:
        return ImageEmbedding(Sam2VisionModel(vision), 0.1 * torch.randn(architecture.num_channels), architecture)

    network = build_seeded(build, config.tiny.seed)
    assert isinstance(network, ImageEmbedding)
    return network


def _load(checkpoint: str, details: Sam2Details | None) -> ImageEmbedding:
    model = cast("Sam2Model", load_pretrained("sam2", checkpoint, details))
    architecture = Sam2Architecture.of(model.config.vision_config)
    return ImageEmbedding(model.vision_encoder, model.no_memory_embedding, architecture)
