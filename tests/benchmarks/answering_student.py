"""A student of any size with random weights that gives one fixed answer: its work is a real one's, its words aren't."""

from __future__ import annotations

from itertools import pairwise

import torch

from model.checkpoint import checkpoint_files
from model.config import StudentConfig
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from storage.objects import Objects

__all__ = ["ANSWER", "write_answering_student"]

ANSWER = "It is [SEG]."
_SAYS_NEXT = 100.0
"""What a token of the answer has in a channel of its own, far above what the layers add to it."""


def write_answering_student(url: str, config: StudentConfig) -> Objects:
    """Makes the checkpoint of a student whose every answer is `ANSWER`.

    Each token of the answer marks a channel, which the next token's logit reads; what isn't marked is followed by the
    first token.

    Args:
        url: of the folder to make.
        config: its sizes; the vocabulary's is put in, the number of visual prompts counts.
    """
    tokenizer = StudentTokenizer.train(["please segment the thing number in this image", ANSWER], 300, 3)
    config = config.model_copy(
        update={"vocab_size": tokenizer.vocab_size, "num_visual_prompts": 3, "tie_word_embeddings": False}
    )
    student = PixelSail(config).init_weights(torch.Generator().manual_seed(0)).eval()
    said = [*tokenizer.encode(ANSWER), tokenizer.end_of_text]
    assert len(set(said)) == len(said), "each token has one that follows"
    assert student.lm_head is not None
    with torch.no_grad():
        embedded, read = student.embed_tokens.weight, student.lm_head.weight
        read.zero_()
        embedded[:, : len(said)] = 0.0
        embedded[:, 0] = _SAYS_NEXT
        read[said[0], 0] = 1.0
        for channel, (token, following) in enumerate(pairwise(said), 1):
            embedded[token, 0] = 0.0
            embedded[token, channel] = _SAYS_NEXT
            read[following, channel] = 1.0
    objects = Objects.open(url)
    for name, data in checkpoint_files(student, tokenizer).items():
        objects.put(name, data)
    return objects
