"""Several conversations in one row: which go together, and rows as batches.

Attention never crosses conversations (see `model.attention`), so a packed conversation gets what it
would get alone, and no arithmetic goes into padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from model.processor import IGNORED, EncodedRow
from model.student import StudentInputs

__all__ = ["collate", "collate_packed", "pack"]


def pack(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Shares conversations out among rows, longest first, each where it leaves the least room.

    Args:
        lengths: tokens of each conversation.
        max_tokens: bound of a row.

    Returns:
        Numbers of the conversations of each row, ascending; the rows by their first number.

    Raises:
        ValueError: a conversation that is longer than a row.

    >>> pack([5, 3, 4, 2, 1], 8)
    [[0, 1], [2, 3, 4]]
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if lengths[number] > max_tokens:
            raise ValueError(
                f"conversation {number}: expected at most {max_tokens} tokens, got {lengths[number]}; "
                "raise the bound, lower max_side_px, or give it fewer turns"
            )
        fitting = [row for row, left in enumerate(room) if left >= lengths[number]]
        if fitting:
            row = min(fitting, key=lambda row: room[row])
        else:
            row = len(rows)
            rows.append([])
            room.append(max_tokens)
        rows[row].append(number)
        room[row] -= lengths[number]
    return sorted(sorted(row) for row in rows)


def collate(
    rows: Sequence[EncodedRow], padding_id: int, *, pad_left: bool = False
) -> tuple[StudentInputs, Int[Tensor, "batch tokens"]]:
    """Stacks conversations into a batch, one a row, padded on the right (training) or on the left (generation).

    Returns:
        The inputs, and the labels with `IGNORED` on padding.
    """
    return collate_packed([[row] for row in rows], padding_id, pad_left=pad_left)


def collate_packed(
    rows: Sequence[Sequence[EncodedRow]], padding_id: int, *, num_tokens: int | None = None, pad_left: bool = False
) -> tuple[StudentInputs, Int[Tensor, "batch tokens"]]:
    """Lays conversations one behind the other in each row of a batch.

    Args:
        rows: the conversations of each row; their numbers in the batch count through the rows.
        padding_id: token id of what is left over.
        num_tokens: length of the rows; None: that of the longest.
        pad_left: whether what is left over stands in front.

    Returns:
        The inputs, and the labels with `IGNORED` on padding.
    """
    lengths = [sum(len(row.input_ids) for row in conversations) for conversations in rows]
    longest = max(lengths)
    num_tokens = longest if num_tokens is None else num_tokens
    if longest > num_tokens:
        raise ValueError(f"row: expected at most {num_tokens} tokens, got {longest}")
    shape = (len(rows), num_tokens)
    ids, labels = torch.full(shape, padding_id), torch.full(shape, IGNORED)
    document, prefix, branch = torch.full(shape, -1), torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
    positions = torch.zeros(3, *shape, dtype=torch.long)
    slots: list[Tensor] = []
    pooled_slots: list[Tensor] = []
    pooled_patches: list[Tensor] = []
    grids: list[tuple[int, int]] = []
    num_documents = num_patches = 0
    for index, conversations in enumerate(rows):
        start = num_tokens - lengths[index] if pad_left else 0
        for row in conversations:
            span = slice(start, start + len(row.input_ids))
            ids[index, span], labels[index, span], positions[:, index, span] = row.input_ids, row.labels, row.positions
            document[index, span], branch[index, span] = num_documents, row.branch
            prefix[index, span] = torch.where(row.prefix >= 0, row.prefix + len(grids), -1)
            offset = index * num_tokens + start
            slots.append(offset + row.patch_slots)
            pooled_slots.append(offset + row.pooled_slots)
            pooled_patches.append(num_patches + row.pooled_patches)
            grids += row.grids
            num_documents, num_patches, start = num_documents + 1, num_patches + len(row.patches), span.stop
    flat = [row for conversations in rows for row in conversations]
    inputs = StudentInputs(
        input_ids=ids,
        positions=positions,
        document=document,
        prefix=prefix,
        branch=branch,
        patches=torch.cat([row.patches for row in flat]),
        patch_slots=torch.cat(slots),
        patch_prompt_ids=torch.cat([row.patch_prompt_ids for row in flat]),
        pooled_slots=torch.cat(pooled_slots),
        pooled_patches=torch.cat(pooled_patches),
        grids=tuple(grids),
    )
    return inputs, labels
