"""What a teacher is, and what all teachers share: identity, random weights, dtype and device.

A teacher turns an image into a dense feature map. Its `fingerprint` says everything that decides
the numbers (kind, weights, preprocessing, layer, dtype) and nothing else, so features computed
elsewhere, from a checkpoint under another path or on another device, are found again.
"""

from __future__ import annotations

import hashlib
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, Protocol, TypeAlias, cast, runtime_checkable

import torch
from jaxtyping import Float
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from storage.errors import DataError
from storage.keys import Json, content_key
from storage.recipe import RecipeModel

__all__ = [
    "BaseTeacherConfig",
    "DType",
    "Geometry",
    "ModuleTeacher",
    "StudentSource",
    "Teacher",
    "build_seeded",
    "require_loaded",
    "teacher_fingerprint",
    "weights_key",
]

VERSION = 1
"""Raised when shared teacher code changes the features; part of every fingerprint."""

DType: TypeAlias = Literal["float32", "bfloat16", "float16"]
"""Arithmetic of the forward pass; features come out as float32 whatever it is."""

StudentSource: TypeAlias = Literal["mask_features", "patches"]
"""What of the student a teacher's features are compared with."""

logger = logging.getLogger(__name__)


@runtime_checkable
class Geometry(Protocol):
    """How a teacher takes an image: known from its configuration, without its weights.

    Every teacher and every teacher's configuration is one; plans and decoding tasks need no more.
    """

    def input_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        """(height, width) in pixels that `preprocess` gives an image of that size."""
        ...

    def output_grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """(rows, columns) of the feature map, from the size of the image alone."""
        ...

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image as the float32 tensor [3, height, width] that the network wants."""
        ...


@runtime_checkable
class Teacher(Geometry, Protocol):
    """A frozen network whose dense features the student imitates."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that decides the features; not over device, paths or batch size."""
        ...

    @property
    def num_channels(self) -> int:
        """Channels of the feature map."""
        ...

    def forward(self, batch: Tensor) -> Tensor:
        """Features [batch, channels, rows, columns] of inputs [batch, 3, height, width] of one shape."""
        ...


class BaseTeacherConfig(RecipeModel, ABC, frozen=True):  # pyright: ignore[reportGeneralTypeIssues] (so is its base)
    """The base of every teacher's configuration: those of this package and those of others (docs/teachers.md).

    A subclass narrows `kind` to its own name, as a `Literal` with a default, and says how images go in and how the
    teacher is built. An instance is a `Geometry`: plans need no weights.
    """

    student_source: ClassVar[StudentSource]
    """What of the student these features are compared with: mask features at a fine stride, or patches."""
    kind: str
    """Names this teacher among the others."""
    checkpoint: str | None = None
    """Where the weights come from; null: a small random network."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the forward pass. `auto`: bfloat16 on CUDA, float32 elsewhere; a recipe resolves it by
    `features.num_gpus_per_actor`, so that fingerprints name the real one."""
    compile: Literal["auto", False, True] = Field(default=False, json_schema_extra={"hashed": False})
    """Compile the network with torch.compile. `auto`: on CUDA. The last bits of the features may differ from those
    of the same network uncompiled; the fingerprint doesn't tell the two apart, the log does."""
    node_resource: str | None = Field(default=None, min_length=1, json_schema_extra={"hashed": False})
    """Name of a Ray resource that a node has to offer to run this teacher, such as `teacher-sam2` where only some
    nodes have its libraries or its GPUs; null: any node."""

    @abstractmethod
    def input_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        """(height, width) in pixels that `preprocess` gives an image of that size."""

    @abstractmethod
    def output_grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """(rows, columns) of the feature map, from the size of the image alone."""

    @abstractmethod
    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image as the float32 tensor [3, height, width] that the network wants."""

    @abstractmethod
    def build(self, device: str = "cpu") -> Teacher:
        """Loads or draws the weights and puts the teacher on the device.

        Raises:
            DataError: the checkpoint lacks weights of the feature network.
            OSError: no checkpoint under that path or name.
        """


class ModuleTeacher(ABC):
    """A teacher around one torch module; a subclass says which of the module's outputs is the feature.

    Args:
        module: network with its weights in float32; only the part that computes the features.
        num_channels: channels of the feature map.
        geometry: how images go in.
        identity: kind, preprocessing and layer: what decides the features besides weights and dtype.
        dtype: arithmetic of the forward pass.
        device: torch device, such as `cpu` or `cuda:0`.
        compiled: run the module through torch.compile.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        num_channels: int,
        geometry: Geometry,
        identity: Mapping[str, Json],
        dtype: DType,
        device: str,
        compiled: bool = False,
    ) -> None:
        self._fingerprint = teacher_fingerprint(identity, weights_key(module), dtype)
        self._num_channels = num_channels
        self._geometry = geometry
        self._device = torch.device(device)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._module = module.eval().requires_grad_(False).to(device=self._device, dtype=self._dtype)
        if compiled:
            logger.info("%s: compiled; the last bits may differ from the uncompiled network", self._fingerprint[:12])
            self._module = cast("nn.Module", torch.compile(self._module))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over kind, weights, preprocessing, layer and dtype."""
        return self._fingerprint

    @property
    def num_channels(self) -> int:
        """Channels of the feature map."""
        return self._num_channels

    def input_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        """(height, width) in pixels that `preprocess` gives an image of that size."""
        return self._geometry.input_size(height_px, width_px)

    def output_grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """(rows, columns) of the feature map, from the size of the image alone."""
        return self._geometry.output_grid(height_px, width_px)

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """An RGB image as the network wants it."""
        return self._geometry.preprocess(image)

    @abstractmethod
    def _features(
        self, batch: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channels rows columns"]: ...

    def forward(self, batch: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        """Features in float32, on the teacher's device; no gradient is kept."""
        with torch.inference_mode():
            return self._features(batch.to(device=self._device, dtype=self._dtype)).to(torch.float32)


def weights_key(module: nn.Module) -> str:
    """SHA-256 over the module's state: names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def teacher_fingerprint(identity: Mapping[str, Json], weights: str, dtype: DType) -> str:
    """Content key of a teacher: `identity` (kind, preprocessing, layer), hash of the weights, dtype."""
    return content_key({"teacher": dict(identity), "version": VERSION, "weights": weights, "dtype": dtype})


def build_seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Builds a network with random weights that depend on the seed alone.

    Torch's global generator is neither read nor moved. Matrices and kernels are drawn with a
    standard deviation of 1/sqrt(fan-in), which keeps features at a scale near 1 and dependent on
    the image; with the small deviations meant for training, biases and norms would dominate.

    Args:
        build: makes the network; everything it draws comes from the seed too.
        seed: any integer from 0 to 2^63 - 1.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        # Not torch.manual_seed, which also moves the generators of accelerators.
        torch.default_generator.manual_seed(seed)
        network = build()
        for name, layer in sorted(network.named_modules(), key=lambda item: item[0]):
            # The sampling grid of deformable attention is a fixed pattern, not a random matrix.
            if isinstance(layer, nn.Linear | nn.Conv2d) and not name.endswith(
                ("sampling_offsets", "attention_weights")
            ):
                layer.weight.normal_(std=1 / math.sqrt(layer.weight[0].numel()))
    return network


def require_loaded(checkpoint: str, missing: set[str], prefixes: tuple[str, ...]) -> None:
    """Refuses a checkpoint that left a needed weight at random.

    Args:
        checkpoint: path or name, for the message.
        missing: names of weights that the checkpoint didn't have.
        prefixes: names that start so are needed.

    Raises:
        DataError: a needed weight is missing.
    """
    needed = sorted(name for name in missing if name.startswith(prefixes))
    if needed:
        raise DataError(
            f"checkpoint {checkpoint}: {len(needed)} weights of the feature network are missing, first {needed[0]}; "
            "give a checkpoint of the same architecture in transformers' format, or the official file"
        )
