"""From generated rows to masks: which `[SEG]` asks which image, and what it finds there."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.student import PixelSail, StudentInputs

__all__ = ["answered_masks", "extended"]


def extended(prompt: StudentInputs, sequences: Int[Tensor, "rows tokens"]) -> StudentInputs:
    """A batch of prompts with the text that was generated behind them.

    Args:
        prompt: padded on the left.
        sequences: the same rows, longer.
    """
    rows, length = prompt.input_ids.shape
    more = sequences.shape[1] - length
    offsets = torch.arange(1, more + 1, device=sequences.device)

    def kept(values: Tensor) -> Tensor:
        return torch.cat([values, values[:, -1:].expand(rows, more)], dim=1)

    def moved(slots: Tensor) -> Tensor:
        return slots + torch.div(slots, length, rounding_mode="floor") * more

    return replace(
        prompt,
        input_ids=sequences,
        positions=torch.cat([prompt.positions, prompt.positions[:, :, -1:] + offsets], dim=2),
        document=kept(prompt.document),
        prefix=torch.nn.functional.pad(prompt.prefix, (0, more), value=-1),
        branch=kept(prompt.branch),
        patch_slots=moved(prompt.patch_slots),
        pooled_slots=moved(prompt.pooled_slots),
    )


def answered_masks(
    model: PixelSail,
    prompt: StudentInputs,
    hidden: Float[Tensor, "rows seen dim"],
    is_seg: Bool[Tensor, "rows tokens"],
) -> tuple[Float[Tensor, "_masks _h _w"], ...]:
    """Mask logits at the mask grid, for each row one map per `[SEG]`.

    Args:
        model: the student.
        prompt: the rows before anything was generated; a row's last image is the one that is asked.
        hidden: last hidden states of prompts and generated tokens.
        is_seg: the `[SEG]` to answer; none of them beyond `hidden`.

    Returns:
        One tensor per row; empty for rows without `[SEG]` or without an image.
    """
    length = prompt.input_ids.shape[1]
    sizes = torch.tensor([rows * columns for rows, columns in prompt.grids], dtype=torch.long)
    rows_of_images = torch.div(prompt.patch_slots.cpu()[sizes.cumsum(0) - sizes], length, rounding_mode="floor")
    last_image = {row: image for image, row in enumerate(rows_of_images.tolist())}
    asking = [row for row in is_seg.any(1).nonzero()[:, 0].tolist() if row in last_image]
    patches = prompt.patch_slots.split(sizes.tolist())
    masks = [hidden.new_zeros(0, 1, 1, dtype=torch.float32)] * len(is_seg)
    by_grid: dict[tuple[int, int], list[int]] = {}
    for row in asking:
        by_grid.setdefault(prompt.grids[last_image[row]], []).append(row)
    for grid, rows in by_grid.items():
        states = torch.stack([hidden[row, patches[last_image[row]] - row * length] for row in rows])
        cells = model.mask_features(states.unflatten(1, grid))
        for row, cell in zip(rows, cells, strict=True):
            queries = model.seg_query(hidden[row, : is_seg.shape[1]][is_seg[row, : hidden.shape[1]]])
            masks[row] = torch.einsum("mq,hwq->mhw", queries, cell).float()
    return tuple(masks)
