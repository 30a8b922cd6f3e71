"""Greedy decoding with a cache of keys and values, batched with left padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from model.attention import DenseMask
from model.packing import collate
from model.processor import EncodedRow
from model.student import PixelSail
from model.tokenizer import StudentTokenizer

__all__ = ["Generated", "generate"]


@dataclass(frozen=True, slots=True)
class Generated:
    """What one row was continued with."""

    token_ids: list[int]
    """Without the end of text."""
    mask_logits: Tensor
    """(masks, h, w) at the mask stride, one map per generated `[SEG]`; no map for text alone."""


@torch.inference_mode()
def generate(
    model: PixelSail, tokenizer: StudentTokenizer, rows: Sequence[EncodedRow], max_new_tokens: int
) -> list[Generated]:
    """Continues each row until its end of text.

    Rows of different lengths are padded on the left, where no token looks, so that each row gets
    what it would get alone (to rounding).

    Args:
        model: the student in evaluation mode.
        tokenizer: names the special tokens.
        rows: prompts, see `Processor.encode` with a last answer of None.
        max_new_tokens: upper bound of tokens per row.
    """
    device = model.embed_tokens.weight.device
    inputs = collate(rows, tokenizer.end_of_text, pad_left=True)[0].to(device)
    cache = DynamicCache()
    prompt_hidden = model(inputs, cache)
    keys = inputs.document >= 0
    position = inputs.positions[:, :, -1:] + 1
    hidden = prompt_hidden[:, -1]
    running = torch.ones(len(rows), dtype=torch.bool, device=device)
    tokens: list[list[int]] = [[] for _ in rows]
    queries: list[list[Tensor]] = [[] for _ in rows]
    for _ in range(max_new_tokens):
        chosen = model.logits(hidden).argmax(-1)
        running = running & (chosen != tokenizer.end_of_text)
        if not bool(running.any()):
            break
        keys = torch.cat([keys, torch.ones_like(keys[:, :1])], dim=1)
        embedded = model.embed_tokens(chosen)[:, None]
        hidden = model.decode(embedded, position, DenseMask(keys[:, None, None]), cache)[:, 0]
        position = position + 1
        for index in running.nonzero()[:, 0].tolist():
            tokens[index].append(int(chosen[index]))
            if tokens[index][-1] == tokenizer.seg:
                queries[index].append(hidden[index])
    features: dict[int, Tensor] = {}
    with_image = [index for index, row in enumerate(rows) if row.grids]
    needed = {image for image, index in enumerate(with_image) if queries[index]}
    for images, maps in model.patch_maps(prompt_hidden, inputs).values():
        wanted = [place for place, image in enumerate(images) if image in needed]
        if wanted:
            cells = model.mask_features(maps[wanted])
            features |= {with_image[images[place]]: cells[i] for i, place in enumerate(wanted)}
    return [
        Generated(tokens[index], _mask_logits(model, queries[index], features.get(index))) for index in range(len(rows))
    ]


def _mask_logits(model: PixelSail, queries: list[Tensor], cells: Tensor | None) -> Tensor:
    if not queries or cells is None:
        return torch.zeros(0, 1, 1)
    return torch.einsum("mq,hwq->mhw", model.seg_query(torch.stack(queries)), cells).float()
