"""RADIO: patch features of a vision transformer that was itself distilled from several foundation models.

Ranzinger et al., "AM-RADIO" (arXiv 2312.06709), Heinrich et al., "RADIOv2.5" (arXiv 2412.07679). The network is
written here in plain torch; its weights have the names of the released checkpoints, so these load as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from PIL import Image
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from storage.errors import DataError, SourceError, UsageError
from storage.keys import Json
from storage.recipe import RecipeModel
from teachers.base import BaseTeacherConfig, ModuleTeacher, StudentSource, build_seeded, require_loaded
from teachers.device import real_dtype, wants_compilation
from teachers.radio_network import RadioArchitecture, RadioNetwork
from teachers.resize import require_rgb, resize_to_unit

__all__ = ["RADIO_SIZES", "RadioSize", "RadioSizes", "RadioTeacher", "RadioTeacherConfig"]

_LAYER = "backbone.features"
_PREFIX = "radio_model."
_WEIGHTS_FILE = "model.safetensors"
_PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
_PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
_CONDITIONER = {"input_conditioner.norm_mean": _PIXEL_MEAN, "input_conditioner.norm_std": _PIXEL_STD}
"""Released checkpoints bring their normalisation with them: that of CLIP, in all of them."""

RadioSize = Literal["vit-base", "vit-large", "vit-huge"]
"""Published sizes of RADIOv2.5 and C-RADIO, named after the backbone."""

# A class token for each of four teachers, and registers that make them up to eight; 128 x 128 positions of 16 px.
RADIO_SIZES: dict[str, RadioArchitecture] = {
    "vit-base": RadioArchitecture(embed_dim=768, num_blocks=12, num_heads=12),
    "vit-large": RadioArchitecture(embed_dim=1024, num_blocks=24, num_heads=16),
    "vit-huge": RadioArchitecture(embed_dim=1280, num_blocks=32, num_heads=16),
}
"""Published architectures by the names of `RadioSize`."""

_USUAL_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1536: 24}
"""Attention heads by channels, in the vision transformers that RADIO is made of."""


class RadioSizes(RecipeModel):
    """Sizes of a small RADIO with random weights."""

    embed_dim: int = Field(default=32, ge=8, multiple_of=8)
    """Channels of tokens and features."""
    num_blocks: int = Field(default=2, ge=1)
    """Transformer blocks."""
    num_heads: int = Field(default=2, ge=1)
    """Attention heads; a divisor of the channels."""
    seed: int = Field(default=0, ge=0)
    """Seed of the random weights."""

    def architecture(self, patch_size_px: int) -> RadioArchitecture:
        """The whole architecture."""
        return RadioArchitecture(
            embed_dim=self.embed_dim,
            num_blocks=self.num_blocks,
            num_heads=self.num_heads,
            patch_size_px=patch_size_px,
            num_tokens=4,
            position_grid=16,
        )


class RadioTeacherConfig(BaseTeacherConfig, frozen=True):
    """A RADIO teacher, from a checkpoint, or random of a published or a small size."""

    student_source: ClassVar[StudentSource] = "patches"
    """Compared with the student's patches, which are at a like stride."""
    kind: Literal["radio"] = "radio"
    """Names this teacher among the others."""
    checkpoint: str | None = None
    """Folder, hub name such as `nvidia/C-RADIOv2-B`, or file with the released weights as safetensors.

    None: a random network of `size` or `tiny`.
    """
    num_heads: int | None = Field(default=None, ge=1)
    """Attention heads of a checkpoint, which its weights don't tell; null: as usual for its channels."""
    size: RadioSize | None = None
    """Published size of a random network; null: the sizes in `tiny`."""
    tiny: RadioSizes = RadioSizes()
    """Sizes of the random network that is used without a checkpoint; of a published `size` the seed alone counts."""
    image_size_px: int = Field(default=768, ge=16)
    """Both sides of the stretched image in px; a multiple of the patch size. Releases name 768 (RADIOv2.5, C-RADIOv2)
    and 512 (C-RADIOv3, C-RADIOv4) as what they do best at."""
    patch_size_px: int = Field(default=16, ge=1)
    """Side of a patch in px; that of the checkpoint."""

    @model_validator(mode="after")
    def _fits(self) -> RadioTeacherConfig:
        if self.checkpoint is not None and self.size is not None:
            raise ValueError(
                f"size: {self.size} is for a random network, got checkpoint {self.checkpoint!r} too; leave one out"
            )
        if self.image_size_px % self.patch_size_px:
            raise ValueError(
                f"image_size_px: expected a multiple of patch_size_px {self.patch_size_px}, got {self.image_size_px}"
            )
        return self

    def input_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        """The same square for every image."""
        return self.image_size_px, self.image_size_px

    def output_grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """One cell for each patch."""
        return self.image_size_px // self.patch_size_px, self.image_size_px // self.patch_size_px

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """Stretches to the square with an antialiased bilinear filter on floats, then normalises."""
        require_rgb(image)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_PIXEL_MEAN, _PIXEL_STD))
        return (resize_to_unit(image, self.image_size_px, self.image_size_px) - mean) / std

    def build(self, device: str = "cpu") -> RadioTeacher:
        """Loads or draws the weights and puts the teacher on the device.

        Raises:
            DataError: the checkpoint lacks weights, or is of a network that isn't supported.
            UsageError: it has other patches, or a number of heads that has to be given.
            OSError: no checkpoint under that path or name.
        """
        if self.checkpoint is not None:
            network = _load(self.checkpoint, self.num_heads)
        else:
            architecture = self.tiny.architecture(self.patch_size_px) if self.size is None else RADIO_SIZES[self.size]
            drawn = build_seeded(lambda: RadioNetwork(architecture), self.tiny.seed)
            assert isinstance(drawn, RadioNetwork)
            network = drawn
        if network.architecture.patch_size_px != self.patch_size_px:
            raise UsageError(
                f"teacher radio: patch_size_px: expected {network.architecture.patch_size_px}, that of the network, "
                f"got {self.patch_size_px}; correct it"
            )
        return RadioTeacher(network, self, device)


class RadioTeacher(ModuleTeacher):
    """See `RadioTeacherConfig`; every image has the same square grid."""

    def __init__(self, network: RadioNetwork, config: RadioTeacherConfig, device: str) -> None:
        identity: dict[str, Json] = {
            "kind": config.kind,
            "layer": _LAYER,
            "num_heads": network.architecture.num_heads,
            "preprocessing": {
                "rule": "stretch to square, antialiased bilinear on floats, CLIP",
                "image_size_px": config.image_size_px,
            },
        }
        super().__init__(
            network,
            num_channels=network.architecture.embed_dim,
            geometry=config,
            identity=identity,
            dtype=real_dtype(config, device),
            device=device,
            compiled=wants_compilation(config, device),
        )

    def _features(self, batch: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        return self._module(batch)


def _load(checkpoint: str, num_heads: int | None) -> RadioNetwork:
    weights = _read(checkpoint)
    architecture = _architecture(checkpoint, weights, num_heads)
    with torch.device("meta"):
        network = RadioNetwork(architecture)
    wanted = network.state_dict()
    require_loaded(checkpoint, set(wanted) - set(weights), ("",))
    for name, parameter in wanted.items():
        if weights[name].shape != parameter.shape:
            raise DataError(
                f"checkpoint {checkpoint}: {name}: expected shape {tuple(parameter.shape)}, "
                f"got {tuple(weights[name].shape)}; this network isn't supported"
            )
    network.load_state_dict({name: weights[name].to(torch.float32) for name in wanted}, assign=True)
    return network


def _read(checkpoint: str) -> dict[str, Tensor]:
    """Tensors by their released names, less the prefix that the hub's checkpoints put before them."""
    from transformers.utils.hub import cached_file

    path = Path(checkpoint).expanduser()
    if not path.is_file():
        # A folder, or a name that is in the hub's cache or can be fetched; OSError where neither.
        path = Path(str(cached_file(checkpoint, _WEIGHTS_FILE)))
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise SourceError(f"{path}: expected safetensors, got {error}; download it again") from error
    return {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}


def _architecture(checkpoint: str, weights: Mapping[str, Tensor], num_heads: int | None) -> RadioArchitecture:
    embedder, positions = "model.patch_generator.embedder.weight", "model.patch_generator.pos_embed"
    tokens = "model.patch_generator.cls_token.token"
    require_loaded(checkpoint, {embedder, positions, tokens, "model.blocks.0.mlp.fc1.weight"} - set(weights), ("",))
    if odd := [name for name in weights if ".parametrizations." in name or ".q_norm." in name]:
        raise DataError(
            f"checkpoint {checkpoint}: expected plain weights, found {odd[0]}; give a released checkpoint "
            "without training's reparametrisation"
        )
    embed_dim, values_per_patch = weights[embedder].shape
    heads = num_heads or _USUAL_HEADS.get(embed_dim)
    if heads is None:
        raise UsageError(
            f"checkpoint {checkpoint}: its weights don't tell the attention heads, and {embed_dim} channels are of no "
            "published size; give num_heads"
        )
    for name, values in _CONDITIONER.items():
        if name in weights and not torch.allclose(weights[name].float().flatten(), torch.tensor(values), atol=1e-3):
            raise DataError(
                f"checkpoint {checkpoint}: {name}: expected {values}, as in every release, got "
                f"{weights[name].flatten().tolist()}; this network isn't supported"
            )
    blocks = {int(match[1]) for name in weights if (match := re.match(r"model\.blocks\.(\d+)\.", name))}
    return RadioArchitecture(
        embed_dim=embed_dim,
        num_blocks=len(blocks),
        num_heads=heads,
        patch_size_px=round((values_per_patch / 3) ** 0.5),
        num_tokens=weights[tokens].shape[0],
        position_grid=round(weights[positions].shape[1] ** 0.5),
        mlp_channels=weights["model.blocks.0.mlp.fc1.weight"].shape[0],
        layer_scale="model.blocks.0.ls1.grandma" in weights,
        final_norm="model.norm.weight" in weights,
        feature_normalizer="feature_normalizer.mean" in weights,
    )
