from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from storage.errors import DataError
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.testing import textured_image


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint as transformers writes it."""
    backbone = SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=64,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mask2FormerForUniversalSegmentation(config)
    folder = tmp_path_factory.mktemp("mask2former")
    model.save_pretrained(folder)
    return folder


def test_checkpoint_gives_the_pixel_decoders_mask_features(checkpoint: Path) -> None:
    teacher = Mask2FormerTeacherConfig(checkpoint=str(checkpoint), short_side_px=64, long_side_px=128).build()
    inputs = torch.stack([teacher.preprocess(textured_image(60, 80, seed)) for seed in range(2)])
    model = Mask2FormerForUniversalSegmentation.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        expected = model.model.pixel_level_module(inputs).decoder_last_hidden_state
    assert teacher.num_channels == 64
    assert torch.equal(teacher.forward(inputs), expected)


def test_fingerprint_is_that_of_the_weights_not_of_the_path(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in checkpoint.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    original = Mask2FormerTeacherConfig(checkpoint=str(checkpoint)).build()
    assert Mask2FormerTeacherConfig(checkpoint=str(copy)).build().fingerprint == original.fingerprint

    weights = load_file(copy / "model.safetensors")
    name = "model.pixel_level_module.decoder.mask_projection.weight"
    weights[name] = weights[name] + 1e-3
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert Mask2FormerTeacherConfig(checkpoint=str(copy)).build().fingerprint != original.fingerprint


def test_checkpoint_without_needed_weights_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    weights = load_file(checkpoint / "model.safetensors")
    del weights["model.pixel_level_module.decoder.mask_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"1 weights of the feature network are missing, first .*mask_projection"):
        Mask2FormerTeacherConfig(checkpoint=str(tmp_path)).build()


def test_absent_checkpoint_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        Mask2FormerTeacherConfig(checkpoint=str(tmp_path / "nowhere")).build()


def test_photograph_is_stretched_to_multiples_of_32() -> None:
    teacher = Mask2FormerTeacherConfig()
    assert teacher.input_size(480, 640) == (800, 1088)
    assert teacher.input_size(640, 480) == (1088, 800)
    assert teacher.output_grid(480, 640) == (200, 272)


def test_channels_must_fill_the_norm_groups() -> None:
    with pytest.raises(ValidationError, match="multiple of 32"):
        Mask2FormerTeacherConfig.model_validate({"tiny": {"num_channels": 48}})


@pytest.mark.parametrize("field", ["short_side_px", "long_side_px"])
def test_inputs_of_one_coarse_cell_are_excluded(field: str) -> None:
    with pytest.raises(ValidationError, match="greater than 32"):
        Mask2FormerTeacherConfig.model_validate({field: 32})
    teacher = Mask2FormerTeacherConfig.model_validate({"short_side_px": 33, "long_side_px": 33}).build()
    for size in ((1, 1), (1, 500), (33, 20)):
        features = teacher.forward(teacher.preprocess(textured_image(*size))[None])
        assert bool(torch.isfinite(features).all())
