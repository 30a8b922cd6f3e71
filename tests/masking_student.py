"""A tiny student on disk that knows three regions and answers with one token alone, `[SEG]` or another."""

from __future__ import annotations

from pathlib import Path

import torch

from model.checkpoint import checkpoint_files
from model.config import StudentConfig
from model.student import PixelSail
from model.tokenizer import SEG, StudentTokenizer

__all__ = ["write_masking_student"]


def write_masking_student(folder: Path, word: str = SEG) -> Path:
    """Makes the folder of the student.

    Args:
        folder: to make.
        word: whose first token it answers with.

    Returns:
        The same folder.
    """
    tokenizer = StudentTokenizer.train(["the red square", "describe <region1>"], 300, 3)
    config = StudentConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
        patch_size_px=8,
        max_side_px=32,
        mask_stride_px=4,
        mask_dim=8,
        num_visual_prompts=3,
    )
    student = PixelSail(config).init_weights(torch.Generator().manual_seed(0))
    assert student.lm_head is not None
    with torch.no_grad():
        student.embed_tokens.weight[:, 0] = 1.0  # so that the first channel behind the last layer is positive
        student.lm_head.weight.zero_()
        student.lm_head.weight[tokenizer.encode(word)[0], 0] = 1.0
    folder.mkdir()
    for name, data in checkpoint_files(student, tokenizer).items():
        (folder / name).write_bytes(data)
    return folder
