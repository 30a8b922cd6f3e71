"""Several conversations in one row: which go together, and rows as batches.

Attention never crosses conversations (see `model.attention`), so a packed conversation gets what it
would get alone, and no arithmetic goes into padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
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
    # numpy: of the hundreds of short pieces of a batch each costs a fraction of what it does as a tensor.
    ids, labels = np.full(shape, padding_id), np.full(shape, IGNORED)
    document, prefix, branch = np.full(shape, -1), np.full(shape, -1), np.zeros(shape, np.int64)
    positions = np.zeros((3, *shape), np.int64)
    slots: list[NDArray[np.int64]] = []
    pooled_slots: list[Tensor] = []
    pooled_patches: list[Tensor] = []
    grids: list[tuple[int, int]] = []
    num_documents = num_patches = 0
    for index, conversations in enumerate(rows):
        start = num_tokens - lengths[index] if pad_left else 0
        for row in conversations:
            span = slice(start, start + len(row.input_ids))
            ids[index, span], labels[index, span] = row.input_ids.numpy(), row.labels.numpy()
            positions[:, index, span] = row.positions.numpy()
            document[index, span], branch[index, span] = num_documents, row.branch.numpy()
            own = row.prefix.numpy()
            prefix[index, span] = np.where(own >= 0, own + len(grids), -1)
            offset = index * num_tokens + start
            slots.append(offset + row.patch_slots.numpy())
            pooled_slots.append(offset + row.pooled_slots)
            pooled_patches.append(num_patches + row.pooled_patches)
            grids += row.grids
            num_documents, num_patches, start = num_documents + 1, num_patches + len(row.patches), span.stop
    flat = [row for conversations in rows for row in conversations]
    inputs = StudentInputs(
        input_ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        document=torch.from_numpy(document),
        prefix=torch.from_numpy(prefix),
        branch=torch.from_numpy(branch),
        patches=torch.cat([row.patches for row in flat]),
        patch_slots=torch.from_numpy(np.concatenate(slots)),
        patch_prompt_ids=torch.cat([row.patch_prompt_ids for row in flat]),
        pooled_slots=torch.cat(pooled_slots),
        pooled_patches=torch.cat(pooled_patches),
        grids=tuple(grids),
    )
    return inputs, torch.from_numpy(labels)
