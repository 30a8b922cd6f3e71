"""The student's configuration as transformers keeps it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from model.config import InitialHeads, StudentConfig
from model.huggingface import PixelSailConfig
from model.tokenizer import StudentTokenizer


@pytest.fixture
def wrapped(config: StudentConfig, tokenizer: StudentTokenizer) -> PixelSailConfig:
    return PixelSailConfig.of(config, tokenizer)


def test_round_trip(wrapped: PixelSailConfig, config: StudentConfig, tmp_path: Path) -> None:
    wrapped.save_pretrained(tmp_path)
    for loaded in (PixelSailConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is PixelSailConfig
        assert loaded.student == config
        assert loaded.to_diff_dict() == wrapped.to_diff_dict()


def test_every_field_survives(tokenizer: StudentTokenizer, tmp_path: Path) -> None:
    """Also those that are not numbers, and those that differ from the defaults."""
    config = StudentConfig(
        vocab_size=tokenizer.vocab_size,
        attention_head_dim=48,
        attention_bias=False,
        tie_word_embeddings=False,
        modality_weights="separate",
        rope_theta=500.0,
        rms_norm_eps=1e-5,
        initial_heads=InitialHeads(prompted_patches=1),
        patch_embedding="convolutions",
        upsampling="none",
        visual_prompt="pooled",
        wordings="short",
        distillation=(),
    )
    PixelSailConfig.of(config, tokenizer).save_pretrained(tmp_path)
    assert PixelSailConfig.from_pretrained(tmp_path).student == config


def test_a_saved_file_names_every_field(wrapped: PixelSailConfig, config: StudentConfig, tmp_path: Path) -> None:
    """Defaults may change; what was trained doesn't."""
    wrapped.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {name: saved[name] for name in StudentConfig.model_fields} == config.model_dump(mode="json")


def test_defaults_are_the_students() -> None:
    assert PixelSailConfig().student == StudentConfig()


def test_ids_are_the_tokenizers(wrapped: PixelSailConfig, tokenizer: StudentTokenizer) -> None:
    assert wrapped.seg_token_id == tokenizer.seg
    assert wrapped.image_token_id == tokenizer.vision_patch
    assert wrapped.vision_start_token_id == tokenizer.vision_start
    assert wrapped.vision_end_token_id == tokenizer.vision_end
    assert wrapped.pooled_region_token_id == tokenizer.pooled_region
    assert wrapped.visual_prompt_token_ids == tokenizer.visual_prompts
    assert wrapped.eos_token_id == wrapped.pad_token_id == tokenizer.end_of_text


def test_number_of_layers_by_both_names() -> None:
    assert PixelSailConfig(num_hidden_layers=7).num_layers == 7
    config = PixelSailConfig(num_layers=3)
    assert config.num_hidden_layers == 3
    config.num_hidden_layers = 5
    assert config.num_layers == config.student.num_layers == 5


def test_two_numbers_of_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="num_hidden_layers: expected num_layers 3, its other name, got 4"):
        PixelSailConfig(num_layers=3, num_hidden_layers=4)
    assert PixelSailConfig(num_layers=3, num_hidden_layers=3).num_layers == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden_size": 0}, "hidden_size\n.*greater than 0.*input_value=0"),
        ({"hidden_size": 30}, "expected a whole number or attention_head_dim, got 30 / 4"),
        ({"num_attention_heads": 6, "hidden_size": 96, "num_key_value_heads": 4}, "a divisor of 6, got 4"),
        ({"patch_size_px": 16, "mask_stride_px": 3}, "mask_stride_px: expected patch_size_px 16 .*, got 3"),
        ({"visual_prompt": "painted"}, "'injected' or 'pooled'.*input_value='painted'"),
        ({"max_side_px": 1000}, "max_side_px: expected a multiple of patch_size_px 16, got 1000"),
        ({"distillation": [{"teacher": "sam2"}]}, r"distillation\.0\.num_channels\n.*required"),
    ],
)
def test_wrong_values_are_refused_with_what_was_expected(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)PixelSailConfig: .*{message}"):
        PixelSailConfig(**wrong)


def test_a_wrong_file_is_refused(wrapped: PixelSailConfig, tmp_path: Path) -> None:
    wrapped.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_key_value_heads": 3}))
    with pytest.raises(ValueError, match="num_key_value_heads: expected a divisor of 2, got 3"):
        AutoConfig.from_pretrained(tmp_path)


def test_a_value_set_afterwards_is_checked_when_it_is_used(wrapped: PixelSailConfig) -> None:
    wrapped.mask_stride_px = 3
    with pytest.raises(ValueError, match="mask_stride_px: expected patch_size_px 8"):
        _ = wrapped.student


def test_fields_of_others_are_kept(wrapped: PixelSailConfig, config: StudentConfig, tmp_path: Path) -> None:
    """Tools write what they like into a configuration, `quantization_config` say."""
    with_more = PixelSailConfig(**wrapped.to_dict(), from_elsewhere={"bits": 4})
    with_more.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.from_elsewhere == {"bits": 4}
    assert loaded.student == config
