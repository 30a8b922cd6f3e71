"""Teacher inputs against the original programs' own preprocessing, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.sam2 import Sam2TeacherConfig
from teachers.testing import textured_image

SIZES_PX = (
    (480, 640),
    (640, 480),
    (427, 640),
    (333, 500),
    (97, 61),
    (96, 96),
    (800, 800),
    (300, 1200),
    (1, 7),
    (200, 33),
)


@pytest.mark.parametrize(("short_px", "long_px", "multiple_px"), [(800, 1333, 32), (96, 160, 32), (224, 333, 64)])
def test_mask2former_equals_transformers_pil_processor(short_px: int, long_px: int, multiple_px: int) -> None:
    from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

    original = Mask2FormerImageProcessorPil(
        size={"shortest_edge": short_px, "longest_edge": long_px}, size_divisor=multiple_px
    )
    teacher = Mask2FormerTeacherConfig(short_side_px=short_px, long_side_px=long_px, multiple_px=multiple_px)
    for height, width in SIZES_PX:
        image = textured_image(height, width)
        try:
            expected = original(images=image, return_tensors="pt")["pixel_values"][0]
        except ValueError:
            # The original asks PIL for a side of 0 px where ours keeps 1; no photograph comes near.
            assert min(height, width) * long_px < max(height, width)
            continue
        assert torch.equal(teacher.preprocess(image), expected), f"{height} x {width}"


def test_mask2former_equals_transformers_on_photographs(shared_data: Path) -> None:
    from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

    original = Mask2FormerImageProcessorPil()
    teacher = Mask2FormerTeacherConfig()
    photographs = sorted((shared_data / "data" / "photos").glob("*.jpg"))
    assert photographs
    for path in photographs[:2]:
        image = Image.open(path).convert("RGB")
        expected = original(images=image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(teacher.preprocess(image), expected), path.name


def test_sam2_stretches_with_an_antialiased_triangle_filter() -> None:
    """The float filter stays within PIL's rounding: both weigh with the same triangle, PIL to 8 bits per pass."""
    teacher = Sam2TeacherConfig(image_size_px=256)
    std = np.array([0.229, 0.224, 0.225])[:, None, None]
    mean = np.array([0.485, 0.456, 0.406])[:, None, None]
    for height, width in SIZES_PX:
        image = textured_image(height, width)
        ours = teacher.preprocess(image).numpy() * std + mean
        pil = np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR), np.float32).transpose(2, 0, 1) / 255
        assert np.abs(ours - pil).max() <= 1.01 / 255, f"{height} x {width}"


def test_sam2_keeps_pixels_of_an_image_of_its_own_size() -> None:
    teacher = Sam2TeacherConfig(image_size_px=96)
    image = textured_image(96, 96)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    assert torch.equal(teacher.preprocess(image), (pixels - mean) / std)


def test_sam2_feature_equals_transformers_image_embedding(tmp_path: Path) -> None:
    """Saved and loaded as a checkpoint, the feature is `get_image_embeddings(...)[-1]` of the full model."""
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig

    backbone = Sam2HieraDetConfig(
        hidden_size=16,
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        window_size_per_stage=[8, 4, 8, 4],
        global_attention_blocks=[3],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": 128},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = Sam2Model(config).eval()
        model.no_memory_embedding.normal_()
    model.save_pretrained(tmp_path / "checkpoint")
    teacher = Sam2TeacherConfig(checkpoint=str(tmp_path / "checkpoint"), image_size_px=128).build()
    inputs = torch.stack([teacher.preprocess(textured_image(90, 120, seed)) for seed in range(2)])
    assert torch.equal(teacher.forward(inputs), model.get_image_embeddings(inputs)[-1])
