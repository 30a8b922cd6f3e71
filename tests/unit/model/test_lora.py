"""Low-rank adapters: what trains, what stays, and a student like any other behind them."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor

from model.checkpoint import checkpoint_files, load_checkpoint
from model.huggingface import PixelSailForConditionalGeneration
from model.lora import LoraConfig, add_lora, merge_lora
from model.packing import collate
from model.processor import EncodedRow
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from storage.errors import UsageError
from storage.objects import Objects

CONFIG = LoraConfig(rank=3, alpha=6)


def hidden(student: PixelSail, rows: list[EncodedRow]) -> Tensor:
    with torch.no_grad():
        return student(collate(rows, 0)[0])


def trained(student: PixelSail, rows: list[EncodedRow]) -> PixelSail:
    """A few steps of everything that trains."""
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.3)
    for _ in range(3):
        optimizer.zero_grad()
        student(collate(rows, 0)[0])[..., 0].sigmoid().mean().backward()
        optimizer.step()
    return student


def test_adapters_begin_at_zero_and_follow_from_the_seed(student: PixelSail, questions: list[EncodedRow]) -> None:
    before = hidden(student, questions)
    first, again, other = (add_lora(copy.deepcopy(student), CONFIG, seed) for seed in (1, 1, 2))
    assert hidden(first, questions).equal(before)
    weights = [
        dict(one.named_parameters())["layers.0.self_attn.q_proj.lora_A.default.weight"] for one in (first, again, other)
    ]
    assert weights[0].shape == (3, 32)
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


def test_the_decoder_is_frozen_and_what_is_new_trains(student: PixelSail) -> None:
    add_lora(student, CONFIG, 0)
    training = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    frozen = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"layers", "norm"}
    assert not any("lora" in name for name in frozen)
    assert {name.split(".")[0] for name in training if "lora" not in name} == {
        "embed_tokens",
        "vis_embed",
        "vp_embed",
        "mask_features",
        "seg_query",
        "distillation_heads",
    }
    assert len([name for name in training if "lora_A" in name]) == 7 * len(student.layers)


def test_embeddings_can_stay(student: PixelSail) -> None:
    add_lora(student, CONFIG.model_copy(update={"train_embeddings": False}), 0)
    assert not student.embed_tokens.weight.requires_grad


def test_only_the_projections_asked_for(student: PixelSail) -> None:
    add_lora(student, LoraConfig(rank=2, projections=("v_proj",)), 0)
    adapted = {name.split(".lora_")[0] for name, _ in student.named_parameters() if ".lora_" in name}
    assert adapted == {f"layers.{layer}.self_attn.v_proj" for layer in range(len(student.layers))}


def test_merged_it_computes_the_same_and_is_a_student_like_any_other(
    student: PixelSail, tokenizer: StudentTokenizer, questions: list[EncodedRow]
) -> None:
    names, before = list(student.state_dict()), hidden(student, questions)
    frozen = student.layers[0].post_attention_layernorm.weight.clone()
    trained(add_lora(student, CONFIG, 0), questions)
    student.double()  # in float32 merging rounds as much as the tolerance allows, more or less by the processor
    adapted = hidden(student, questions)
    merge_lora(student)
    assert list(student.state_dict()) == names
    assert all(parameter.requires_grad for parameter in student.parameters())
    torch.testing.assert_close(hidden(student, questions), adapted, rtol=0, atol=1e-5)
    student.float()
    assert (adapted - before).abs().max() > 1e-2
    assert student.layers[0].post_attention_layernorm.weight.equal(frozen)
    objects = Objects.open("memory://lora")
    for name, data in checkpoint_files(student, tokenizer).items():
        objects.put(name, data)
    assert hidden(load_checkpoint(objects)[0], questions).equal(hidden(student, questions))


def test_without_peft_the_remedy_is_named(student: PixelSail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"expected peft.*pip install 'sailloft\[lora\]'"):
        add_lora(student, CONFIG, 0)


def test_peft_itself_takes_the_model(student: PixelSail, tokenizer: StudentTokenizer, tmp_path: Path) -> None:
    """As with any model of transformers: wrap, train, save the adapter, load it onto a fresh one, merge."""
    model = PixelSailForConditionalGeneration.of(copy.deepcopy(student), tokenizer)
    before = model(torch.tensor([[5, 6, 7, 8]])).logits.detach()
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    ids, labels = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[-100, 6, 7, 8]])
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        wrapped.train()(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    wrapped.eval().save_pretrained(tmp_path)
    plain = PixelSailForConditionalGeneration.of(copy.deepcopy(student), tokenizer).eval()
    loaded = peft.PeftModel.from_pretrained(plain, tmp_path).merge_and_unload()
    with torch.no_grad():
        after = loaded(ids).logits
        torch.testing.assert_close(after, wrapped(input_ids=ids).logits, rtol=0, atol=1e-5)
    assert (after - before).abs().max() > 1e-3
