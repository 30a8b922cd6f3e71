"""`sailloft convert` of a teacher's official checkpoint: a folder in transformers' format."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from safetensors.torch import save as save_safetensors

from jobs.loading import parse_settings
from jobs.told import Told
from storage.errors import UsageError
from storage.keys import Json
from teachers.checkpoints import load_converted
from teachers.conversion import ConvertedTeacher, convert_official
from teachers.sam2_sizes import Sam2Details

__all__ = ["place_of", "teacher_details", "teacher_files", "teacher_summary"]

logger = logging.getLogger(__name__)

_MEGABYTE = 1_000_000


def teacher_details(settings: Sequence[str]) -> Sam2Details:
    """Settings of the command line as what the weights don't tell.

    Raises:
        UsageError: an unknown field, or a value that it can't have.
    """
    tree = parse_settings(settings, list(Sam2Details.model_fields), "a teacher")
    try:
        return Sam2Details.model_validate(tree)
    except ValidationError as error:
        item = error.errors()[0]
        raise UsageError(
            f"{item['loc'][0]}: {item['msg']}, got {item['input']!r:.80}; "
            "such as num_heads=1 window_sizes=[8,4,14,7] global_attention_blocks=[5,7,9]"
        ) from error


def teacher_files(path: Path, details: Sam2Details) -> tuple[ConvertedTeacher, dict[str, bytes]]:
    """Converts a checkpoint, and checks that the result loads.

    Args:
        path: official checkpoint file.
        details: what its weights don't tell.

    Returns:
        What was converted, and the files of the folder by their names.

    Raises:
        SourceError: it can't be read.
        DataError: no such checkpoint, or weights are missing or don't fit.
        UsageError: details that are missing or don't fit.
    """
    converted = convert_official(path, details)
    logger.info("%s: left out: %s", path, ", ".join(converted.unused) or "nothing")
    load_converted(converted, str(path))
    tensors = {name: tensor.contiguous() for name, tensor in converted.weights.items()}
    return converted, {
        "config.json": converted.config.to_json_string().encode(),
        "model.safetensors": save_safetensors(tensors, metadata={"format": "pt"}),
    }


def place_of(output: Path, dry_run: bool) -> str:
    """Where something is that was made, or would have been but for a dry run."""
    return f"would be written to {output}" if dry_run else f"in {output}"


def teacher_summary(converted: ConvertedTeacher, output: Path, size_bytes: int, dry_run: bool) -> Told:
    """What was found, made and dropped, and how to use it."""
    num_parameters = sum(tensor.numel() for tensor in converted.weights.values())
    place = shlex.quote(str(output))
    lines = {
        "found": f"official checkpoint of a teacher {converted.kind}, {converted.size or 'a size of its own'}",
        "made": f"transformers' format, {num_parameters:,} parameters, {size_bytes / _MEGABYTE:,.1f} MB "
        f"{place_of(output, dry_run)}",
        "dropped": f"{len(converted.unused)} tensors ({converted.not_carried}); sailloft -v convert names them",
        "next": f"sailloft run RECIPE teachers.0.checkpoint={place}  (of a teacher with kind: {converted.kind})",
    }
    data: dict[str, Json] = {
        "folder": str(output),
        "dry_run": dry_run,
        "found": f"teacher {converted.kind}",
        "size": converted.size,
        "num_parameters": num_parameters,
        "size_bytes": size_bytes,
        "dropped": list(converted.unused),
    }
    return Told("\n".join(f"{name:<8} {text}" for name, text in lines.items()), data)
