"""Official teacher checkpoints against the original programs, from the bytes of an image to the features.

`SAILLOFT_GOLDEN_TEACHERS` names the folder of the golden files; see `tests/parity/official_cases.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.convert import convert
from jobs.display import open_display
from teachers.conversion import convert_official
from tests.parity.official_cases import (
    EMBEDDING_TOLERANCE,
    MASK_FEATURES_TOLERANCE,
    Case,
    every_mask2former,
    every_sam2,
    load_mask2former,
    load_sam2,
    mask2former_config,
    sam2_config,
    sam2_details,
)


@pytest.fixture
def mask2former(request: pytest.FixtureRequest) -> Case:
    return load_mask2former(request.param)


@pytest.fixture
def sam2(request: pytest.FixtureRequest) -> Case:
    return load_sam2(request.param)


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
    overrides = mask2former.overrides
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
