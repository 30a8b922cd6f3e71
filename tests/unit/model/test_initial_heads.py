"""What freshly drawn heads look at."""

from __future__ import annotations

import pytest
import torch

from model.attention import Attention, rotate
from model.config import InitialHeads, StudentConfig
from model.initial_heads import neighbour_heads, recent_text_heads
from model.positions import rotary_embedding, sequence_positions
from model.student import DecoderLayer, PixelSail


def decoder_layers(student: PixelSail) -> list[DecoderLayer]:
    return [module for module in student.modules() if isinstance(module, DecoderLayer)]


def test_neighbour_heads_look_one_place_further(config: StudentConfig) -> None:
    """Whatever the tokens hold: with weights of zero, only the biases and the positions speak."""
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = config.model_copy(update={**sizes, "rope_theta": 2.0})
    offsets: set[tuple[int, int]] = set()
    for seed in range(12):
        attention = Attention(config)
        for projection in (attention.q_proj, attention.k_proj):
            torch.nn.init.zeros_(projection.weight)
            torch.nn.init.zeros_(projection.bias)
        neighbour_heads(attention, 2.0, 0, 1, torch.Generator().manual_seed(seed))
        rows, columns = torch.arange(7).repeat_interleave(7), torch.arange(7).repeat(7)
        rotary = rotary_embedding(torch.stack([rows * 0, rows, columns])[:, None], 32, 2.0)
        queries = rotate(attention.q_proj.bias.view(1, 4, 1, 32).expand(1, 4, 49, 32), *rotary)
        keys = rotate(attention.k_proj.bias.view(1, 2, 1, 32).expand(1, 2, 49, 32), *rotary)
        for head in (0, 1):
            scores = (queries[0, head, 24] @ keys[0, 0].T / 32**0.5).view(7, 7)
            assert scores.max().item() == pytest.approx(8.0, rel=1e-3)
            row, column = divmod(int(scores.argmax()), 7)
            assert max(abs(row - 3), abs(column - 3)) <= 1
            offsets.add((row - 3, column - 3))
        assert not attention.q_proj.bias[64:].any()
        assert not attention.k_proj.bias[32:].any()
    assert len(offsets) > 5


def test_recent_text_heads_see_the_question_and_not_the_picture(config: StudentConfig) -> None:
    """The last of 9 tokens behind an 8 x 8 picture gives them 0.80 to 0.94 of its attention; 0.12 if it were even."""
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4, "rope_theta": 10.0}
    config = config.model_copy(update=sizes)
    rotary = rotary_embedding(sequence_positions([1, (8, 8), 10])[:, None], 32, 10.0)
    for seed in range(5):
        attention = Attention(config)
        for projection in (attention.q_proj, attention.k_proj):
            torch.nn.init.zeros_(projection.bias)
        recent_text_heads(attention, 10.0, 1, 2, torch.Generator().manual_seed(seed))
        queries = rotate(attention.q_proj.bias.view(1, 4, 1, 32).expand(1, 4, 75, 32), *rotary)
        keys = rotate(attention.k_proj.bias.view(1, 4, 1, 32).expand(1, 4, 75, 32), *rotary)
        weights = (queries[0, :, -1:] @ keys[0].transpose(1, 2) / 32**0.5).softmax(-1)[:, 0]
        assert (weights[1:3, -9:].sum(1) > 0.75).all()
        assert weights[1:3].max().item() < 0.5
        assert weights[0].max().item() == pytest.approx(1 / 75)
        assert not attention.k_proj.bias[:32].any()
        assert not attention.k_proj.bias[96:].any()


@pytest.fixture
def prompted(config: StudentConfig) -> PixelSail:
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 10.0}
    heads = InitialHeads(recent_text=1, prompted_patches=1)
    grid = {"max_side_px": 9 * config.patch_size_px, "vocab_size": 64}
    config = config.model_copy(update={**sizes, **grid, "initial_heads": heads})
    return PixelSail(config).init_weights(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("first_prompt", [0, 7])
def test_prompted_patch_heads_tell_one_prompt_from_another(prompted: PixelSail, first_prompt: int) -> None:
    """Two prompts of 3 x 3 patches somewhere on 9 x 9 patches of noise as strong as they are: even attention would
    give each a tenth."""
    layer, embeddings = next(iter(decoder_layers(prompted))), prompted.embed_tokens.weight.detach()
    rotary = rotary_embedding(sequence_positions([(9, 9), 6])[:, None], 32, 10.0)
    own: list[torch.Tensor] = []
    other: list[torch.Tensor] = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        blocks = torch.zeros(9, dtype=torch.long)
        blocks[torch.randperm(9, generator=generator)[:2]] = torch.tensor([1, 2])
        prompt = blocks.view(3, 3).repeat_interleave(3, 0).repeat_interleave(3, 1).flatten()
        injected = prompted.vp_embed(embeddings[first_prompt + prompt - 1]).detach() * (prompt > 0)[:, None]
        picture = torch.randn(81, 128, generator=generator) + injected
        question = embeddings[[20, 21, 22, 23, 24, first_prompt]]
        hidden = layer.input_layernorm(torch.cat([picture, question]))[None]
        with torch.no_grad():
            queries = rotate(layer.self_attn.q_proj(hidden).unflatten(-1, (4, 32)).transpose(1, 2), *rotary)
            keys = rotate(layer.self_attn.k_proj(hidden).unflatten(-1, (2, 32)).transpose(1, 2), *rotary)
        weights = (queries[0, 2:, -1] @ keys[0, 1].T / 32**0.5).softmax(-1)[:, :81]
        own.append(weights[:, prompt == 1].sum(1))
        other.append(weights[:, prompt == 2].sum(1))
    assert torch.stack(own).mean().item() > 0.5
    assert torch.stack(other).mean().item() < 0.1


def test_heads_are_drawn_by_recipe(config: StudentConfig) -> None:
    drawn = PixelSail(config.model_copy(update={"initial_heads": InitialHeads(neighbours=1)})).init_weights(
        torch.Generator().manual_seed(0)
    )
    biases = [layer.self_attn.k_proj.bias for layer in decoder_layers(drawn)]
    assert all(bias.any() for bias in biases)
    assert not biases[0].equal(biases[1])
