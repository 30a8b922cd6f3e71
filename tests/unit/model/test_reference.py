"""Released weight names, there and back, and the configuration that released weights tell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.config import DistillationHead, StudentConfig
from model.reference import decoder_name, from_decoder_name, from_released, is_released, released_config, to_released
from model.student import PixelSail
from storage.errors import DataError, UsageError

SIZES = {"vocab_size": 40, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "num_layers": 2}
UNTOLD = {"num_attention_heads": 2, "rope_theta": 1e6, "rms_norm_eps": 1e-6}


def student(**changes: object) -> PixelSail:
    config = StudentConfig.model_validate({**SIZES, **changes})
    return PixelSail(config).init_weights(torch.Generator().manual_seed(0))


@pytest.fixture
def wide() -> PixelSail:
    """Hidden states wider than the mask head, so that the reducing projection exists."""
    return student(max_mask_channels=16)


RADIO = DistillationHead(teacher="radio", num_channels=24, source="patches")
M2F = DistillationHead(teacher="mask2former", num_channels=6, source="mask_features")
STUDENTS: dict[str, dict[str, object]] = {
    "as published": {},
    "wide": {"max_mask_channels": 16},
    "untied": {"tie_word_embeddings": False},
    "no biases": {"attention_bias": False},
    "wide heads": {"attention_head_dim": 24, "num_attention_heads": 4, "num_key_value_heads": 2},
    "own weights for patches": {"modality_weights": "separate"},
    "convolutions": {"patch_embedding": "convolutions", "patch_size_px": 32},
    "fine masks": {"patch_size_px": 8, "mask_stride_px": 1, "mask_dim": 12},
    "patch-sized masks": {"mask_stride_px": 16},
    "no heads": {"distillation": ()},
    "other heads": {"distillation": (M2F, RADIO)},
    "heads of one width": {"distillation": (M2F, RADIO), "mask_dim": 32},
}


@pytest.mark.parametrize("changes", STUDENTS.values(), ids=STUDENTS.keys())
def test_names_and_sizes_round_trip(changes: dict[str, object]) -> None:
    model = student(**changes)
    ours = model.state_dict()
    released = to_released(ours)
    assert len(released) == len(ours) + model.config.tie_word_embeddings
    assert is_released(released)
    assert not is_released(ours)
    told = released_config(released, {**UNTOLD, "num_attention_heads": model.config.num_attention_heads})
    assert told == model.config
    back = from_released(released, told)
    assert back.keys() == ours.keys()
    assert all(back[name].equal(ours[name]) for name in ours)
    PixelSail(told).load_state_dict(back)


def test_released_names_and_shapes(wide: PixelSail) -> None:
    released = to_released(wide.state_dict())
    assert {
        "single_transformer.model.embed_tokens.weight",
        "single_transformer.model.layers.1.self_attn.q_proj.bias",
        "single_transformer.model.layers.0.mlp.gate_proj.weight",
        "single_transformer.model.layers.0.post_attention_layernorm.weight",
        "image_feature_pre_projector.0.weight",
        "image_feature_projector.2.bias",
        "upsample_blocks.1.0.weight",
        "upsample_blocks.1.2.depthwise.weight",
        "upsample_blocks.0.3.ln.weight",
        "seg_token_projector.2.weight",
        "mask2former_distill_linear.weight",
        "sam2_distill_linear.bias",
    } <= released.keys()
    assert released["upsample_blocks.0.2.pointwise.weight"].shape == (16, 16, 1, 1)
    assert released["single_transformer.lm_head.weight"].equal(wide.embed_tokens.weight)


def test_names_of_weights_that_are_the_patches_own() -> None:
    model = student(modality_weights="separate", patch_embedding="convolutions")
    assert {
        "single_transformer.model.layers.1.self_attn.moe_q_proj.bias",
        "single_transformer.model.layers.0.moe_mlp.gate_proj.weight",
        "single_transformer.model.layers.0.moe_input_layernorm.weight",
        "single_transformer.model.vision_tower.patch_embedding.0.weight",
        "single_transformer.model.vision_tower.patch_embedding.2.bias",
    } <= to_released(model.state_dict()).keys()


def test_names_of_decoders() -> None:
    for ours in ("layers.3.vision.up_proj.weight", "layers.11.self_attn.o_proj.weight", "norm.weight"):
        assert from_decoder_name(decoder_name(ours)) == ours
    assert decoder_name("seg_query.0.weight") == "seg_query.0.weight"
    assert from_decoder_name("model.layers.0.self_attn.q_norm.weight") is None
    assert from_decoder_name("model.layers.0.mlp.up_proj.weight.extra") is None


def test_unknown_name_is_refused(wide: PixelSail) -> None:
    more = {**to_released(wide.state_dict()), "vision_tower.weight": torch.zeros(1)}
    for read in (lambda: from_released(more, wide.config), lambda: released_config(more, UNTOLD)):
        with pytest.raises(DataError, match=r"'vision_tower\.weight': expected a name of the released model"):
            read()
    with pytest.raises(DataError, match=r"weight 'embed\.weight': expected a name of the student"):
        to_released({"embed.weight": torch.zeros(1)})


def test_output_embedding_of_its_own_needs_its_configuration(wide: PixelSail) -> None:
    released = to_released(wide.state_dict())
    released["single_transformer.lm_head.weight"] = released["single_transformer.lm_head.weight"] + 1
    with pytest.raises(DataError, match=r"lm_head\.weight: expected the input embedding.*tie_word_embeddings=false"):
        from_released(released, wide.config)
    assert not released_config(released, UNTOLD).tie_word_embeddings


def test_another_vocabulary_is_refused(wide: PixelSail) -> None:
    config = wide.config.model_copy(update={"vocab_size": 41})
    with pytest.raises(DataError, match="expected 41 rows as configured, got 40"):
        from_released(to_released(wide.state_dict()), config)


def released(**changed: Tensor | None) -> dict[str, Tensor]:
    weights = {**to_released(student().state_dict()), **changed}
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected num_attention_heads=..., rope_theta=..., rms_norm_eps=..., which shapes can't tell; take them"),
        ({**UNTOLD, "rope_theta": None}, "expected rope_theta=..., which shapes can't tell"),
        ({**UNTOLD, "num_attention_heads": "two"}, "num_attention_heads: expected a whole number above 0, got 'two'"),
        ({**UNTOLD, "num_attention_heads": 5}, r"q_proj\.weight: expected rows in multiples of 5 .* got 32; correct"),
        ({**UNTOLD, "num_attention_heads": 1}, r"k_proj\.weight: expected rows in multiples of 32 .* got 16"),
        (
            {**UNTOLD, "mask_dim": 9},
            "mask_dim: expected 512 as the file of released weights has it, got 9; leave it out",
        ),
        ({**UNTOLD, "num_layers": "many"}, "settings of the student: num_layers: Input should be a valid integer"),
    ],
)
def test_what_shapes_cannot_tell(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        released_config(released(), settings)


def test_weights_that_every_student_has() -> None:
    missing = "single_transformer.model.layers.0.self_attn.q_proj.weight"
    with pytest.raises(DataError, match=f"expected {missing.replace('.', '[.]')}, which every student has, got none"):
        released_config(released(**{missing: None}), UNTOLD)
    with pytest.raises(DataError, match="vis_embed: expected a patch embedding, got none"):
        released_config(released(**{"single_transformer.model.vis_embed.weight": None}), UNTOLD)


def test_further_settings_are_taken() -> None:
    config = released_config(released(), {**UNTOLD, "max_side_px": 512, "num_visual_prompts": 3})
    assert (config.max_side_px, config.num_visual_prompts) == (512, 3)


def test_the_mask_head_of_the_3b_model_has_the_released_shapes() -> None:
    """As bytedance/Sa2VA, `sa2va_eval/projects/ST/models/sa2va_ST.py`, builds it: only hidden states over 1,024 wide
    are reduced, by two layers of which the first keeps the width."""
    config = StudentConfig(hidden_size=2048, num_attention_heads=16, num_key_value_heads=2, num_layers=1)
    with torch.device("meta"):
        released = to_released(PixelSail(config).state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in released.items() if "projector" in name}
    assert shapes == {
        "image_feature_pre_projector.0.weight": (2048, 2048),
        "image_feature_pre_projector.0.bias": (2048,),
        "image_feature_pre_projector.2.weight": (1024, 2048),
        "image_feature_pre_projector.2.bias": (1024,),
        "seg_token_projector.0.weight": (1024, 2048),
        "seg_token_projector.0.bias": (1024,),
        "seg_token_projector.2.weight": (512, 1024),
        "seg_token_projector.2.bias": (512,),
        "image_feature_projector.0.weight": (1024, 1024),
        "image_feature_projector.0.bias": (1024,),
        "image_feature_projector.2.weight": (512, 1024),
        "image_feature_projector.2.bias": (512,),
    }
