"""What a student's sizes must agree on."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from model.config import StudentConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 100, "num_attention_heads": 3}, "expected a multiple of 8"),
        ({"hidden_size": 48, "num_attention_heads": 4}, r"expected a multiple of 8 .*, got 48 / 4"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "expected a divisor of 4, got 3"),
        ({"patch_size_px": 16, "mask_stride_px": 3}, "divided by a power of two, got 3"),
        ({"patch_size_px": 24, "max_side_px": 48, "mask_stride_px": 16}, "divided by a power of two, got 16"),
        ({"patch_size_px": 16, "mask_stride_px": 32}, "divided by a power of two, got 32"),
        ({"patch_size_px": 16, "max_side_px": 1000}, "expected a multiple of patch_size_px 16, got 1000"),
        (
            {"num_key_value_heads": 2, "initial_heads": {"neighbours": 1, "prompted_patches": 2}},
            "expected at most num_key_value_heads 2, got 3",
        ),
        ({"num_layers": 0}, "greater than 0"),
        ({"depth": 3}, "Extra inputs are not permitted"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StudentConfig(**fields)


@pytest.mark.parametrize(("patch", "stride", "blocks"), [(16, 4, 2), (16, 2, 3), (32, 4, 3), (8, 8, 0)])
def test_number_of_doublings(patch: int, stride: int, blocks: int) -> None:
    assert StudentConfig(patch_size_px=patch, mask_stride_px=stride).num_upsample_blocks == blocks


def test_derived_sizes() -> None:
    config = StudentConfig(hidden_size=2048, num_attention_heads=16, num_key_value_heads=2)
    assert (config.head_dim, config.mask_channels) == (128, 1024)
    assert StudentConfig(hidden_size=64).mask_channels == 64


def test_json_round_trip() -> None:
    config = StudentConfig(vocab_size=300, wordings="short", distillation=())
    assert StudentConfig.model_validate_json(config.model_dump_json()) == config
