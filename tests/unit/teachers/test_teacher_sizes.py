"""Published sizes: parameters counted without memory, beside the published numbers."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import Mask2FormerForUniversalSegmentation, Sam2VideoConfig, Sam2VideoModel

from teachers.base import BaseTeacherConfig
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.mask2former_sizes import MASK2FORMER_SIZES
from teachers.radio import RADIO_SIZES, RadioTeacherConfig
from teachers.radio_network import RadioNetwork
from teachers.sam2 import Sam2TeacherConfig
from teachers.sam2_sizes import SAM2_SIZES


def millions(model: nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize(
    ("size", "published"),
    # The table of facebookresearch/sam2's README, whole models with memory.
    [("hiera-tiny", 38.9), ("hiera-small", 46.0), ("hiera-base-plus", 80.8), ("hiera-large", 224.4)],
)
def test_sam2_has_the_published_number_of_parameters(size: str, published: float) -> None:
    with torch.device("meta"):
        model = Sam2VideoModel(Sam2VideoConfig(vision_config=SAM2_SIZES[size].vision_config()))
    assert millions(model) == pytest.approx(published, abs=0.1)


@pytest.mark.parametrize(
    ("size", "num_queries", "published"),
    # Table 1 of arXiv 2112.01527, whole models with their transformer decoders of nine layers.
    [("swin-tiny", 100, 47), ("swin-small", 100, 69), ("swin-base", 100, 107), ("swin-large", 200, 216)],
)
def test_mask2former_has_the_published_number_of_parameters(size: str, num_queries: int, published: int) -> None:
    config = MASK2FORMER_SIZES[size].network_config()
    config.decoder_layers, config.dim_feedforward, config.num_queries = 10, 2048, num_queries
    config.num_labels = 133
    with torch.device("meta"):
        model = Mask2FormerForUniversalSegmentation(config)
    assert millions(model) == pytest.approx(published, abs=0.6)


@pytest.mark.parametrize(
    ("size", "backbone"),
    # ViT-B, -L and -H of arXiv 2010.11929: 86, 307 and 632 M, less the classifier's and the usual positions.
    [("vit-base", 86), ("vit-large", 303), ("vit-huge", 631)],
)
def test_radio_is_a_vision_transformer_with_positions_for_2048_px(size: str, backbone: int) -> None:
    architecture = RADIO_SIZES[size]
    with torch.device("meta"):
        network = RadioNetwork(architecture)
    positions = 128 * 128 * architecture.embed_dim / 1e6
    assert network.model.patch_generator.pos_embed.numel() / 1e6 == positions
    assert millions(network) - positions == pytest.approx(backbone, rel=0.01)


def test_every_size_can_be_named() -> None:
    for kind, sizes in (
        (Mask2FormerTeacherConfig, MASK2FORMER_SIZES),
        (Sam2TeacherConfig, SAM2_SIZES),
        (RadioTeacherConfig, RADIO_SIZES),
    ):
        for size in sizes:
            assert kind.model_validate({"size": size}).size == size


@pytest.mark.parametrize(
    "kind", [Mask2FormerTeacherConfig, Sam2TeacherConfig, RadioTeacherConfig], ids=["mask2former", "sam2", "radio"]
)
def test_a_checkpoint_has_its_own_size(kind: type[BaseTeacherConfig]) -> None:
    size = {"mask2former": "swin-tiny", "sam2": "hiera-tiny", "radio": "vit-base"}[kind.model_fields["kind"].default]
    with pytest.raises(ValidationError, match=f"size: {size} is for a random network, got checkpoint 'here' too"):
        kind.model_validate({"checkpoint": "here", "size": size})


def test_a_published_size_is_built_with_random_weights() -> None:
    teacher = Sam2TeacherConfig(size="hiera-tiny", image_size_px=64).build()
    assert teacher.num_channels == 256
    assert tuple(teacher.forward(torch.zeros(1, 3, 64, 64)).shape) == (1, 256, 4, 4)
