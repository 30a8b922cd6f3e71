"""Operations of the student: pairs counted from lengths are those of the mask."""

from __future__ import annotations

import pytest
import torch

from model.attention import Structure, prefix_mask
from model.flops import attended_pairs


def masked_pairs(structure: Structure, *, padding: bool) -> int:
    pairs = int(prefix_mask(structure).sum())
    return pairs if padding else pairs - int((structure.document < 0).sum())


def random_structure(seed: int, *, branched: bool) -> Structure:
    """Two rows of several conversations; in each an image within shared text, then branches, then padding."""
    generator = torch.Generator().manual_seed(seed)

    def length(most: int) -> int:
        return int(torch.randint(1, most, (), generator=generator))

    rows: list[list[tuple[int, int, int]]] = []
    document = image = 0
    for _ in range(2):
        row: list[tuple[int, int, int]] = []
        for _ in range(3):
            row += [(document, -1, 0)] * length(5) + [(document, image, 0)] * length(9)
            for branch in range(1, 4):
                row += [(document, -1, branch if branched else 0)] * length(6)
            document, image = document + 1, image + 1
        rows.append(row)
    longest = max(map(len, rows)) + 3
    filled = torch.tensor([row + [(-1, -1, 0)] * (longest - len(row)) for row in rows])
    return Structure(*filled.unbind(-1))


@pytest.mark.parametrize("branched", [False, True])
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_those_of_the_mask(seed: int, padding: bool, branched: bool) -> None:
    structure = random_structure(seed, branched=branched)
    assert attended_pairs(structure, padding=padding) == masked_pairs(structure, padding=padding)


def test_a_row_of_one_conversation_without_pictures() -> None:
    text = torch.zeros(1, 7, dtype=torch.long)
    assert attended_pairs(Structure(text, text - 1, text)) == 7 * 8 // 2
