"""The official programs themselves, as optional backends: the golden features, and those of the transformers backend.

Each needs an environment of its own (docs/teachers.md); without it the tests are skipped, and say what is missing.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from storage.errors import UsageError
from teachers.conversion.testing import official_mask2former, official_sam2
from teachers.mask2former import Mask2FormerSizes, Mask2FormerTeacherConfig
from teachers.sam2 import Sam2Sizes, Sam2TeacherConfig
from teachers.sam2_sizes import Sam2Details
from teachers.testing import textured_image
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
)

HAS_SAM2 = importlib.util.find_spec("sam2") is not None
HAS_MASK2FORMER = all(importlib.util.find_spec(name) is not None for name in ("detectron2", "mask2former"))
needs_sam2 = pytest.mark.skipif(not HAS_SAM2, reason="the package sam2 isn't installed; see docs/teachers.md")
needs_mask2former = pytest.mark.skipif(
    not HAS_MASK2FORMER, reason="detectron2 and Mask2Former aren't installed; see docs/teachers.md"
)
# Their authors' code is older than the deprecations that it runs into.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

DETAILS = Sam2Details(num_heads=1, window_sizes=(8, 4, 8, 4), global_attention_blocks=(3,))


@pytest.fixture
def mask2former(request: pytest.FixtureRequest) -> Case:
    return load_mask2former(request.param)


@pytest.fixture
def sam2(request: pytest.FixtureRequest) -> Case:
    return load_sam2(request.param)


@needs_sam2
@every_sam2
def test_sam2_gives_the_golden_features(sam2: Case) -> None:
    config = sam2_config(sam2)
    features = sam2.features(config.model_copy(update={"backend": "official"}).build())
    expected = sam2.tensors["image_embed"]
    rounding = torch.from_numpy(np.spacing(expected.abs().numpy())).float() / 2
    assert bool(((features - expected.float()).abs() <= rounding + EMBEDDING_TOLERANCE).all())
    assert float((features - sam2.features(config.build())).abs().max()) <= EMBEDDING_TOLERANCE


@needs_mask2former
@every_mask2former
def test_mask2former_gives_the_golden_features(mask2former: Case) -> None:
    config = mask2former_config(mask2former)
    features = mask2former.features(config.model_copy(update={"backend": "official"}).build())
    assert float((features - mask2former.tensors["mask_features"]).abs().max()) <= MASK_FEATURES_TOLERANCE
    assert float((features - mask2former.features(config.build())).abs().max()) <= MASK_FEATURES_TOLERANCE


@needs_mask2former
@pytest.mark.parametrize("size", [(480, 640), (333, 500), (97, 61), (300, 1200), (1, 7)])
def test_padding_is_detectron2s_rule(size: tuple[int, int]) -> None:
    from detectron2.data.transforms import ResizeShortestEdge
    from detectron2.structures import ImageList

    config = Mask2FormerTeacherConfig(resize="pad")
    image = textured_image(*size)
    pixels = np.asarray(image)
    resized = ResizeShortestEdge(800, 1333).get_transform(pixels).apply_image(pixels)
    mean = torch.tensor([123.675, 116.280, 103.530]).view(3, 1, 1)
    std = torch.tensor([58.395, 57.120, 57.375]).view(3, 1, 1)
    normalised = (torch.from_numpy(resized.transpose(2, 0, 1).copy()) - mean) / std
    assert torch.equal(config.preprocess(image), ImageList.from_tensors([normalised], 32).tensor[0])


@pytest.mark.skipif(HAS_SAM2, reason="the package sam2 is installed")
def test_without_sam2_the_remedy_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sam2.pt"
    torch.save({"model": official_sam2(Sam2Sizes().architecture())}, path)
    with pytest.raises(UsageError, match=r"needs the package sam2, .* install it .* or set backend: transformers"):
        Sam2TeacherConfig(checkpoint=str(path), details=DETAILS, backend="official").build()


@pytest.mark.skipif(HAS_MASK2FORMER, reason="detectron2 and Mask2Former are installed")
def test_without_detectron2_the_remedy_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model_final.pth"
    torch.save({"model": official_mask2former(Mask2FormerSizes().architecture())}, path)
    with pytest.raises(UsageError, match=r"needs detectron2 and Mask2Former, .* or set backend: transformers"):
        Mask2FormerTeacherConfig(checkpoint=str(path), backend="official").build()


@pytest.mark.parametrize("config", [Sam2TeacherConfig, Mask2FormerTeacherConfig], ids=["sam2", "mask2former"])
def test_official_backends_take_official_files(
    config: type[Sam2TeacherConfig] | type[Mask2FormerTeacherConfig], tmp_path: Path
) -> None:
    for checkpoint in (None, str(tmp_path), "facebook/somewhere"):
        with pytest.raises(ValidationError, match="backend: official takes an official file"):
            config.model_validate({"backend": "official", "checkpoint": checkpoint})
