from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import Sam2Config, Sam2Model

from storage.errors import DataError
from teachers.sam2 import Sam2TeacherConfig
from teachers.testing import textured_image


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint as transformers writes it."""
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [8, 4, 8, 4],
        "global_attention_blocks": [3],
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 16,
    }
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 16, "image_size": 64},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 8},
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = Sam2Model(config)
        model.no_memory_embedding.normal_()
    folder = tmp_path_factory.mktemp("sam2")
    model.save_pretrained(folder)
    return folder


def test_checkpoint_gives_the_image_embedding(checkpoint: Path) -> None:
    teacher = Sam2TeacherConfig(checkpoint=str(checkpoint), image_size_px=64).build()
    inputs = torch.stack([teacher.preprocess(textured_image(60, 80, seed)) for seed in range(2)])
    model = Sam2Model.from_pretrained(checkpoint).eval()
    assert teacher.num_channels == 16
    assert torch.equal(teacher.forward(inputs), model.get_image_embeddings(inputs)[-1])


def test_checkpoint_without_needed_weights_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    weights = load_file(checkpoint / "model.safetensors")
    del weights["no_memory_embedding"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="1 weights of the feature network are missing, first no_memory_embedding"):
        Sam2TeacherConfig(checkpoint=str(tmp_path)).build()


def test_weights_outside_the_feature_network_leave_the_fingerprint(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    weights = load_file(checkpoint / "model.safetensors")
    name = "mask_decoder.iou_token.weight"
    weights[name] = weights[name] + 1
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    first = Sam2TeacherConfig(checkpoint=str(checkpoint)).build()
    assert Sam2TeacherConfig(checkpoint=str(tmp_path)).build().fingerprint == first.fingerprint


def test_every_image_has_the_same_grid() -> None:
    teacher = Sam2TeacherConfig()
    assert {teacher.output_grid(*size) for size in ((480, 640), (1, 5), (3000, 2000))} == {(64, 64)}


def test_image_size_must_fit_the_windows() -> None:
    with pytest.raises(ValidationError, match="multiple of 32"):
        Sam2TeacherConfig(image_size_px=100)
