"""What a student's sizes must agree on."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from model.config import InitialHeads, StudentConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"hidden_size": 100, "num_attention_heads": 3},
            "expected a whole number or attention_head_dim, got 100 / 3",
        ),
        ({"hidden_size": 40, "num_attention_heads": 4}, "expected a multiple of 4 .*, got 10"),
        ({"attention_head_dim": 30}, "expected a multiple of 4 .*, got 30"),
        ({"attention_head_dim": 0}, "greater than 0"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "expected a divisor of 4, got 3"),
        ({"patch_size_px": 16, "mask_stride_px": 3}, "divided by a power of two, got 3"),
        ({"patch_size_px": 24, "max_side_px": 48, "mask_stride_px": 16}, "divided by a power of two, got 16"),
        ({"patch_size_px": 16, "mask_stride_px": 32}, "divided by a power of two, got 32"),
        ({"patch_size_px": 16, "max_side_px": 1000}, "expected a multiple of patch_size_px 16, got 1000"),
        (
            {"num_key_value_heads": 2, "initial_heads": {"neighbours": 1, "prompted_patches": 2}},
            "expected at most num_key_value_heads 2, got 3",
        ),
        ({"attention_bias": False, "initial_heads": {"neighbours": 1}}, "expected attention_bias for neighbours"),
        ({"attention_bias": False, "initial_heads": {"recent_text": 1}}, "expected attention_bias for .* recent_text"),
        (
            {"patch_embedding": "convolutions", "patch_size_px": 15, "max_side_px": 30, "mask_stride_px": 15},
            "expected an even number for two convolutions, got 15",
        ),
        ({"modality_weights": "mixed"}, "'shared' or 'separate'"),
        ({"visual_prompt": "boxes"}, "'injected' or 'pooled'"),
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


@pytest.mark.parametrize(("patch", "stride", "cells"), [(16, 4, 4), (32, 2, 16), (8, 8, 1)])
def test_number_of_cells(patch: int, stride: int, cells: int) -> None:
    config = StudentConfig(patch_size_px=patch, mask_stride_px=stride)
    assert config.cells_per_patch == cells
    plain = config.model_copy(update={"upsampling": "none"})
    assert (plain.cells_per_patch, plain.num_upsample_blocks) == (1, 0)


def test_derived_sizes() -> None:
    config = StudentConfig(hidden_size=2048, num_attention_heads=16, num_key_value_heads=2)
    assert (config.head_dim, config.mask_channels) == (128, 1024)
    assert StudentConfig(hidden_size=64).mask_channels == 64


@pytest.mark.parametrize("hidden_size", [128, 100])
def test_heads_can_be_of_any_width(hidden_size: int) -> None:
    config = StudentConfig(hidden_size=hidden_size, num_attention_heads=3, num_key_value_heads=3, attention_head_dim=20)
    assert config.head_dim == 20


def test_prompted_patch_heads_need_no_bias() -> None:
    heads = InitialHeads(prompted_patches=2)
    assert StudentConfig(attention_bias=False, initial_heads=heads).initial_heads == heads


def test_the_published_student_is_the_default() -> None:
    config = StudentConfig()
    assert (config.modality_weights, config.patch_embedding) == ("shared", "linear")
    assert (config.upsampling, config.visual_prompt) == ("learned", "injected")
    assert (config.attention_bias, config.tie_word_embeddings, config.attention_head_dim) == (True, True, None)


def test_json_round_trip() -> None:
    config = StudentConfig(
        vocab_size=300, wordings="short", distillation=(), attention_head_dim=32, visual_prompt="pooled"
    )
    assert StudentConfig.model_validate_json(config.model_dump_json()) == config


def test_without_upsampling_the_stride_is_not_used() -> None:
    config = StudentConfig(patch_size_px=14, max_side_px=56, upsampling="none")
    assert (config.cells_per_patch, config.num_upsample_blocks) == (1, 0)
