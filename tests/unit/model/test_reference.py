"""Released weight names, there and back."""

from __future__ import annotations

import pytest
import torch

from model.config import StudentConfig
from model.reference import from_released, to_released
from model.student import PixelSail


@pytest.fixture
def wide() -> PixelSail:
    """Hidden states wider than the mask head, so that the reducing projection exists."""
    config = StudentConfig(
        vocab_size=40, hidden_size=32, num_attention_heads=2, num_key_value_heads=1, num_layers=2, max_mask_channels=16
    )
    return PixelSail(config).init_weights(torch.Generator().manual_seed(0))


def test_names_round_trip(wide: PixelSail) -> None:
    ours = wide.state_dict()
    released = to_released(ours)
    assert len(released) == len(ours) + 1
    back = from_released(released, wide.config)
    assert back.keys() == ours.keys()
    assert all(back[name].equal(ours[name]) for name in ours)
    PixelSail(wide.config).load_state_dict(back)


def test_released_names_and_shapes(wide: PixelSail) -> None:
    released = to_released(wide.state_dict())
    assert {
        "single_transformer.model.embed_tokens.weight",
        "single_transformer.model.layers.1.self_attn.q_proj.bias",
        "single_transformer.model.layers.0.mlp.gate_proj.weight",
        "single_transformer.model.layers.0.post_attention_layernorm.weight",
        "image_feature_down_projector.0.weight",
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


def test_unknown_name_is_refused(wide: PixelSail) -> None:
    with pytest.raises(ValueError, match=r"'vision_tower\.weight': expected a name of the released model"):
        from_released({**to_released(wide.state_dict()), "vision_tower.weight": torch.zeros(1)}, wide.config)


def test_output_embedding_of_its_own_is_refused(wide: PixelSail) -> None:
    released = to_released(wide.state_dict())
    released["single_transformer.lm_head.weight"] = released["single_transformer.lm_head.weight"] + 1
    with pytest.raises(ValueError, match=r"lm_head\.weight: expected the input embedding"):
        from_released(released, wide.config)


def test_another_vocabulary_is_refused(wide: PixelSail) -> None:
    config = wide.config.model_copy(update={"vocab_size": 41})
    with pytest.raises(ValueError, match="expected 41 rows as configured, got 40"):
        from_released(to_released(wide.state_dict()), config)
