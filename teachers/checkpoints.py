"""Where a teacher's weights come from: a folder, a hub name, a packaged name, or an official file."""

from __future__ import annotations

import errno
import logging
import pickle
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from storage.errors import DataError
from storage.pickle_opcodes import refused_tensors
from teachers.base import require_loaded
from teachers.conversion.convert import ConvertedTeacher, convert_official
from teachers.conversion.files import OFFICIAL_SUFFIXES
from teachers.packaged import resolve_checkpoint
from teachers.sam2_sizes import Sam2Details

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["check_source", "load_converted", "load_pretrained", "official_file"]

logger = logging.getLogger(__name__)

_NEEDED = {
    "mask2former": ("model.pixel_level_module.",),
    "sam2": ("vision_encoder.", "no_memory_embedding"),
}
"""How the names of the weights begin that the features pass through, by the teacher's kind."""
_IDLE = {f"model.pixel_level_module.encoder.swin.layernorm.{part}" for part in ("weight", "bias")}
"""Named so too, but no feature passes them: hub checkpoints don't have them, transformers sets them to 1 and 0."""


def official_file(checkpoint: str) -> Path | None:
    """The path of an official checkpoint file, told by its ending; None where `checkpoint` names something else."""
    path = Path(checkpoint).expanduser()
    return path if path.suffix in OFFICIAL_SUFFIXES and not path.is_dir() else None


def load_pretrained(kind: str, checkpoint: str, details: Sam2Details | None = None) -> PreTrainedModel:
    """Transformers' whole model with the weights of a checkpoint, in float32 on the CPU.

    Args:
        kind: of the teacher.
        checkpoint: folder, hub name or packaged name in transformers' format, or an official file.
        details: what an official file doesn't tell; see `convert_official`.

    Raises:
        DataError: weights that the features need are missing, or the file is of another teacher.
        UnsafePickle: a file that asks for more than tensors.
        SourceError: a damaged one.
        UsageError: details that are missing or don't fit.
        OSError: no checkpoint under that path or name.
    """
    path = official_file(checkpoint)
    if path is None:
        model, missing = _from_pretrained(kind, resolve_checkpoint(checkpoint))
        require_loaded(checkpoint, missing - _IDLE, _NEEDED[kind])
        return model
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no such checkpoint file", str(path))
    converted = convert_official(path, details)
    if converted.kind != kind:
        raise DataError(
            f"{path}: expected a checkpoint for a teacher {kind}, got one for {converted.kind}; set its kind"
        )
    logger.info("%s: %d tensors unused (%s)", path, len(converted.unused), converted.not_carried)
    return load_converted(converted, checkpoint)


def load_converted(converted: ConvertedTeacher, checkpoint: str) -> PreTrainedModel:
    """The same from a checkpoint that is converted already.

    Args:
        converted: configuration and weights.
        checkpoint: how messages name it.

    Raises:
        DataError: needed weights are missing or of other shapes.
    """
    weights = dict(converted.weights)
    try:
        model, missing = _from_pretrained(converted.kind, None, config=converted.config, state_dict=weights)
    except RuntimeError as error:
        raise DataError(f"{checkpoint}: its weights don't fit each other: {error}; download it again") from error
    require_loaded(checkpoint, missing - _IDLE, _NEEDED[converted.kind])
    return model


def _from_pretrained(kind: str, name: str | None, **arguments: Any) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of its weights that the checkpoint doesn't have."""
    # transformers takes seconds to import; recipes that only name a teacher don't pay for it.
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentation
    from transformers.models.sam2.modeling_sam2 import Sam2Model

    model_class = {"mask2former": Mask2FormerForUniversalSegmentation, "sam2": Sam2Model}[kind]
    # Parts that the features don't need may be missing; transformers draws them at random, and says so at length.
    with torch.random.fork_rng(devices=[]), _quiet_transformers():
        try:
            loaded = model_class.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **arguments)
        except pickle.UnpicklingError as error:
            raise refused_tensors(
                error,
                str(name),
                "Take safetensors, or where you trust it, save its state dict alone on a machine that may run it",
                asker="a file of it",
            ) from error
    model, info = cast("tuple[PreTrainedModel, dict[str, set[str]]]", loaded)
    return model, set(info["missing_keys"])


@contextmanager
def _quiet_transformers() -> Generator[None]:
    from transformers.utils import logging as transformers_logging

    verbosity, had_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


def check_source(checkpoint: str | None, size: str | None, backend: str) -> None:
    """Refuses a configuration that names two sources of weights, or an official backend without an official file.

    Raises:
        ValueError: with the field and the remedy, for pydantic to report.
    """
    if checkpoint is not None and size is not None:
        raise ValueError(f"size: {size} is for a random network, got checkpoint {checkpoint!r} too; leave one out")
    if backend == "official" and (checkpoint is None or official_file(checkpoint) is None):
        raise ValueError(f"checkpoint: backend: official takes an official file, got {checkpoint!r}; name one")
