"""Reading bases and starting students: what stays, what is drawn, and each thing that is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor

from model.bases import read_base
from model.starting import fresh_parts, fresh_tokens, start_student
from model.weight_files import RELEASED_FILES, read_weights
from storage.errors import SourceError, UnknownKind, UnsafePickle, UsageError
from storage.objects import Objects

NUM_KNOWN, NUM_ROWS, HIDDEN, INNER, KEYS = 40, 60, 16, 24, 8
CONFIG: dict[str, object] = {
    "model_type": "qwen2",
    "vocab_size": NUM_ROWS,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}


def qwen2_weights(num_layers: int = 2) -> dict[str, Tensor]:
    """Random weights by the names of transformers; the table's spare rows are alike, as in Qwen2.5."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 0.05 * torch.randn(shape, generator=generator)

    weights = {name: draw(NUM_ROWS, HIDDEN) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    weights["model.embed_tokens.weight"][NUM_KNOWN:] = 1e-8
    weights["model.norm.weight"] = draw(HIDDEN)
    for layer in range(num_layers):
        at = f"model.layers.{layer}"
        for name, rows in (("q", HIDDEN), ("k", KEYS), ("v", KEYS)):
            weights[f"{at}.self_attn.{name}_proj.weight"] = draw(rows, HIDDEN)
            weights[f"{at}.self_attn.{name}_proj.bias"] = draw(rows)
        weights[f"{at}.self_attn.o_proj.weight"] = draw(HIDDEN, HIDDEN)
        weights[f"{at}.mlp.gate_proj.weight"] = draw(INNER, HIDDEN)
        weights[f"{at}.mlp.up_proj.weight"] = draw(INNER, HIDDEN)
        weights[f"{at}.mlp.down_proj.weight"] = draw(HIDDEN, INNER)
        weights[f"{at}.input_layernorm.weight"] = draw(HIDDEN)
        weights[f"{at}.post_attention_layernorm.weight"] = draw(HIDDEN)
    return weights


def tokenizer_json(num_tokens: int = NUM_KNOWN) -> str:
    return Tokenizer(models.WordLevel({f"w{i}": i for i in range(num_tokens)}, unk_token="w0")).to_str()


def write(folder: Path, config: dict[str, object] | None = None, **changed: Tensor | None) -> Path:
    """A base; `changed` weights replace its own by name, None takes one out."""
    weights = {**qwen2_weights(), **changed}
    save_file({name: value for name, value in weights.items() if value is not None}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (folder / "tokenizer.json").write_text(tokenizer_json())
    return folder


def test_what_the_base_has_stays_and_what_is_new_is_drawn(tmp_path: Path) -> None:
    theirs = qwen2_weights()
    base = read_base(write(tmp_path))
    model, tokenizer = start_student(base, {"mask_stride_px": 8, "mask_dim": 4, "num_visual_prompts": 3})
    config = model.config
    assert (config.vocab_size, config.num_layers, config.mask_stride_px, config.mask_dim) == (NUM_ROWS, 2, 8, 4)
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    assert model.layers[1].up_proj.weight.equal(theirs["model.layers.1.mlp.up_proj.weight"])
    # 3 tokens of any student, 9 of the released model, 3 prompts and <NO_Prompt>; 4 spare rows are left.
    tokens = fresh_tokens(base, tokenizer)
    assert (tokens[0], tokens[-1], len(tokens)) == ("<|endoftext|>", "<NO_Prompt>", 16)
    for table, name in ((model.embed_tokens, "model.embed_tokens.weight"), (model.lm_head, "lm_head.weight")):
        assert table.weight[:NUM_KNOWN].equal(theirs[name][:NUM_KNOWN])
        drawn = table.weight.detach()[NUM_KNOWN : NUM_KNOWN + len(tokens)]
        assert float(drawn.std()) == pytest.approx(0.05, rel=0.15)
        assert len(drawn.unique(dim=0)) == len(tokens)
        assert table.weight[NUM_KNOWN + len(tokens) :].equal(theirs[name][NUM_KNOWN + len(tokens) :])
    assert fresh_parts(base, model) == ["vis_embed", "vp_embed", "mask_features", "seg_query", "distillation_heads"]
    assert base.dropped == ()


def test_the_seed_decides(tmp_path: Path) -> None:
    base = read_base(write(tmp_path))
    first, again, other = (start_student(base, {"mask_dim": 4}, seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(first[name].equal(again[name]) for name in first)
    differing = {name.split(".")[0] for name in first if not first[name].equal(other[name])}
    assert differing == {"embed_tokens", "lm_head", *fresh_parts(base, start_student(base, {"mask_dim": 4})[0])}


def test_the_table_grows_where_its_rows_do_not_suffice(tmp_path: Path) -> None:
    base = read_base(write(tmp_path))
    model, tokenizer = start_student(base, {"mask_dim": 4, "num_visual_prompts": 15})
    assert model.config.vocab_size == len(model.embed_tokens.weight) == NUM_KNOWN + 3 + 9 + 16
    assert tokenizer.visual_prompts[-1] == model.config.vocab_size - 2
    assert len(model.embed_tokens.weight[NUM_KNOWN:].unique(dim=0)) == 28


@torch.no_grad()
def test_prompts_come_out_as_large_as_patches(tmp_path: Path) -> None:
    """Whatever the scale of the base's patch embedding is."""
    white = torch.randn(512, 3 * 8 * 8, generator=torch.Generator().manual_seed(4))
    for scale in (1e-3, 1.0):
        patches = scale * torch.randn(HIDDEN, 3 * 8 * 8, generator=torch.Generator().manual_seed(2))
        base = read_base(write(tmp_path, **{"model.vis_embed.weight": patches}))
        model, tokenizer = start_student(base, {"mask_dim": 4, "mask_stride_px": 4})
        assert model.vis_embed.weight.equal(patches)
        assert model.config.patch_size_px == 8
        prompts = model.vp_embed(model.embed_tokens(torch.tensor(tokenizer.visual_prompts)))
        assert float(prompts.std()) == pytest.approx(float(model.vis_embed(white).std()), rel=0.2)


def test_patches_begin_with_weights_of_their_own_that_equal_the_text_s(tmp_path: Path) -> None:
    model, _ = start_student(read_base(write(tmp_path)), {"modality_weights": "separate", "mask_dim": 4})
    layer = model.layers[0]
    assert layer.vision.self_attn.k_proj.weight.equal(layer.self_attn.k_proj.weight)
    with torch.no_grad():
        layer.vision.self_attn.k_proj.weight.zero_()
    assert layer.self_attn.k_proj.weight.any()


def test_a_tied_output_may_be_there_and_the_number_type_is_kept(tmp_path: Path) -> None:
    weights = {name: tensor.bfloat16() for name, tensor in qwen2_weights().items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.norm.weight"] = weights["model.norm.weight"].half()  # both fit into float32 alone
    base = read_base(write(tmp_path, {**CONFIG, "tie_word_embeddings": True}, **weights))
    assert {tensor.dtype for tensor in base.weights.values()} == {torch.float32}
    weights["model.norm.weight"] = weights["model.norm.weight"].bfloat16()
    base = read_base(write(tmp_path, {**CONFIG, "tie_word_embeddings": True}, **weights))
    model, _ = start_student(base, {"mask_dim": 4})
    assert model.lm_head is None
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("changes", "theta"),
    [
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5),
        ({"rope_scaling": {"rope_theta": 3e5, "type": "default"}}, 3e5),
        ({"rope_theta": 1e6, "rope_scaling": None}, 1e6),
    ],
)
def test_where_the_rotary_base_stands(tmp_path: Path, changes: dict[str, object], theta: float) -> None:
    config = {name: value for name, value in CONFIG.items() if name != "rope_theta"} | changes
    assert read_base(write(tmp_path, config)).config_fields["rope_theta"] == theta


@pytest.mark.parametrize("sharded", [False, True])
def test_pytorch_files_and_stores(tmp_path: Path, sharded: bool) -> None:
    expected = read_base(write(tmp_path)).weights
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(weights)
    parts = [names[:9], names[9:]] if sharded else [names]
    for number, part in enumerate(parts):
        name = f"pytorch_model-{number}.bin" if sharded else "pytorch_model.bin"
        torch.save({key: weights[key] for key in part}, tmp_path / name)
    memory = Objects.open(f"memory://bases-{sharded}")
    for path in tmp_path.iterdir():
        memory.put(path.name, path.read_bytes())
    for base in (read_base(tmp_path), read_base(Objects.open(tmp_path)), read_base(memory)):
        assert base.weights.keys() == expected.keys()
        assert all(base.weights[name].equal(expected[name]) for name in expected)
        assert base.tokenizer_json == tokenizer_json()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling: expected no scaling .* got 'yarn'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters: expected no scaling .* got 'llama3'"),
        ({"rope_parameters": 3}, "rope_parameters: expected a JSON object, got 3"),
        ({"hidden_act": "gelu"}, "hidden_act: expected .*SiLU.* got 'gelu'; take another base"),
        ({"use_sliding_window": True}, "use_sliding_window: expected a decoder of full attention"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types: expected a decoder of full"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: expected .* unquantised"),
        ({"rms_norm_eps": None}, "rms_norm_eps: expected a number above 0, got None; add it"),
        ({"hidden_size": "16"}, "hidden_size: expected a number above 0, got '16'"),
        ({"rope_theta": None}, "rope_theta: expected a number above 0, got None"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings: expected lm_head.weight to equal"),
    ],
)
def test_configurations_that_the_student_lacks(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_base(write(tmp_path, {**CONFIG, **changes}))


def test_other_architectures(tmp_path: Path) -> None:
    with pytest.raises(UnknownKind, match=r"unknown model_type in .*config\.json 'llama'; known: eve-qwen2, mistral"):
        read_base(write(tmp_path, {**CONFIG, "model_type": "llama"}))


def test_a_window_of_mistral_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_base(write(tmp_path, {**CONFIG, "model_type": "mistral", "sliding_window": 4096}))
    assert "sliding_window 4096: the student attends to everything; equal up to that many tokens" in caplog.text


def test_weights_without_a_place(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"layers\.0\.self_attn\.q_norm\.weight \(4,\): .* has no place in the student"
    ):
        read_base(write(tmp_path, **{"model.layers.0.self_attn.q_norm.weight": torch.ones(4)}))
    both = {f"model.{name}.weight": torch.ones(HIDDEN, 12) for name in ("vis_embed", "embed_vision_patch")}
    with pytest.raises(SourceError, match=r"the place of another weight \(vis_embed\.weight\)"):
        read_base(write(tmp_path, **both))
    with pytest.raises(SourceError, match=r"expected model\.embed_tokens\.weight, found none"):
        read_base(write(tmp_path, **{"model.embed_tokens.weight": None}))
    with pytest.raises(
        ValueError, match=r"vis_embed\.weight: expected a width of 3 \* p \* p for patches of p px, got 13"
    ):
        read_base(write(tmp_path, **{"model.vis_embed.weight": torch.ones(HIDDEN, 13)}))


def test_known_leftovers_are_dropped_and_named(tmp_path: Path) -> None:
    leftovers = ["model.layers.0.mlp.moe_up_gate", "model.layers.1.self_attn.rotary_emb.inv_freq"]
    assert read_base(write(tmp_path, **{name: torch.ones(1) for name in leftovers})).dropped == tuple(leftovers)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            "model.layers.1.mlp.up_proj.weight",
            None,
            r"model\.layers\.1\.mlp\.up_proj\.weight: expected \(24, 16\), got none",
        ),
        ("model.norm.weight", torch.ones(3), r"model\.norm\.weight: expected \(16,\), got \(3,\)"),
        ("lm_head.weight", torch.ones(9, HIDDEN), r"lm_head\.weight: expected \(60, 16\), got \(9, 16\)"),
        ("lm_head.weight", None, r"lm_head\.weight: expected \(60, 16\), got none"),
        (
            "model.layers.2.mlp.up_proj.weight",
            torch.ones(2),
            r"layers\.2\.mlp\.up_proj\.weight: expected no such weight",
        ),
        ("model.layers.0.self_attn.o_proj.bias", torch.ones(16), r"o_proj\.bias: expected no such weight, got \(16,\)"),
        ("model.layers.0.moe_mlp.up_proj.weight", torch.ones(2), r"moe_mlp\.up_proj\.weight: expected no such weight"),
        ("model.vision_tower.patch_embedding.2.bias", torch.ones(16), r"vision_tower\.patch_embedding\.2\.bias"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, name: str, tensor: Tensor | None, message: str) -> None:
    base = read_base(write(tmp_path, **{name: tensor}))
    with pytest.raises(SourceError, match=f"don't fit config.json: .*{message}.*download it again"):
        start_student(base, {"mask_dim": 4})


def test_biases_are_mistral_s_to_lack(tmp_path: Path) -> None:
    base = read_base(write(tmp_path, {**CONFIG, "model_type": "mistral"}))
    with pytest.raises(SourceError, match=r"k_proj\.bias: expected no such weight.* and 1 more"):
        start_student(base, {"mask_dim": 4})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 32}, "hidden_size: expected 16 as .* has it, got 32; leave it out"),
        ({"rope_theta": 1e6}, "rope_theta: expected 10000.0 as .* has it"),
        ({"vocab_size": 8}, "vocab_size: expected 60 as"),
        ({"mask_stride_px": 3}, "settings of the student: .*mask_stride_px: expected patch_size_px 16 divided by"),
        ({"mask_stride": 4}, "settings of the student: mask_stride: Extra inputs"),
        ({"initial_heads": {"recent_text": 1}}, "initial_heads: expected none, a base has its own heads"),
    ],
)
def test_settings_that_contradict(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        start_student(read_base(write(tmp_path)), settings)


def test_settings_that_agree_are_fine(tmp_path: Path) -> None:
    model, _ = start_student(read_base(write(tmp_path)), {"hidden_size": 16, "rms_norm_eps": "1e-6", "mask_dim": 4})
    assert model.config.rms_norm_eps == 1e-6


def test_without_tokenizer(tmp_path: Path) -> None:
    (write(tmp_path) / "tokenizer.json").unlink()
    base = read_base(tmp_path)
    with pytest.raises(SourceError, match=r"expected tokenizer\.json, found none; make it with transformers \(AutoTok"):
        start_student(base, {})


class _Planted:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must not run",)


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(SourceError, match=r"model\.safetensors: it can't be read \(.*\); download it again"):
        read_base(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        SourceError, match=r"expected weights in model\.safetensors, .*found config\.json, tokenizer\.json"
    ):
        read_base(folder)
    torch.save({"w": torch.ones(2), "planted": _Planted()}, folder / "pytorch_model.bin")
    with pytest.raises(
        UnsafePickle, match=r"expected tensors alone, but it asks for print; nothing of it was run.*safetensors"
    ):
        read_base(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"planted": _Planted()}, protocol=2))
    with pytest.raises(SourceError, match=r"pytorch_model\.bin"):
        read_base(folder)
    assert capsys.readouterr().out == ""
    for content, found in (([torch.ones(2)], "got list"), ({"epoch": 3}, "'epoch', got int")):
        torch.save(content, folder / "pytorch_model.bin")
        with pytest.raises(SourceError, match=found):
            read_base(folder)
    torch.save({"model.norm.weight": torch.ones(2, dtype=torch.int8)}, folder / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"model\.norm\.weight: expected float32, .* got torch\.int8; quantised"):
        read_base(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(SourceError, match=r"config\.json: expected JSON, got"):
        read_base(folder)
    (folder / "config.json").unlink()
    with pytest.raises(SourceError, match=r"expected config\.json, found none"):
        read_base(folder)


def test_an_index_and_its_shards(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    folder = Objects.open(tmp_path)
    with pytest.raises(SourceError, match=r"two\.safetensors: expected this shard, found none"):
        read_weights(folder)
    save_file({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "two.safetensors")
    with pytest.raises(SourceError, match=r"two\.safetensors: .* got a a second time"):
        read_weights(folder)
    save_file({"b": torch.ones(3)}, tmp_path / "two.safetensors")
    assert read_weights(folder).keys() == {"a", "b"}
    index.write_text("{}")
    with pytest.raises(SourceError, match="expected `weight_map`, found none"):
        read_weights(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}))
    with pytest.raises(UsageError, match=r"none of them `\.\.`"):
        read_weights(folder)


def test_files_of_mmengine(tmp_path: Path) -> None:
    torch.save({"meta": {"epoch": 1}, "state_dict": {"a": torch.ones(2)}}, tmp_path / "iter_1.pth")
    assert read_weights(Objects.open(tmp_path), RELEASED_FILES)["a"].equal(torch.ones(2))
