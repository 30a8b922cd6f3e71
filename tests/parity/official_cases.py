"""Golden files of official teachers: what is in them, and which of our configurations they belong to.

A folder holds, for each case, a checkpoint as its program writes it, a `.json` with what was changed of the
program's configuration, and a `.safetensors` with an image and what the program made of it.
`SAILLOFT_GOLDEN_TEACHERS` names the folder; every `mask2former_detectron2_*` and `sam2_official_*` in it is a case.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pipelines.distillation.steps import decode_rgb
from teachers.base import Teacher
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.resize import round_up
from teachers.sam2 import Sam2TeacherConfig
from teachers.sam2_sizes import SAM2_SIZES, Sam2Details

GOLDEN_ENV = "SAILLOFT_GOLDEN_TEACHERS"
SHARED = Path(os.environ.get("SAILLOFT_SHARED") or Path(__file__).resolve().parents[3] / "shared")
GOLDEN = Path(os.environ.get(GOLDEN_ENV) or SHARED / "golden")

MASK_FEATURES_TOLERANCE = 1e-5
"""Measured on the golden file: 1.5e-6."""
EMBEDDING_TOLERANCE = 1e-5
"""Beyond the rounding to float16, which the golden embeddings went through; measured: 1.6e-6."""
SAM2_BASES = {"t": "hiera-tiny", "s": "hiera-small", "b+": "hiera-base-plus", "l": "hiera-large"}
"""Our names of published sizes by the last part of the official configuration's name."""


@dataclass(frozen=True)
class Case:
    """One checkpoint with its facts and its tensors."""

    checkpoint: Path
    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def overrides(self) -> dict[str, Any]:
        """Changed fields of the original's configuration; some programs take values as text."""
        return {name: _value(value) for name, value in self.facts.get("overrides", {}).items()}

    def image(self) -> Image.Image:
        """The picture, through the bytes of a file as curated corpora hold it."""
        buffer = io.BytesIO()
        Image.fromarray(self.tensors["image_rgb_hwc_u8"].numpy()).save(buffer, "PNG")
        return decode_rgb(buffer.getvalue())

    def features(self, teacher: Teacher) -> Tensor:
        """What the teacher makes of the picture."""
        return teacher.forward(teacher.preprocess(self.image())[None])


def _cases(pattern: str, suffix: str) -> list[Any]:
    stems = sorted(path.with_suffix("") for path in GOLDEN.glob(f"{pattern}_*{suffix}"))
    if not stems:
        skip = pytest.mark.skip(reason=f"no golden {pattern}_*{suffix} in {GOLDEN}; {GOLDEN_ENV} names another folder")
        return [pytest.param(None, marks=skip, id="none")]
    return [pytest.param(stem, id=stem.name) for stem in stems]


def _load(stem: Path, suffix: str) -> Case:
    facts = json.loads(stem.with_name(f"{stem.name}.json").read_text())
    return Case(stem.with_name(stem.name + suffix), facts, load_file(stem.with_name(f"{stem.name}.safetensors")))


def load_mask2former(stem: Path) -> Case:
    """A case of detectron2's Mask2Former."""
    return _load(stem, ".pkl")


def load_sam2(stem: Path) -> Case:
    """A case of the official SAM 2."""
    return _load(stem, ".pt")


every_mask2former = pytest.mark.parametrize("mask2former", _cases("mask2former_detectron2", ".pkl"), indirect=True)
every_sam2 = pytest.mark.parametrize("sam2", _cases("sam2_official", ".pt"), indirect=True)


def mask2former_config(case: Case, checkpoint: Path | None = None) -> Mask2FormerTeacherConfig:
    """The teacher with the original's own preprocessing."""
    multiple_px = max(case.facts.get("size_divisibility", 32), 32)
    sides, given = case.tensors["image_rgb_hwc_u8"].shape[:2], case.tensors["normalised_nchw"].shape[-2:]
    # Where padding alone leads from the image to the input, the image was not resized.
    as_it_is = all(round_up(side, multiple_px) == padded for side, padded in zip(sides, given, strict=True))
    return Mask2FormerTeacherConfig(
        checkpoint=str(checkpoint or case.checkpoint),
        resize="pad",
        short_side_px=min(sides) if as_it_is else case.overrides.get("INPUT.MIN_SIZE_TEST", 800),
        long_side_px=max(sides) if as_it_is else case.overrides.get("INPUT.MAX_SIZE_TEST", 1333),
        multiple_px=multiple_px,
    )


def sam2_details(case: Case) -> Sam2Details:
    """What the weights don't tell: from the overrides, and from the configuration that they change."""
    match = re.search(r"hiera_(t|s|b\+|l)(?![a-z])", str(case.facts["config"]))
    assert match is not None, case.facts["config"]
    names = {
        "trunk.num_heads": "num_heads",
        "trunk.window_spec": "window_sizes",
        "trunk.global_att_blocks": "global_attention_blocks",
        "neck.fpn_top_down_levels": "top_down_levels",
    }
    overrides = {name.removeprefix("model.image_encoder."): value for name, value in case.overrides.items()}
    changed = {ours: overrides[theirs] for theirs, ours in names.items() if theirs in overrides}
    return Sam2Details.model_validate(SAM2_SIZES[SAM2_BASES[match[1]]].untold_by_shapes() | changed)


def _value(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def sam2_config(case: Case, checkpoint: Path | None = None) -> Sam2TeacherConfig:
    """The teacher at the original's image size."""
    return Sam2TeacherConfig(
        checkpoint=str(checkpoint or case.checkpoint),
        details=sam2_details(case) if checkpoint is None else None,
        image_size_px=16 * case.tensors["image_embed"].shape[-1],
    )
