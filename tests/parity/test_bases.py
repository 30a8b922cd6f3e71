"""Students fresh from a base against the base itself: transformers' own classes, and EVEv2 by its definition.

Tolerance: 1e-5 absolute on logits (float32, CPU); what the tests see is below 4e-6.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from model.bases import read_base
from model.positions import sequence_positions
from model.processor import normalise_and_patchify
from model.starting import start_student
from model.student import PixelSail, StudentInputs

TOLERANCE = 1e-5
NUM_KNOWN, NUM_ROWS = 90, 140
SIZES = {
    "vocab_size": NUM_ROWS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
SOLO_TOKENS = [
    "<vision>",
    "<vpatch>",
    "<vrow_sep>",
    "<vframe_sep>",
    "</vision>",
    "<loc_1>",
    "<|im_start|>",
    "<|im_end|>",
]


def write_tokenizer(folder: Path, num_tokens: int = NUM_KNOWN, last: list[str] | None = None) -> None:
    words = [f"w{number}" for number in range(num_tokens - len(last or []))] + (last or [])
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    (folder / "tokenizer.json").write_text(tokenizer.to_str())


def randomised(model: PreTrainedModel) -> PreTrainedModel:
    """Weights large enough that every one of them shows in the logits."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2, generator=generator)
    return model.eval()


def qwen2(**changes: object) -> PreTrainedModel:
    return randomised(Qwen2ForCausalLM(Qwen2Config(**{**SIZES, "rope_theta": 1e6, **changes})))


def mistral(**changes: object) -> PreTrainedModel:
    return randomised(MistralForCausalLM(MistralConfig(**{**SIZES, "sliding_window": None, **changes})))


def text_inputs(ids: Tensor, mask: Tensor) -> StudentInputs:
    """Rows of text with padding where the mask is 0."""
    none = torch.zeros(0, dtype=torch.long)
    return StudentInputs(
        input_ids=ids,
        positions=(mask.cumsum(1) - 1).clamp_min(0).expand(3, -1, -1),
        document=mask - 1,
        prefix=torch.full_like(ids, -1),
        branch=torch.zeros_like(ids),
        patches=torch.zeros(0, 1),
        patch_slots=none,
        patch_prompt_ids=none,
        pooled_slots=none,
        pooled_patches=none,
        grids=(),
    )


def padded_rows() -> tuple[Tensor, Tensor]:
    """Three rows of 11, 7 and 2 tokens of the base, padded on the left."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, NUM_KNOWN, (3, 11), generator=generator)
    mask = (torch.arange(11) >= 11 - torch.tensor([[11], [7], [2]])).long()
    return ids, mask


@torch.no_grad()
def compare(base: PreTrainedModel, student: PixelSail) -> float:
    """The largest difference of logits on known rows, at tokens that aren't padding."""
    ids, mask = padded_rows()
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    expected = base(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    inputs = text_inputs(ids, mask)
    actual = student.logits(student(inputs))
    assert float(expected[mask == 1].std()) > 0.5  # the logits say something
    return float((actual - expected)[mask == 1][:, :NUM_KNOWN].abs().max())


BASES: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen2 untied": lambda: qwen2(tie_word_embeddings=False),
    "qwen2 tied": lambda: qwen2(tie_word_embeddings=True),
    "qwen2 one key head": lambda: qwen2(num_key_value_heads=1),
    "mistral": mistral,
    "mistral wide heads": lambda: mistral(head_dim=16, num_key_value_heads=1, rope_theta=5000.0),
    "mistral tied, windowed": lambda: mistral(tie_word_embeddings=True, sliding_window=64),
}


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "sharded"])
@pytest.mark.parametrize("make", BASES.values(), ids=BASES.keys())
def test_text_logits_equal_transformers(make: Callable[[], PreTrainedModel], sharded: bool, tmp_path: Path) -> None:
    base = make()
    base.save_pretrained(tmp_path, max_shard_size="20KB" if sharded else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == sharded
    write_tokenizer(tmp_path)
    student, _ = start_student(read_base(tmp_path), {"mask_dim": 8})
    difference = compare(base, student.eval())
    assert difference <= TOLERANCE, difference


def test_patches_with_copies_of_the_text_weights(tmp_path: Path) -> None:
    """Fresh separate weights change nothing: text as before, pictures as with shared weights."""
    base = qwen2(tie_word_embeddings=True)
    base.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    separate, _ = start_student(read_base(tmp_path), {"modality_weights": "separate", "mask_dim": 8})
    shared, _ = start_student(read_base(tmp_path), {"mask_dim": 8})
    assert compare(base, separate.eval()) <= TOLERANCE
    inputs, _ = picture_inputs(separate, NUM_KNOWN)
    with torch.no_grad():
        assert (separate(inputs) - shared.eval()(inputs)).abs().max().item() <= TOLERANCE


def test_solo_embeds_pictures_by_its_own_matrix(tmp_path: Path) -> None:
    """SOLO: Mistral whose patch embedding is `embed_vision_patch`, with the vision tokens in its vocabulary."""
    base = mistral()
    patch_embedding = torch.randn(SIZES["hidden_size"], 3 * 32 * 32, generator=torch.Generator().manual_seed(1)) / 55
    weights = {name: tensor.contiguous() for name, tensor in base.state_dict().items()}
    weights["model.embed_vision_patch.weight"] = patch_embedding
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**base.config.to_dict(), "vision_patch_size": 32}))
    write_tokenizer(tmp_path, last=SOLO_TOKENS)
    loaded = read_base(tmp_path)
    assert loaded.dropped == ("model.layers.0.self_attn.rotary_emb.inv_freq",)
    student, tokenizer = start_student(loaded, {"mask_dim": 8})
    assert (student.config.patch_size_px, student.config.attention_bias) == (32, False)
    assert student.vis_embed.weight.equal(patch_embedding)
    assert tokenizer.encode("<vision><vpatch></vision>") == [82, 83, 86]
    assert tokenizer.seg == NUM_KNOWN + 2  # behind <|endoftext|> and <|vis_cls|>
    assert compare(base, student.eval()) <= TOLERANCE


EVE_HIDDEN, EVE_LAYERS, EVE_HEADS, EVE_KEY_HEADS, EVE_INNER = 32, 2, 4, 2, 40
CLIP_MEAN, CLIP_STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])


def eve_weights() -> dict[str, Tensor]:
    """Tiny EVEv2 weights by the names of BAAI/EVE-7B-HD-v2.0."""
    hidden, inner = EVE_HIDDEN, EVE_INNER
    key_size = EVE_KEY_HEADS * hidden // EVE_HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (NUM_ROWS, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (NUM_ROWS, hidden),
        "model.vision_tower.patch_embedding.0.weight": (hidden, 3, 16, 16),
        "model.vision_tower.patch_embedding.0.bias": (hidden,),
        "model.vision_tower.patch_embedding.2.weight": (hidden, hidden, 2, 2),
        "model.vision_tower.patch_embedding.2.bias": (hidden,),
        "model.vision_tower.class_embedding": (hidden,),
        "model.vision_tower.split_embedding": (hidden,),
    }
    for layer in range(EVE_LAYERS):
        for prefix in ("", "moe_"):
            at = f"model.layers.{layer}"
            for name, size in (("q", hidden), ("k", key_size), ("v", key_size)):
                shapes[f"{at}.self_attn.{prefix}{name}_proj.weight"] = (size, hidden)
                shapes[f"{at}.self_attn.{prefix}{name}_proj.bias"] = (size,)
            shapes[f"{at}.self_attn.{prefix}o_proj.weight"] = (hidden, hidden)
            shapes[f"{at}.{prefix}mlp.gate_proj.weight"] = (inner, hidden)
            shapes[f"{at}.{prefix}mlp.up_proj.weight"] = (inner, hidden)
            shapes[f"{at}.{prefix}mlp.down_proj.weight"] = (hidden, inner)
            shapes[f"{at}.{prefix}input_layernorm.weight"] = (hidden,)
            shapes[f"{at}.{prefix}post_attention_layernorm.weight"] = (hidden,)
    generator = torch.Generator().manual_seed(9)
    return {
        name: torch.randn(shape, generator=generator) * (0.02 if "0.weight" in name else 0.2) + float("norm" in name)
        for name, shape in shapes.items()
    }


EVE_CONFIG = {
    "model_type": "eve-qwen2",
    "vocab_size": NUM_ROWS,
    "hidden_size": EVE_HIDDEN,
    "intermediate_size": EVE_INNER,
    "num_hidden_layers": EVE_LAYERS,
    "num_attention_heads": EVE_HEADS,
    "num_key_value_heads": EVE_KEY_HEADS,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "sliding_window": 131072,
    "add_moe": True,
    "moe_part": "layernorm-self_attn-mlp",
}


def eve_hidden(
    weights: Mapping[str, Tensor], embedded: Tensor, visual: Tensor, positions: Tensor, mask: Tensor
) -> Tensor:
    """EVEv2 of one row as its authors define it: both modalities' weights on every token, one of them kept.

    Args:
        weights: by their names.
        embedded: (tokens, hidden).
        visual: (tokens), 1.0 for patches.
        positions: (3, tokens); rotary channels are shared out as in the student.
        mask: (tokens, tokens), True where attention is allowed.
    """

    def norm(values: Tensor, name: str) -> Tensor:
        return weights[name] * values / (values.pow(2).mean(-1, keepdim=True) + EVE_CONFIG["rms_norm_eps"]).sqrt()

    def linear(values: Tensor, name: str) -> Tensor:
        return functional.linear(values, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def both(function: Callable[[Tensor, str], Tensor], values: Tensor, name: str) -> Tensor:
        at, _, last = name.rpartition("|")
        chosen = visual[:, None]
        return function(values, f"{at}{last}") * (1 - chosen) + function(values, f"{at}moe_{last}") * chosen

    def mlp(values: Tensor, name: str) -> Tensor:
        gate, up = linear(values, f"{name}.gate_proj"), linear(values, f"{name}.up_proj")
        return linear(functional.silu(gate) * up, f"{name}.down_proj")

    dim = EVE_HIDDEN // EVE_HEADS
    hidden, quarter = embedded, dim // 4
    frequency = [EVE_CONFIG["rope_theta"] ** (-2 * pair / dim) for pair in range(dim // 2)]
    axes = [1 if pair < quarter else 2 for pair in range(dim // 2)]
    angles = torch.stack([positions[axis] * value for axis, value in zip(axes, frequency, strict=True)], dim=1)

    def rotated(heads: Tensor) -> Tensor:
        first, second = heads[..., : dim // 2], heads[..., dim // 2 :]
        cosine, sine = angles.cos()[:, None], angles.sin()[:, None]
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)

    for layer in range(EVE_LAYERS):
        at = f"model.layers.{layer}"
        normed = both(norm, hidden, f"{at}.|input_layernorm.weight")
        query, key, value = (both(linear, normed, f"{at}.self_attn.|{name}_proj") for name in "qkv")
        query, key = rotated(query.unflatten(1, (-1, dim))), rotated(key.unflatten(1, (-1, dim)))
        value = value.unflatten(1, (-1, dim))
        attended = []
        for head in range(EVE_HEADS):
            group = head // (EVE_HEADS // EVE_KEY_HEADS)
            scores = query[:, head] @ key[:, group].T / math.sqrt(dim)
            attended.append(scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value[:, group])
        hidden = hidden + both(linear, torch.cat(attended, dim=1), f"{at}.self_attn.|o_proj")
        normed = both(norm, hidden, f"{at}.|post_attention_layernorm.weight")
        hidden = hidden + both(mlp, normed, f"{at}.|mlp")
    return norm(hidden, "model.norm.weight")


@pytest.fixture
def eve(tmp_path: Path) -> tuple[dict[str, Tensor], PixelSail]:
    weights = eve_weights()
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(EVE_CONFIG))
    write_tokenizer(tmp_path)
    base = read_base(tmp_path)
    assert base.dropped == ("model.vision_tower.class_embedding", "model.vision_tower.split_embedding")
    student, _ = start_student(base, {"mask_dim": 8})
    return weights, student.eval()


def picture_inputs(student: PixelSail, first_special: int) -> tuple[StudentInputs, np.ndarray]:
    """One word, a picture of 2 x 3 patches between two special tokens, two words."""
    size = student.config.patch_size_px
    image = np.random.default_rng(2).integers(0, 256, (2 * size, 3 * size, 3), dtype=np.uint8)
    before, patch, behind = first_special, first_special + 1, first_special + 2
    ids = torch.tensor([[7, before, *[patch] * 6, behind, 11, 12]])
    prefix = torch.full_like(ids, -1)
    prefix[:, 1:9] = 0
    none = torch.zeros(0, dtype=torch.long)
    inputs = StudentInputs(
        input_ids=ids,
        positions=sequence_positions([2, (2, 3), 3])[:, None],
        document=torch.zeros_like(ids),
        prefix=prefix,
        branch=torch.zeros_like(ids),
        patches=normalise_and_patchify(image, image.shape[:2], size),
        patch_slots=torch.arange(2, 8),
        patch_prompt_ids=torch.full((6,), -1),
        pooled_slots=none,
        pooled_patches=none,
        grids=((2, 3),),
    )
    return inputs, image


@torch.no_grad()
def test_eve_text(eve: tuple[dict[str, Tensor], PixelSail]) -> None:
    weights, student = eve
    ids, mask = padded_rows()
    logits = student.logits(student(text_inputs(ids, mask)))
    for row, length in enumerate(mask.sum(1).tolist()):
        tokens = ids[row, -length:]
        hidden = eve_hidden(
            weights,
            weights["model.embed_tokens.weight"][tokens],
            torch.zeros(length),
            torch.arange(length).expand(3, -1),
            torch.ones(length, length).tril().bool(),
        )
        expected = hidden @ weights["lm_head.weight"].T
        assert float(expected.std()) > 0.5
        assert (logits[row, -length:] - expected)[:, :NUM_KNOWN].abs().max().item() <= TOLERANCE


@torch.no_grad()
def test_eve_picture(eve: tuple[dict[str, Tensor], PixelSail]) -> None:
    """The whole picture through their convolutions, normalised their way, then both modalities' weights."""
    weights, student = eve
    inputs, image = picture_inputs(student, NUM_KNOWN)
    pixels = torch.from_numpy((image / 255 - CLIP_MEAN) / CLIP_STD).float().permute(2, 0, 1)[None]
    tower = "model.vision_tower.patch_embedding"
    halves = functional.conv2d(pixels, weights[f"{tower}.0.weight"], weights[f"{tower}.0.bias"], stride=16)
    cells = functional.conv2d(
        functional.gelu(halves), weights[f"{tower}.2.weight"], weights[f"{tower}.2.bias"], stride=2
    )
    patches = cells[0].flatten(1).T
    assert float(patches.std()) > 0.5
    assert (student.vis_embed(inputs.patches) - patches).abs().max().item() <= TOLERANCE
    embedded = student.embed_tokens.weight[inputs.input_ids[0]].index_add(0, inputs.patch_slots, patches)
    visual = torch.zeros(11).index_fill(0, inputs.patch_slots, 1.0)
    within = (inputs.prefix[0] == 0).float()
    mask = torch.ones(11, 11).tril().bool() | (within[:, None] * within).bool()
    expected = eve_hidden(weights, embedded, visual, inputs.positions[:, 0], mask)
    assert (student(inputs)[0] - expected).abs().max().item() <= TOLERANCE


def test_eve_weights_land_where_their_names_say(eve: tuple[dict[str, Tensor], PixelSail]) -> None:
    weights, student = eve
    layer = student.layers[1]
    assert layer.self_attn.q_proj.bias.equal(weights["model.layers.1.self_attn.q_proj.bias"])
    assert layer.vision.self_attn.q_proj.bias.equal(weights["model.layers.1.self_attn.moe_q_proj.bias"])
    assert layer.vision.self_attn.o_proj.weight.equal(weights["model.layers.1.self_attn.moe_o_proj.weight"])
    assert layer.vision.down_proj.weight.equal(weights["model.layers.1.moe_mlp.down_proj.weight"])
    norm = weights["model.layers.1.moe_post_attention_layernorm.weight"]
    assert layer.vision.post_attention_layernorm.weight.equal(norm)
    assert student.vis_embed.join.weight.equal(weights["model.vision_tower.patch_embedding.2.weight"])
    ratio = student.vis_embed.quarters.weight / weights["model.vision_tower.patch_embedding.0.weight"]
    assert torch.allclose(ratio.mean((0, 2, 3)), torch.tensor([0.8525, 0.8572, 0.8159]), atol=1e-4)
