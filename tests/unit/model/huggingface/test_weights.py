"""Weights: folders of ours and of transformers, both ways; what doesn't fit and what is missing."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from model.checkpoint import checkpoint_files, load_checkpoint
from model.config import InitialHeads, StudentConfig
from model.huggingface import PixelSailConfig, PixelSailForConditionalGeneration
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from storage.errors import DataError, ObjectNotFound
from storage.objects import Objects

Write = Callable[[PixelSail], Path]
VARIANTS: dict[str, dict[str, Any]] = {
    "as in the paper": {},
    "untied": {"tie_word_embeddings": False},
    "separate": {"modality_weights": "separate"},
    "convolutions": {"patch_embedding": "convolutions"},
    "no upsampling, no bias, no heads": {"upsampling": "none", "attention_bias": False, "distillation": ()},
    "narrow masks": {"max_mask_channels": 16},
}


@pytest.fixture(params=list(VARIANTS))
def variant(config: StudentConfig, request: pytest.FixtureRequest) -> PixelSail:
    wanted = config.model_copy(update=VARIANTS[request.param])
    return PixelSail(wanted).init_weights(torch.Generator().manual_seed(4)).eval()


def load(folder: Path, **options: Any) -> PixelSailForConditionalGeneration:
    model = AutoModelForImageTextToText.from_pretrained(folder, **options)
    assert type(model) is PixelSailForConditionalGeneration
    return model


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(tensor.equal(second[name]) for name, tensor in first.items())


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def remove(folder: Path, *names: str) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        for name in names:
            del weights[name]

    rewrite(folder, change)


def test_our_folder_is_read_by_transformers(variant: PixelSail, write: Write, logged: list[str]) -> None:
    model = load(write(variant))
    assert equal(model.model.state_dict(), variant.state_dict())
    assert model.config.student == model.model.config == variant.config
    assert not model.training
    assert model.dtype == torch.float32
    assert logged == []


@pytest.mark.parametrize("max_shard_size", ["10GB", "5KB"])
def test_what_transformers_saves_is_read_by_both(
    variant: PixelSail, tokenizer: StudentTokenizer, tmp_path: Path, max_shard_size: str, logged: list[str]
) -> None:
    model = PixelSailForConditionalGeneration.of(variant, tokenizer)
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    shards = list(tmp_path.glob("*.safetensors"))
    assert (len(shards) > 1) == (max_shard_size == "5KB")
    assert equal(load(tmp_path).model.state_dict(), variant.state_dict())
    ours, _ = load_checkpoint(Objects.open(str(tmp_path)))
    assert equal(ours.state_dict(), variant.state_dict())
    assert ours.config == variant.config
    assert logged == []


def test_both_write_the_same_weights(
    variant: PixelSail, tokenizer: StudentTokenizer, write: Write, tmp_path: Path
) -> None:
    ours = write(variant)
    PixelSailForConditionalGeneration.of(variant, tokenizer).save_pretrained(tmp_path / "theirs")
    assert equal(load_file(ours / "model.safetensors"), load_file(tmp_path / "theirs" / "model.safetensors"))


def test_both_write_the_same_configurations(
    model: PixelSailForConditionalGeneration, folder: Path, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "theirs")
    for name in ("config.json", "generation_config.json"):
        theirs = json.loads((tmp_path / "theirs" / name).read_text())
        ours = json.loads((folder / name).read_text())
        assert {**theirs, **ours} == theirs
        assert theirs.keys() - ours.keys() <= {"transformers_version", "bos_token_id"}


def test_a_wrapped_student_is_not_copied(student: PixelSail, tokenizer: StudentTokenizer) -> None:
    model = PixelSailForConditionalGeneration.of(student, tokenizer)
    assert model.model is student
    assert not model.training
    assert not PixelSailForConditionalGeneration.of(student, tokenizer).training
    assert PixelSailForConditionalGeneration.of(student.train(), tokenizer).training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_the_same_student_is_built_from_its_configuration(folder: Path, config: StudentConfig) -> None:
    loaded = AutoConfig.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_config(loaded)
    assert model.config.student == model.model.config == config
    shapes = {name: tensor.shape for name, tensor in PixelSail(config).state_dict().items()}
    assert {name: tensor.shape for name, tensor in model.model.state_dict().items()} == shapes


def test_half_precision(folder: Path, student: PixelSail, inputs_of: Any, questions: Any) -> None:
    model = load(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.dtype == torch.bfloat16
    assert equal(model.model.state_dict(), {n: w.bfloat16() for n, w in student.state_dict().items()})
    found = model(**inputs_of(questions)).logits
    assert found.dtype == torch.bfloat16
    exact = PixelSailForConditionalGeneration.of(student, _tokenizer_of(folder))(**inputs_of(questions)).logits
    real = inputs_of(questions)["attention_mask"].bool()
    error = (found.float() - exact)[real].norm() / exact[real].norm()
    assert error < 0.05  # measured: 0.013; 8 bits of mantissa through two layers


def _tokenizer_of(folder: Path) -> StudentTokenizer:
    return StudentTokenizer.from_json((folder / "tokenizer.json").read_text(), 3)


def test_half_precision_is_saved_and_read_by_both(folder: Path, student: PixelSail, tmp_path: Path) -> None:
    load(folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    (tmp_path / "half" / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    halved = {name: weight.bfloat16() for name, weight in student.state_dict().items()}
    assert equal(load(tmp_path / "half").model.state_dict(), halved)
    ours, tokenizer = load_checkpoint(Objects.open(str(tmp_path / "half")))
    assert equal(ours.state_dict(), halved)
    assert json.loads(checkpoint_files(ours, tokenizer)["config.json"])["dtype"] == "bfloat16"


class Touch:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_pickle_is_not_executed(folder: Path, tmp_path: Path, form: str) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    content = {**weights, "model.norm.bias": Touch(tmp_path / "touched")}
    if form == "pickle":
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        load(folder)
    with pytest.raises(ObjectNotFound, match=r"model\.safetensors: no such object"):
        load_checkpoint(Objects.open(str(folder)))
    assert not (tmp_path / "touched").exists()
    if form == "pickle":
        pickle.loads((folder / "pytorch_model.bin").read_bytes())
    else:
        torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "touched").exists()  # the trap works


def test_safetensors_are_read_beside_a_pickle(folder: Path, student: PixelSail) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert equal(load(folder).model.state_dict(), student.state_dict())


def test_weights_are_saved_as_safetensors_alone(model: PixelSailForConditionalGeneration, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def _wrong_shapes(weights: dict[str, Tensor]) -> None:
    weights["model.layers.1.up_proj.weight"] = torch.zeros(47, 32)
    weights["model.norm.weight"] = torch.zeros(31)


def test_other_shapes_are_named(folder: Path) -> None:
    rewrite(folder, _wrong_shapes)
    names = (
        r"model\.layers\.1\.up_proj\.weight: expected \(48, 32\), got \(47, 32\); "
        r"model\.norm\.weight: expected \(32,\), got \(31,\)"
    )
    with pytest.raises(ValueError, match=names):
        load(folder)
    with pytest.raises(ValueError, match=names):
        PixelSailForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    with pytest.raises(DataError, match=names.replace(r"model\.", "")):
        load_checkpoint(Objects.open(str(folder)))


def test_other_shapes_may_be_drawn_anew_if_asked_for(folder: Path, student: PixelSail, logged: list[str]) -> None:
    rewrite(folder, _wrong_shapes)
    model, info = PixelSailForConditionalGeneration.from_pretrained(
        folder, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {name for name, *_ in info["mismatched_keys"]} == {"model.layers.1.up_proj.weight", "model.norm.weight"}
    assert "model.norm.weight" in logged[0]
    assert model.model.norm.weight.equal(torch.ones(32))
    assert 0.2 < model.model.layers[1].up_proj.weight.std() < 0.4
    assert model.model.layers[0].up_proj.weight.equal(student.layers[0].up_proj.weight)


def test_loading_information_is_handed_on(folder: Path) -> None:
    model, info = PixelSailForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert type(model) is PixelSailForConditionalGeneration
    assert not any(info.values())


def test_weights_in_hand(student: PixelSail, config: StudentConfig, tokenizer: StudentTokenizer) -> None:
    weights = {f"model.{name}": tensor for name, tensor in student.state_dict().items()}
    model = PixelSailForConditionalGeneration.from_pretrained(
        None, config=PixelSailConfig.of(config, tokenizer), state_dict=weights
    )
    assert equal(model.model.state_dict(), student.state_dict())


@pytest.mark.parametrize("change", ["missing", "left over"])
def test_load_checkpoint_wants_all_weights_and_no_others(folder: Path, change: str) -> None:
    def edit(weights: dict[str, Tensor]) -> None:
        if change == "missing":
            del weights["model.norm.weight"]
        else:
            weights["model.more"] = torch.zeros(2)

    rewrite(folder, edit)
    message = r"norm\.weight: expected \(32,\), got none" if change == "missing" else "more: expected no such weight"
    with pytest.raises(DataError, match=message):
        load_checkpoint(Objects.open(str(folder)))


def _without_heads(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if ".distillation_heads." in name]:
        del weights[name]


def test_missing_weights_are_drawn_and_named(folder: Path, student: PixelSail, logged: list[str]) -> None:
    """Released weights have no distillation heads."""
    rewrite(folder, _without_heads)
    torch.manual_seed(0)
    model, info = PixelSailForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    heads = {f"model.distillation_heads.{teacher}.{part}" for teacher in ("mask2former", "sam2") for part in PARTS}
    assert info["missing_keys"] == heads
    assert all(f"distillation_heads.{teacher}" in logged[0].replace("{", "") for teacher in ("mask2former", "sam2"))
    drawn = model.model.state_dict()
    for name, weight in student.state_dict().items():
        if "distillation_heads" not in name:
            assert drawn[name].equal(weight)
        elif name.endswith("bias"):
            assert not drawn[name].any()
    by_fan_in = drawn["distillation_heads.sam2.weight"].std() * 32**0.5
    assert 0.8 < by_fan_in < 1.2
    torch.manual_seed(0)
    assert equal(load(folder).model.state_dict(), drawn)
    torch.manual_seed(1)
    assert not equal(load(folder).model.state_dict(), drawn)


PARTS = ("weight", "bias")


def test_a_missing_bias_leaves_its_weight_alone(folder: Path, student: PixelSail) -> None:
    """As in a language model without them."""

    def without_biases(weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if name.endswith("q_proj.bias") or name == "model.seg_query.0.bias"]:
            del weights[name]

    rewrite(folder, without_biases)
    torch.manual_seed(0)
    model, info = PixelSailForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert len(info["missing_keys"]) == 3
    for name, weight in model.model.state_dict().items():
        if f"model.{name}" in info["missing_keys"]:
            assert not weight.any()
        else:
            assert weight.equal(student.state_dict()[name])


def test_a_missing_weight_leaves_its_bias_alone(folder: Path, student: PixelSail) -> None:
    def without_weight(weights: dict[str, Tensor]) -> None:
        weights["model.seg_query.0.bias"] = torch.arange(32.0)
        del weights["model.seg_query.0.weight"], weights["model.mask_features.blocks.0.norm.weight"]

    rewrite(folder, without_weight)
    loaded = load(folder).model
    assert loaded.seg_query[0].bias.equal(torch.arange(32.0))
    assert loaded.seg_query[2].weight.equal(student.seg_query[2].weight)
    assert loaded.mask_features.blocks[0].norm.weight.equal(torch.ones(32))


def test_a_missing_prompt_embedding_is_orthogonal(folder: Path, config: StudentConfig) -> None:
    remove(folder, "model.vp_embed.weight")
    weight = load(folder).model.vp_embed.weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(32) / config.initializer_range**2, rtol=1e-4, atol=1e-4)


def test_fresh_weights_follow_the_students_rule(config: StudentConfig, tokenizer: StudentTokenizer) -> None:
    """Module by module, those of `PixelSail.init_weights`."""
    wide = config.model_copy(update={"hidden_size": 128, "mask_dim": 64, "modality_weights": "separate"})
    torch.manual_seed(0)
    fresh = PixelSailForConditionalGeneration(PixelSailConfig.of(wide, tokenizer)).model.state_dict()
    expected = PixelSail(wide).init_weights(torch.Generator().manual_seed(0)).state_dict()
    assert fresh.keys() == expected.keys()
    for name, weight in fresh.items():
        assert weight.std().item() == pytest.approx(expected[name].std().item(), rel=0.25), name
        assert weight.mean().item() == pytest.approx(expected[name].mean().item(), abs=0.05), name
    torch.manual_seed(0)
    again = PixelSailForConditionalGeneration(PixelSailConfig.of(wide, tokenizer)).model.state_dict()
    assert equal(fresh, again)


def test_fresh_heads_begin_with_their_task(config: StudentConfig, tokenizer: StudentTokenizer) -> None:
    heads = InitialHeads(neighbours=1, recent_text=1, prompted_patches=1)
    wanted = config.model_copy(update={"num_attention_heads": 4, "num_key_value_heads": 4, "initial_heads": heads})
    torch.manual_seed(0)
    fresh = PixelSailForConditionalGeneration(PixelSailConfig.of(wanted, tokenizer)).model
    expected = PixelSail(wanted).init_weights(torch.Generator().manual_seed(0))
    for name, weight in fresh.state_dict().items():
        if "q_proj" in name or "k_proj" in name:
            for head in range(4):
                part = slice(head * 8, head * 8 + 8)
                norm = expected.state_dict()[name][part].norm().item()
                assert weight[part].norm().item() == pytest.approx(norm, rel=0.3), (name, head)


def test_loaded_heads_are_left_alone(config: StudentConfig, tokenizer: StudentTokenizer, write: Write) -> None:
    heads = InitialHeads(neighbours=1)
    wanted = config.model_copy(update={"initial_heads": heads})
    student = PixelSail(wanted).init_weights(torch.Generator().manual_seed(0))
    folder = write(student)
    remove(folder, "model.layers.0.self_attn.o_proj.weight")
    loaded = load(folder).model.state_dict()
    for name, weight in student.state_dict().items():
        assert loaded[name].equal(weight) == (name != "layers.0.self_attn.o_proj.weight")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("num_tokens", [320, 290])
def test_resized_embeddings(
    config: StudentConfig, tokenizer: StudentTokenizer, tmp_path: Path, *, tied: bool, num_tokens: int
) -> None:
    wanted = config.model_copy(update={"tie_word_embeddings": tied})
    student = PixelSail(wanted).init_weights(torch.Generator().manual_seed(4)).eval()
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    model = PixelSailForConditionalGeneration.of(student, tokenizer)
    torch.manual_seed(0)
    resized = model.resize_token_embeddings(num_tokens, mean_resizing=False)
    assert model.get_input_embeddings() is resized is student.embed_tokens
    assert model.config.vocab_size == model.config.student.vocab_size == student.config.vocab_size == num_tokens
    assert len(student.output_embedding) == num_tokens
    names = ["embed_tokens.weight"] if tied else ["embed_tokens.weight", "lm_head.weight"]
    kept = min(num_tokens, len(before["embed_tokens.weight"]))
    for name in names:
        after = student.state_dict()[name]
        assert after[:kept].equal(before[name][:kept])
        if num_tokens > kept:
            assert 0.25 < after[kept:].std() < 0.35  # initializer_range 0.3
    assert (model.get_output_embeddings() is None) == tied
    assert model(input_ids=torch.tensor([[5, 6]])).logits.shape == (1, 2, num_tokens)
    model.save_pretrained(tmp_path)
    assert equal(load(tmp_path).model.state_dict(), student.state_dict())
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    ours, _ = load_checkpoint(Objects.open(str(tmp_path)))
    assert equal(ours.state_dict(), student.state_dict())
    written = checkpoint_files(student, tokenizer)
    assert json.loads(written["config.json"])["vocab_size"] == num_tokens


def test_resized_to_a_multiple(model: PixelSailForConditionalGeneration) -> None:
    model.resize_token_embeddings(pad_to_multiple_of=64)
    assert model.model.config.vocab_size == 320


def test_moving_and_casting(model: PixelSailForConditionalGeneration) -> None:
    assert model.to(torch.float64).dtype == torch.float64
    assert model.device.type == "cpu"
    assert model.num_parameters() == sum(weight.numel() for weight in model.model.parameters())
