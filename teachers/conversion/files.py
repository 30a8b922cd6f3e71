"""Official checkpoint files as tensors by their official names."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from storage.errors import SourceError
from storage.pickle_opcodes import refused_tensors
from teachers.conversion.array_pickle import PickledArray, load_array_pickle

__all__ = ["OFFICIAL_SUFFIXES", "PICKLE_SUFFIX", "read_official_file"]

PICKLE_SUFFIX = ".pkl"
"""Ending of detectron2's checkpoints."""
_TORCH_SUFFIXES = (".pt", ".pth")
OFFICIAL_SUFFIXES = (*_TORCH_SUFFIXES, PICKLE_SUFFIX)
"""Endings of official checkpoint files: PyTorch's, and detectron2's pickles of arrays."""
_WRAPPERS = ("model", "state_dict")
"""Names under which training programs keep the weights, beside what else they save."""


def read_official_file(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint file; nothing that it holds is executed.

    Args:
        path: a `.pt` or `.pth` file of PyTorch, or a `.pkl` of detectron2. Weights may lie at the top or under
            `model` or `state_dict`; what lies beside them (optimiser, iteration) is left alone.

    Raises:
        SourceError: another ending, an unreadable file, or something that is no tensor among the weights.
        UnsafePickle: a file that asks for more than arrays, tensors and builtin containers.
    """
    if path.suffix not in OFFICIAL_SUFFIXES:
        raise SourceError(f"{path}: expected a file {', '.join(OFFICIAL_SUFFIXES)}; give the file as it was published")
    content = _read_pickle(path) if path.suffix == PICKLE_SUFFIX else _read_torch(path)
    return {name: _tensor(value, name, path) for name, value in _weights(content, path).items()}


def _read_pickle(path: Path) -> object:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: it can't be read ({error}); check the path") from error
    return load_array_pickle(data, str(path))


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        remedy = "Where you trust it, save its state dict alone on a machine that may run it"
        raise refused_tensors(error, str(path), remedy) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise SourceError(f"{path}: it can't be read ({str(error).splitlines()[0]}); download it again") from error


def _weights(content: object, path: Path) -> dict[str, object]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = cast("Mapping[object, object]", content)[wrapper]
            break
    if not isinstance(content, Mapping):
        raise SourceError(f"{path}: expected weights by name, got {type(content).__name__}; give a whole checkpoint")
    return {str(name): value for name, value in cast("Mapping[object, object]", content).items()}


def _tensor(value: object, name: str, path: Path) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, PickledArray):
        raise SourceError(f"{path}: {name}: expected an array, got {type(value).__name__}; give a whole checkpoint")
    try:
        return torch.from_numpy(value.to_numpy())
    except (ValueError, TypeError) as error:  # TypeError: unsigned integers that torch doesn't have
        raise SourceError(f"{path}: {name}: expected plain numbers, got {error}; refused") from error
