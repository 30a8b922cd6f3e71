"""A student of some thousand weights, its tokenizer, and pictures of a few patches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import DistillationHead, StudentConfig
from model.processor import EncodedRow, Processor
from model.student import PixelSail
from model.tokenizer import StudentTokenizer

TEXTS = ("segment the red square", "segment the blue ring", "It is [SEG].", "No target [SEG].", "describe <region1>")


class ScriptedStudent(PixelSail):
    """A student whose next tokens are dictated; its hidden states and masks are still its own."""

    script: list[list[int]]
    """Tokens of each row of a batch; asked for more than that, it starts anew."""

    def logits(self, hidden: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", -1) + 1
        wanted = [row[self.calls % len(row)] for row in self.script]
        of_rows = torch.nn.functional.one_hot(torch.tensor(wanted), self.config.vocab_size).float()
        return of_rows[:, None].expand(-1, hidden.shape[1], -1)


@pytest.fixture(scope="session")
def tokenizer() -> StudentTokenizer:
    return StudentTokenizer.train(TEXTS, 300, 3)


@pytest.fixture(scope="session")
def config(tokenizer: StudentTokenizer) -> StudentConfig:
    """Large random weights, so that every token matters to every other that sees it."""
    return StudentConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,
        patch_size_px=8,
        max_side_px=64,
        mask_stride_px=4,
        mask_dim=12,
        num_visual_prompts=3,
        distillation=(
            DistillationHead(teacher="mask2former", num_channels=6, source="mask_features"),
            DistillationHead(teacher="sam2", num_channels=5, source="patches"),
        ),
    )


@pytest.fixture
def student(config: StudentConfig) -> PixelSail:
    return PixelSail(config).init_weights(torch.Generator().manual_seed(3)).eval()


@pytest.fixture
def scripted(config: StudentConfig) -> Callable[[list[list[int]]], ScriptedStudent]:
    def make(script: list[list[int]]) -> ScriptedStudent:
        student = ScriptedStudent(config)
        student.init_weights(torch.Generator().manual_seed(3))
        student.script = script
        return student.eval()

    return make


@pytest.fixture
def processor(config: StudentConfig, tokenizer: StudentTokenizer) -> Processor:
    return Processor(config, tokenizer)


@pytest.fixture
def picture() -> Callable[..., NDArray[np.uint8]]:
    """Noise of a given size."""

    def make(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)

    return make


@pytest.fixture
def questions(processor: Processor, picture: Callable[..., NDArray[np.uint8]]) -> list[EncodedRow]:
    """Three questions of different lengths: on a wide picture, on a small one, on none."""
    prompt = np.zeros((16, 8), np.bool_)
    prompt[9:, 2:5] = True
    return [
        processor.encode(picture(24, 32, 1), [("segment the red square", None)]),
        processor.encode(picture(16, 8, 2), [("describe <Prompt2> in a few words", None)], [(2, prompt)]),
        processor.encode(None, [("hello", None)]),
    ]
