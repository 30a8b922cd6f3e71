"""Tensors by name from files of other programs: safetensors and PyTorch's own, whole or sharded.

Nothing in a file is ever executed: PyTorch's files are read with `weights_only=True`. Local files are
mapped into memory, so that a tensor costs memory when it is used.
"""

from __future__ import annotations

import functools
import io
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import load_file as load_safetensors_file
from torch import Tensor

from storage.errors import SourceError
from storage.objects import Objects
from storage.pickle_opcodes import refused_tensors

__all__ = ["BASE_FILES", "RELEASED_FILES", "read_json", "read_weight_file", "read_weights", "to_one_dtype"]

BASE_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model*.bin")
"""Names of weight files that transformers writes; the first that is there counts."""
RELEASED_FILES = (*BASE_FILES, "*.safetensors", "*.pth", "*.pt", "*.bin")
"""Names of weight files of training programs besides."""

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_WRAPPER = "state_dict"
"""Name under which mmengine keeps the weights, beside what else it saves."""


def read_json(folder: Objects, name: str) -> Mapping[str, object]:
    """A JSON object of a folder.

    Raises:
        ObjectNotFound: no such file.
        SourceError: it isn't a JSON object.
    """
    try:
        content: object = json.loads(folder.read(name))
    except ValueError as error:
        raise SourceError(f"{folder.url}/{name}: expected JSON, got {error}; download it again") from error
    if not isinstance(content, dict):
        raise SourceError(f"{folder.url}/{name}: expected a JSON object, got {content!r:.80}; download it again")
    return cast("Mapping[str, object]", content)


def read_weights(folder: Objects, patterns: Sequence[str] = BASE_FILES) -> dict[str, Tensor]:
    """All tensors of a folder.

    Args:
        folder: where the files lie.
        patterns: names of files, with `*`. The first pattern that any file has decides; an index
            (`.index.json`) stands for the files that it lists.

    Raises:
        SourceError: no such file, or one that can't be read.
        UnsafePickle: a file that holds more than tensors.
    """
    present = [info.key for info in folder.list() if "/" not in info.key]
    for pattern in patterns:
        names = [name for name in present if fnmatch(name, pattern)]
        if pattern.endswith(".index.json") and names:
            names = _indexed(folder, names[0])
        weights: dict[str, Tensor] = {}
        for name in names:
            found = read_weight_file(folder, name)
            if twice := sorted(weights.keys() & found.keys()):
                raise SourceError(
                    f"{folder.url}/{name}: expected tensors that no other file holds, got {twice[0]} a second time; "
                    "keep the files of one checkpoint in the folder"
                )
            weights |= found
        if names:
            return weights
    raise SourceError(
        f"{folder.url}: expected weights in {', '.join(patterns)}, found {', '.join(present) or 'no file'}; "
        "give the folder that a whole checkpoint was downloaded to"
    )


def _indexed(folder: Objects, index: str) -> list[str]:
    """The files that an index lists."""
    weight_map = read_json(folder, index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise SourceError(f"{folder.url}/{index}: expected `weight_map`, found none; download it again")
    return sorted({str(name) for name in cast("dict[str, object]", weight_map).values()})


def read_weight_file(folder: Objects, name: str) -> dict[str, Tensor]:
    """All tensors of one file; a dict under `state_dict` (mmengine) is taken for the file's content.

    Raises:
        SourceError: absent, torn, or tensors of other types than float32, float16 and bfloat16.
        UnsafePickle: it holds more than tensors.
    """
    where = f"{folder.url}/{name}"
    if not folder.exists(name):
        raise SourceError(f"{where}: expected this shard, found none; download the checkpoint again")
    local = None if folder.local_path is None else folder.local_path / name
    try:
        if name.endswith(".safetensors"):
            content: object = load_safetensors(folder.read(name)) if local is None else load_safetensors_file(local)
        else:
            content = _load_torch(folder.read(name) if local is None else local)
    except pickle.UnpicklingError as error:
        raise refused_tensors(
            error,
            where,
            "Where you trust it, save its state dict as safetensors (`safetensors.torch.save_file`) and give that",
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise SourceError(f"{where}: it can't be read ({_first_line(error)}); download it again") from error
    return _checked(content, where)


def _load_torch(file: Path | bytes) -> object:
    if isinstance(file, bytes):
        return torch.load(io.BytesIO(file), map_location="cpu", weights_only=True)
    return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))


def _checked(content: object, where: str) -> dict[str, Tensor]:
    if isinstance(content, dict) and _WRAPPER in content:
        content = cast("dict[object, object]", content)[_WRAPPER]
    if not isinstance(content, dict):
        raise SourceError(f"{where}: expected a dict of tensors, got {type(content).__name__}; give a state dict")
    weights: dict[str, Tensor] = {}
    for name, tensor in cast("dict[object, object]", content).items():
        if not isinstance(tensor, Tensor):
            raise SourceError(
                f"{where}: expected a tensor by the name {name!r}, got {type(tensor).__name__}; give a state dict "
                "(DeepSpeed's partitioned states become one by its own zero_to_fp32.py)"
            )
        if tensor.dtype not in _DTYPES:
            raise SourceError(
                f"{where}: {name}: expected float32, float16 or bfloat16, got {tensor.dtype}; "
                "quantised weights can't be converted, give the original ones"
            )
        weights[str(name)] = tensor
    return weights


def to_one_dtype(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, all of the narrowest type that holds each of them exactly."""
    dtype = functools.reduce(torch.promote_types, {tensor.dtype for tensor in weights.values()})
    return {name: tensor.to(dtype) for name, tensor in weights.items()}


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
