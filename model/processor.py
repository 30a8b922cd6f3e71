"""From pictures, questions and visual prompts to token rows, and rows to batches."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.config import StudentConfig
from model.positions import conversation_positions
from model.student import StudentInputs
from model.tokenizer import END_OF_TEXT, TURN_END, TURN_START, StudentTokenizer
from model.visual_prompt import patch_prompts
from storage.geometry import student_size

__all__ = ["IGNORED", "EncodedRow", "Processor", "collate", "normalise_and_patchify"]

IGNORED = -100
"""Label of tokens that carry no loss."""

_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def normalise_and_patchify(
    image: NDArray[np.uint8], size_px: tuple[int, int], patch_size_px: int
) -> Float[Tensor, "patches pixels"]:
    """Stretches an image, normalises it and cuts it into patches.

    Args:
        image: uint8 RGB (height, width, 3).
        size_px: (height, width) to stretch to with PIL's bilinear filter.
        patch_size_px: side of a patch.

    Returns:
        Patches row-major, each flattened in (channel, row, column) order, (x / 255 - mean) / std.
    """
    height, width = size_px
    if image.shape[:2] != size_px:
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    pixels = (image.astype(np.float32) / 255.0 - _IMAGENET_MEAN) / _IMAGENET_STD
    rows, columns = height // patch_size_px, width // patch_size_px
    patches = pixels.reshape(rows, patch_size_px, columns, patch_size_px, 3).transpose(0, 2, 4, 1, 3)
    return torch.from_numpy(patches.reshape(rows * columns, -1).copy())


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One conversation as tokens: everything the student needs of it but the mask targets."""

    input_ids: Int[Tensor, " tokens"]
    labels: Int[Tensor, " tokens"]
    positions: Int[Tensor, "3 tokens"]
    branch: Int[Tensor, " tokens"]
    """See `model.attention.prefix_mask`."""
    prefix_length: int
    """Tokens from `<vision>` to `</vision>`, which stand first; 0 for text alone."""
    patches: Float[Tensor, "patches pixels"]
    patch_prompt_ids: Int[Tensor, " patches"]
    grid: tuple[int, int] | None


class Processor:
    """Builds rows for one student: its tokenizer and the resize rule of its configuration."""

    def __init__(self, config: StudentConfig, tokenizer: StudentTokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self._encode = functools.lru_cache(maxsize=65_536)(tokenizer.encode)

    def image_size(self, image: NDArray[np.uint8]) -> tuple[int, int]:
        """(height, width) to which an image is stretched."""
        return student_size(image.shape[0], image.shape[1], self.config.patch_size_px, self.config.max_side_px)

    def encode(
        self,
        image: NDArray[np.uint8] | None,
        turns: Sequence[tuple[str, str | None]],
        visual_prompts: Sequence[tuple[int, NDArray[np.bool_]]] = (),
        *,
        branched: bool = False,
    ) -> EncodedRow:
        """Builds the row of one conversation.

        Args:
            image: uint8 RGB (height, width, 3), or None for text alone.
            turns: questions and answers, in which visual prompts are named by their own tokens
                (`<Prompt3>`). The last answer may be None: then the row ends where it begins.
            visual_prompts: (number of the prompt token, bool (height, width) mask) pairs.
            branched: each turn sees the image and itself alone, as if it were the only one; otherwise
                a turn also sees those before it.

        Returns:
            The row; only answers carry labels.

        Raises:
            ValueError: a prompt number that has no token, or prompts without an image.
        """
        ids: list[int] = []
        labels: list[int] = []
        lengths: list[int] = []
        for question, answer in turns:
            asked = [*self._encode(f"{TURN_START}user\n"), *self._encode(question), *self._encode(f"{TURN_END}\n")]
            answered = [] if answer is None else [*self._encode(answer), *self._encode(END_OF_TEXT)]
            ids += [*asked, *answered]
            labels += [*[IGNORED] * len(asked), *answered]
            lengths.append(len(asked) + len(answered))
        if image is None:
            if visual_prompts:
                raise ValueError("visual prompts: expected an image to point at, got text alone")
            no_patches = torch.zeros(0, 3 * self.config.patch_size_px**2)
            return self._row(ids, labels, lengths if branched else None, None, no_patches, torch.zeros(0).long())
        size = self.image_size(image)
        patches = normalise_and_patchify(image, size, self.config.patch_size_px)
        known = len(self.tokenizer.visual_prompts)
        for number, _ in visual_prompts:
            if not 0 <= number < known:
                raise ValueError(f"visual prompts: expected numbers from 0 to {known - 1}, got {number}")
        numbers = patch_prompts(visual_prompts, size, self.config.patch_size_px)
        prompt_ids = torch.tensor([*self.tokenizer.visual_prompts, -1])[numbers]
        grid = (size[0] // self.config.patch_size_px, size[1] // self.config.patch_size_px)
        return self._row(ids, labels, lengths if branched else None, grid, patches, prompt_ids)

    def _row(
        self,
        ids: list[int],
        labels: list[int],
        branch_lengths: list[int] | None,
        grid: tuple[int, int] | None,
        patches: Tensor,
        prompt_ids: Tensor,
    ) -> EncodedRow:
        tokens = self.tokenizer
        image_ids = (
            [] if grid is None else [tokens.vision_start, *[tokens.vision_patch] * len(patches), tokens.vision_end]
        )
        lengths = [] if branch_lengths is None else branch_lengths
        numbers = torch.arange(1, len(lengths) + 1).repeat_interleave(torch.tensor(lengths, dtype=torch.long))
        shared = len(image_ids) + len(ids) - len(numbers)
        num_after = len(ids) - len(numbers) + (grid is not None)
        return EncodedRow(
            input_ids=torch.tensor([*image_ids, *ids]),
            labels=torch.tensor([*[IGNORED] * len(image_ids), *labels]),
            positions=conversation_positions(0 if grid is None else 1, grid, num_after, lengths),
            branch=torch.cat([torch.zeros(shared, dtype=torch.long), numbers]),
            prefix_length=len(image_ids),
            patches=patches,
            patch_prompt_ids=prompt_ids,
            grid=grid,
        )


def collate(
    rows: Sequence[EncodedRow], padding_id: int, *, pad_left: bool = False
) -> tuple[StudentInputs, Int[Tensor, "batch tokens"]]:
    """Stacks rows into a batch, padded on the right (training) or on the left (generation).

    Returns:
        The inputs, and the labels with `IGNORED` on padding.
    """
    num_tokens = max(len(row.input_ids) for row in rows)
    shape = (len(rows), num_tokens)
    ids, labels = torch.full(shape, padding_id), torch.full(shape, IGNORED)
    document, prefix, branch = torch.full(shape, -1), torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
    positions = torch.zeros(3, *shape, dtype=torch.long)
    slots: list[Tensor] = []
    for index, row in enumerate(rows):
        length = len(row.input_ids)
        start = num_tokens - length if pad_left else 0
        span = slice(start, start + length)
        ids[index, span], labels[index, span], positions[:, index, span] = row.input_ids, row.labels, row.positions
        document[index, span], branch[index, span] = index, row.branch
        prefix[index, start : start + row.prefix_length] = index
        first_patch = index * num_tokens + start + 1
        slots.append(torch.arange(first_patch, first_patch + len(row.patches)))
    inputs = StudentInputs(
        input_ids=ids,
        positions=positions,
        document=document,
        prefix=prefix,
        branch=branch,
        patches=torch.cat([row.patches for row in rows]),
        patch_slots=torch.cat(slots),
        patch_prompt_ids=torch.cat([row.patch_prompt_ids for row in rows]),
        grids=tuple(row.grid for row in rows if row.grid is not None),
    )
    return inputs, labels
