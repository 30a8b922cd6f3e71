"""From an official checkpoint file to a teacher in transformers' format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from storage.errors import DataError, SourceError, UsageError
from teachers.conversion.files import OFFICIAL_SUFFIXES, PICKLE_SUFFIX, read_official_file
from teachers.conversion.mask2former import (
    MASK2FORMER_MARKER,
    MASK2FORMER_NOT_CARRIED,
    mask2former_architecture,
    mask2former_weights,
)
from teachers.conversion.sam2 import SAM2_MARKER, SAM2_NOT_CARRIED, sam2_architecture, sam2_weights
from teachers.conversion.weights import OfficialWeights
from teachers.sam2_sizes import Sam2Details

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["ConvertedTeacher", "convert_official", "looks_official"]

_MARKERS = {"sam2": SAM2_MARKER, "mask2former": MASK2FORMER_MARKER}
"""A tensor that only such a checkpoint has, by the teacher's kind."""


@dataclass(frozen=True, slots=True)
class ConvertedTeacher:
    """An official checkpoint in transformers' terms, as far as the features need it."""

    kind: str
    """Of the teacher that it belongs to."""
    size: str | None
    """Name of the published size, if it is one."""
    config: PreTrainedConfig
    """Transformers' configuration of the whole model."""
    weights: Mapping[str, Tensor]
    """By transformers' names; in the number types of the file."""
    unused: tuple[str, ...]
    """Official names of tensors that stay behind."""
    not_carried: str
    """What these are, in words."""


def looks_official(path: Path) -> bool:
    """Whether a file is a teacher's official checkpoint: by its content, or, of detectron2's pickles, by its ending."""
    if path.suffix not in OFFICIAL_SUFFIXES or not path.is_file():
        return False
    try:
        return path.suffix == PICKLE_SUFFIX or _kind_of(read_official_file(path)) is not None
    except SourceError:
        return False


def _kind_of(tensors: Mapping[str, Tensor]) -> str | None:
    return next((kind for kind, marker in _MARKERS.items() if marker in tensors), None)


def convert_official(path: Path, details: Sam2Details | None = None) -> ConvertedTeacher:
    """Reads an official checkpoint and converts it.

    Args:
        path: `.pt` of SAM 2 or SAM 2.1, `.pkl` of detectron2's Mask2Former, or a `.pth` of either.
        details: what a SAM 2's weights don't tell; nothing is needed for published sizes.

    Raises:
        SourceError: it can't be read.
        DataError: no such checkpoint, or weights are missing.
        UsageError: details that are missing, unknown or don't fit.
    """
    tensors = read_official_file(path)
    kind = _kind_of(tensors)
    weights = OfficialWeights(str(path), tensors)
    details = details or Sam2Details()
    if kind == "sam2":
        return _convert_sam2(weights, details)
    if kind == "mask2former":
        if given := details.given():
            raise UsageError(
                f"{path}: a Mask2Former's weights tell its whole architecture, got {', '.join(given)}; leave it out"
            )
        return _convert_mask2former(weights)
    raise DataError(
        f"{path}: expected a checkpoint of SAM 2 or of Mask2Former (a tensor {' or '.join(_MARKERS.values())}), "
        f"found {len(tensors)} other tensors; give the file as it was published"
    )


def _convert_sam2(weights: OfficialWeights, details: Sam2Details) -> ConvertedTeacher:
    from transformers import Sam2Config

    architecture, size = sam2_architecture(weights, details)
    converted, unused = sam2_weights(weights, architecture)
    width = architecture.num_channels
    config = Sam2Config(
        vision_config=architecture.vision_config().to_dict(),
        prompt_encoder_config={"hidden_size": width},
        mask_decoder_config={"hidden_size": width},
    )
    config.architectures = ["Sam2Model"]
    return ConvertedTeacher("sam2", size, config, converted, unused, SAM2_NOT_CARRIED)


def _convert_mask2former(weights: OfficialWeights) -> ConvertedTeacher:
    architecture, size = mask2former_architecture(weights)
    converted, unused = mask2former_weights(weights, architecture)
    config = architecture.network_config()
    config.architectures = ["Mask2FormerModel"]
    return ConvertedTeacher("mask2former", size, config, converted, unused, MASK2FORMER_NOT_CARRIED)
