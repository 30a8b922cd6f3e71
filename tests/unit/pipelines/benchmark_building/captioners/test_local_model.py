"""A tiny vision-language model of transformers, made here: the loading code is real, its words are noise."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.benchmark_building.captioners.base import DraftError
from pipelines.benchmark_building.captioners.local_model import LocalModelCaptioner, LocalModelCaptionerConfig
from pipelines.benchmark_building.records import BenchmarkTask
from storage.errors import UsageError

_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA in miniature, with random weights: a CLIP tower, a Llama and a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel()
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<eos>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["describe the region"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")
    size = {"height": 28, "width": 28}
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=size)
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="full",
        chat_template=_TEMPLATE,
        num_additional_image_tokens=0,
    )
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=2, vision_feature_select_strategy="default"
    )
    folder = tmp_path_factory.mktemp("vlm")
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.vision_feature_select_strategy = "default"
    processor.num_additional_image_tokens = 1
    processor.save_pretrained(folder)
    return folder


def test_a_model_is_loaded_and_asked(tiny_model: Path, ask_for, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LocalModelCaptionerConfig(checkpoint=str(tiny_model), max_new_tokens=4, side_px=64)
    asked = LocalModelCaptioner(config)
    request = ask_for(BenchmarkTask.DETAILED_CAPTION, "dog")
    # Random weights write no JSON: that is a draft that failed, not an end.
    with pytest.raises(DraftError, match="expected one JSON object with caption, got"):
        asked.draft(request)
    assert config.description().startswith(f"{tiny_model.name} with transformers ")


def test_what_the_model_says_is_read(tiny_model: Path, ask_for, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = LocalModelCaptioner(LocalModelCaptionerConfig(checkpoint=str(tiny_model), max_new_tokens=4, side_px=64))
    tokenizer = asked._pipeline.tokenizer
    said = tokenizer('{"caption": "A brown dog."}')["input_ids"]
    generate = asked._pipeline.model.generate

    def scripted(**inputs: object):
        import torch

        started = generate(**{**inputs, "max_new_tokens": 1})[:, :-1]
        return torch.cat([started, torch.tensor([said])], dim=1)

    monkeypatch.setattr(asked._pipeline.model, "generate", scripted)
    assert asked.draft(ask_for(BenchmarkTask.DETAILED_CAPTION, "dog")).caption == "A brown dog."


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    config = LocalModelCaptionerConfig(checkpoint=str(tmp_path))
    with pytest.raises(UsageError, match=r"expected a folder with config.json, found none; download a model"):
        config.build()
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UsageError, match="expected the folder of a model for image-text-to-text with its processor"):
        config.build()
