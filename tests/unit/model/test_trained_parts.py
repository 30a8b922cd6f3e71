from __future__ import annotations

import pytest

from model.config import StudentConfig
from model.student import PixelSail
from model.trained_parts import TrainedParts, train_parts
from storage.errors import UsageError

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_layers": 2, "patch_size_px": 16}


def _trained(parts: TrainedParts, **fields: object) -> set[str]:
    student = PixelSail(StudentConfig.model_validate({**SIZES, **fields}))
    return {name for name, weight in train_parts(student, parts).named_parameters() if weight.requires_grad}


def test_everything_trains_unless_told_otherwise() -> None:
    student = PixelSail(StudentConfig.model_validate(SIZES))
    assert _trained("all") == {name for name, _ in student.named_parameters()}


def test_a_language_model_meets_pictures_by_its_patch_embedding() -> None:
    assert _trained("patch_embedding") == {"vis_embed.weight"}
    names = _trained("patch_embedding", patch_embedding="convolutions")
    assert names
    assert all(name.startswith("vis_embed.") for name in names)


def test_vision_is_what_patches_have_of_their_own() -> None:
    names = _trained("vision", modality_weights="separate")
    assert "vis_embed.weight" in names
    layers = {name for name in names if name.startswith("layers.")}
    assert names - layers == {"vis_embed.weight"}
    assert layers
    assert all(".vision." in name for name in layers)


def test_shared_weights_cant_be_trained_for_patches_alone() -> None:
    with pytest.raises(UsageError, match=r"expected student\.modality_weights separate beside vision, got shared"):
        _trained("vision")
