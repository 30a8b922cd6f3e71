"""Official teacher checkpoints against the original programs, from the bytes of an image to the features.

A folder holds, for each case, a checkpoint as its program writes it, a `.json` with what was changed of the
program's configuration, and a `.safetensors` with an image and what the program made of it.
`SAILLOFT_GOLDEN_TEACHERS` names the folder; every `mask2former_detectron2_*` and `sam2_official_*` in it is a case.
"""

from __future__ import annotations

import ast
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from jobs.convert import convert
from jobs.display import open_display
from pipelines.distillation.steps import decode_rgb
from teachers.base import Teacher
from teachers.conversion import convert_official
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.sam2 import Sam2TeacherConfig
from teachers.sam2_sizes import SAM2_SIZES, Sam2Details

GOLDEN_ENV = "SAILLOFT_GOLDEN_TEACHERS"
GOLDEN = Path(os.environ.get(GOLDEN_ENV) or Path(__file__).resolve().parents[3] / "shared" / "golden")

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


@pytest.fixture
def mask2former(request: pytest.FixtureRequest) -> Case:
    return _load(request.param, ".pkl")


@pytest.fixture
def sam2(request: pytest.FixtureRequest) -> Case:
    return _load(request.param, ".pt")


every_mask2former = pytest.mark.parametrize("mask2former", _cases("mask2former_detectron2", ".pkl"), indirect=True)
every_sam2 = pytest.mark.parametrize("sam2", _cases("sam2_official", ".pt"), indirect=True)


def mask2former_config(case: Case, checkpoint: Path | None = None) -> Mask2FormerTeacherConfig:
    """The teacher with the original's own preprocessing: an image is resized only if the overrides say so."""
    overrides = case.facts.get("overrides", {})
    height, width = case.tensors["image_rgb_hwc_u8"].shape[:2]
    return Mask2FormerTeacherConfig(
        checkpoint=str(checkpoint or case.checkpoint),
        resize="pad",
        short_side_px=overrides.get("INPUT.MIN_SIZE_TEST", min(height, width)),
        long_side_px=overrides.get("INPUT.MAX_SIZE_TEST", max(height, width)),
        multiple_px=max(case.facts.get("size_divisibility", 32), 32),
    )


def sam2_details(case: Case) -> Sam2Details:
    """What the weights don't tell: from the overrides, and from the configuration that they change."""
    base = SAM2_SIZES[SAM2_BASES[str(case.facts["config"]).rsplit("_", 1)[-1]]]
    names = {
        "trunk.num_heads": "num_heads",
        "trunk.window_spec": "window_sizes",
        "trunk.global_att_blocks": "global_attention_blocks",
        "neck.fpn_top_down_levels": "top_down_levels",
    }
    overrides = {
        name.removeprefix("model.image_encoder."): value for name, value in case.facts.get("overrides", {}).items()
    }
    changed = {ours: _value(overrides[theirs]) for theirs, ours in names.items() if theirs in overrides}
    return Sam2Details.model_validate(base.untold_by_shapes() | changed)


def _value(value: object) -> object:
    return ast.literal_eval(value) if isinstance(value, str) else value


def sam2_config(case: Case, checkpoint: Path | None = None) -> Sam2TeacherConfig:
    """The teacher at the original's image size."""
    return Sam2TeacherConfig(
        checkpoint=str(checkpoint or case.checkpoint),
        details=sam2_details(case) if checkpoint is None else None,
        image_size_px=16 * case.tensors["image_embed"].shape[-1],
    )


@every_mask2former
def test_mask2former_gives_detectron2s_mask_features(mask2former: Case) -> None:
    config = mask2former_config(mask2former)
    inputs = config.preprocess(mask2former.image())
    assert torch.equal(inputs[None], mask2former.tensors["normalised_nchw"])
    features, expected = mask2former.features(config.build()), mask2former.tensors["mask_features"]
    assert features.shape == expected.shape
    assert float((features - expected).abs().max()) <= MASK_FEATURES_TOLERANCE


@every_mask2former
def test_mask2formers_architecture_is_told_by_its_weights(mask2former: Case) -> None:
    overrides = mask2former.facts["overrides"]
    config = convert_official(mask2former.checkpoint).config
    found = {
        "MODEL.SWIN.EMBED_DIM": config.backbone_config.embed_dim,
        "MODEL.SWIN.DEPTHS": list(config.backbone_config.depths),
        "MODEL.SWIN.NUM_HEADS": list(config.backbone_config.num_heads),
        "MODEL.SWIN.WINDOW_SIZE": config.backbone_config.window_size,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": config.feature_size,
        "MODEL.SEM_SEG_HEAD.MASK_DIM": config.mask_feature_size,
        "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": config.encoder_layers,
        "MODEL.MASK_FORMER.NHEADS": config.num_attention_heads,
    }
    assert found == {name: overrides.get(name, value) for name, value in found.items()}


@every_sam2
def test_sam2_gives_the_predictors_image_embedding(sam2: Case) -> None:
    features, expected = sam2.features(sam2_config(sam2).build()), sam2.tensors["image_embed"]
    assert features.shape == expected.shape
    halves = expected.dtype == torch.float16
    rounding = torch.from_numpy(np.spacing(expected.abs().numpy())).float() / 2 if halves else torch.zeros(())
    assert bool(((features - expected.float()).abs() <= rounding + EMBEDDING_TOLERANCE).all())


@every_mask2former
def test_converted_mask2former_equals_the_file(mask2former: Case, tmp_path: Path) -> None:
    from transformers import Mask2FormerModel

    folder = tmp_path / "converted"
    with open_display() as display:
        convert(str(mask2former.checkpoint), folder, display=display)
    direct = mask2former_config(mask2former).build()
    converted = mask2former_config(mask2former, folder).build()
    assert converted.fingerprint == direct.fingerprint
    features = mask2former.features(direct)
    assert torch.equal(mask2former.features(converted), features)
    model = Mask2FormerModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        by_transformers = model.pixel_level_module(mask2former.tensors["normalised_nchw"]).decoder_last_hidden_state
    assert torch.equal(by_transformers, features)


@every_sam2
def test_converted_sam2_equals_the_file(sam2: Case, tmp_path: Path) -> None:
    from transformers import Sam2Model

    folder = tmp_path / "converted"
    settings = [f"{name}={json.dumps(value)}" for name, value in sam2_details(sam2).model_dump(mode="json").items()]
    with open_display() as display:
        convert(str(sam2.checkpoint), folder, settings, display=display)
    direct, converted = sam2_config(sam2).build(), sam2_config(sam2, folder).build()
    assert converted.fingerprint == direct.fingerprint
    features = sam2.features(direct)
    assert torch.equal(sam2.features(converted), features)
    model = Sam2Model.from_pretrained(folder).eval()
    with torch.inference_mode():
        by_transformers = model.get_image_embeddings(direct.preprocess(sam2.image())[None])[-1]
    assert torch.equal(by_transformers, features)
