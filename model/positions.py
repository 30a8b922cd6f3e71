"""Three-axis positions of the sequence and their rotary embedding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["rotary_embedding", "sequence_positions"]


def sequence_positions(
    segments: Sequence[int | tuple[int, int]], branch_lengths: Sequence[int] = ()
) -> Int[Tensor, "3 tokens"]:
    """Positions on the axes (t, h, w) of stretches of text and images.

    Text counts up on all three axes alike. Patch (r, c) of an image whose first patch stands at s
    has t = s, h = s + r, w = s + c; what follows goes on from the largest patch position + 1.

    Args:
        segments: in their order, a number of text tokens (`<vision>` and `</vision>` count as text
            here), or the (rows, columns) of the patches of an image.
        branch_lengths: tokens of each branch behind those; every branch goes on from the same position.

    >>> sequence_positions([1, (2, 3), 2])
    tensor([[0, 1, 1, 1, 1, 1, 1, 4, 5],
            [0, 1, 1, 1, 2, 2, 2, 4, 5],
            [0, 1, 2, 3, 1, 2, 3, 4, 5]])
    """
    lengths = [part if isinstance(part, int) else part[0] * part[1] for part in (*segments, *branch_lengths)]
    positions = np.empty((3, sum(lengths)), np.int64)
    start = place = 0
    for segment, length in zip(segments, lengths, strict=False):
        own = positions[:, place : place + length]
        place += length
        if isinstance(segment, int):
            own[:] = np.arange(start, start + length)
            start += length
        else:
            rows, columns = segment
            own[:] = start
            own[1] += np.repeat(np.arange(rows), columns)
            own[2] += np.tile(np.arange(columns), rows)
            start += max(rows, columns)
    for length in branch_lengths:
        positions[:, place : place + length] = np.arange(start, start + length)
        place += length
    return torch.from_numpy(positions)


def rotary_embedding(
    positions: Int[Tensor, "3 batch tokens"], head_dim: int, theta: float
) -> tuple[Float[Tensor, "batch tokens head_dim"], Float[Tensor, "batch tokens head_dim"]]:
    """Cosines and sines of the rotary embedding, the channels shared out among the axes.

    The usual `cat(freqs, freqs)` is split into the sections [0, d/4, d/4] twice, section i taking
    axis i mod 3: time has no channels, rows the first and third quarter, columns the others.
    """
    frequencies = theta ** -(torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    quarter = head_dim // 4
    angles = torch.cat(
        [positions[1, ..., None] * frequencies[:quarter], positions[2, ..., None] * frequencies[quarter:]], dim=-1
    )
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()
