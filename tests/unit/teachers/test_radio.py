from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from storage.errors import DataError, SourceError, UsageError
from teachers.base import build_seeded
from teachers.radio import RadioTeacherConfig
from teachers.radio_network import RadioArchitecture, RadioNetwork
from teachers.testing import textured_image

SMALL = RadioArchitecture(embed_dim=24, num_blocks=2, num_heads=3, num_tokens=5, position_grid=8, mlp_channels=40)
CONDITIONER = {
    "input_conditioner.norm_mean": torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1),
    "input_conditioner.norm_std": torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1),
}


def network(architecture: RadioArchitecture = SMALL) -> RadioNetwork:
    drawn = build_seeded(lambda: RadioNetwork(architecture), 0)
    assert isinstance(drawn, RadioNetwork)
    return drawn.eval()


def released(architecture: RadioArchitecture = SMALL, **others: torch.Tensor) -> dict[str, torch.Tensor]:
    """A checkpoint by the names that releases on the hub have."""
    state = network(architecture).state_dict() | CONDITIONER | {"summary_idxs": torch.arange(3)} | others
    return {f"radio_model.{name}": tensor.contiguous() for name, tensor in state.items()}


def write(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def test_names_of_releases() -> None:
    assert sorted(network(SMALL.model_copy(update={"num_blocks": 1})).state_dict()) == [
        *(f"model.blocks.0.attn.{layer}.{part}" for layer in ("proj", "qkv") for part in ("bias", "weight")),
        *(f"model.blocks.0.mlp.{layer}.{part}" for layer in ("fc1", "fc2") for part in ("bias", "weight")),
        *(f"model.blocks.0.{norm}.{part}" for norm in ("norm1", "norm2") for part in ("bias", "weight")),
        "model.patch_generator.cls_token.token",
        "model.patch_generator.embedder.weight",
        "model.patch_generator.pos_embed",
    ]


@pytest.mark.parametrize(
    "options", [{}, {"layer_scale": True}, {"final_norm": True}, {"feature_normalizer": True}], ids=str
)
def test_a_released_checkpoint_loads(tmp_path: Path, options: dict[str, bool]) -> None:
    architecture = SMALL.model_copy(update=options)
    folder = write(tmp_path / "radio", released(architecture))
    teacher = RadioTeacherConfig(checkpoint=str(folder), num_heads=3, image_size_px=64).build()
    inputs = torch.stack([teacher.preprocess(textured_image(50, 70, seed)) for seed in range(2)])
    with torch.inference_mode():
        assert torch.equal(teacher.forward(inputs), network(architecture)(inputs))
    direct = RadioTeacherConfig(checkpoint=str(folder / "model.safetensors"), num_heads=3, image_size_px=64).build()
    assert direct.fingerprint == teacher.fingerprint


def test_pixels_are_normalised_as_clip_does() -> None:
    image = textured_image(32, 32)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(32, 32, 3).permute(2, 0, 1) / 255
    expected = (pixels - CONDITIONER["input_conditioner.norm_mean"]) / CONDITIONER["input_conditioner.norm_std"]
    torch.testing.assert_close(RadioTeacherConfig(image_size_px=32).preprocess(image), expected)


def test_positions_are_resized_to_the_longer_side_and_cropped() -> None:
    generator = network().model.patch_generator
    learned = generator.pos_embed.detach()
    assert torch.equal(generator.positions(8, 8), learned)
    grid = learned.view(8, 8, -1)
    square = torch.nn.functional.interpolate(grid.permute(2, 0, 1)[None], (6, 6), mode="bilinear")[0].permute(1, 2, 0)
    torch.testing.assert_close(generator.positions(4, 6).detach()[0], square[:4].flatten(0, 1))
    torch.testing.assert_close(generator.positions(6, 3).detach()[0], square[:, :3].flatten(0, 1))


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    weights = released()
    incomplete = {name: tensor for name, tensor in weights.items() if not name.endswith("blocks.1.attn.proj.bias")}
    config = {"num_heads": 3, "image_size_px": 64}
    for name, content, message in (
        ("incomplete", incomplete, r"1 weights .* missing, first model\.blocks\.1\.attn\.proj\.bias"),
        ("empty", {"x": torch.zeros(1)}, "4 weights .* missing"),
        (
            "trained",
            released(**{"model.blocks.0.attn.qkv.parametrizations.weight.0.scale": torch.zeros(1)}),
            "expected plain weights, found .*parametrizations",
        ),
        (
            "conditioned",
            released(**{"input_conditioner.norm_mean": torch.full((3, 1, 1), 0.5)}),
            r"norm_mean: expected \(0\.48.* as in every release, got \[0\.5",
        ),
        (
            "odd",
            released(**{"model.blocks.1.attn.qkv.bias": torch.zeros(5)}),
            r"model\.blocks\.1\.attn\.qkv\.bias: expected shape \(72,\), got \(5,\)",
        ),
    ):
        folder = write(tmp_path / name, content)
        with pytest.raises(DataError, match=message):
            RadioTeacherConfig.model_validate({**config, "checkpoint": str(folder)}).build()
    folder = write(tmp_path / "whole", weights)
    with pytest.raises(UsageError, match="24 channels are of no published size; give num_heads"):
        RadioTeacherConfig(checkpoint=str(folder), image_size_px=64).build()
    with pytest.raises(UsageError, match="patch_size_px: expected 16, that of the network, got 8"):
        RadioTeacherConfig(checkpoint=str(folder), num_heads=3, patch_size_px=8, image_size_px=64).build()
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(SourceError, match="expected safetensors"):
        RadioTeacherConfig(checkpoint=str(folder), num_heads=3, image_size_px=64).build()
    with pytest.raises(OSError, match="nowhere"):
        RadioTeacherConfig(checkpoint=str(tmp_path / "nowhere")).build()


def test_the_image_must_be_made_of_patches() -> None:
    with pytest.raises(ValidationError, match="expected a multiple of patch_size_px 16, got 100"):
        RadioTeacherConfig(image_size_px=100)
