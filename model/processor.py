"""From pictures, questions and visual prompts to token rows."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.config import StudentConfig
from model.positions import sequence_positions
from model.tokenizer import END_OF_TEXT, TURN_END, TURN_START, StudentTokenizer
from model.visual_prompt import patch_prompts, prompt_patches
from storage.geometry import student_grid, student_size

__all__ = ["IGNORED", "EncodedRow", "Picture", "Processor", "Text", "normalise_and_patchify"]

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
    rows, columns = height // patch_size_px, width // patch_size_px
    # Cut while it is small, then in place: the arithmetic runs along whole patches of one channel.
    cut = image.reshape(rows, patch_size_px, columns, patch_size_px, 3).transpose(0, 2, 4, 1, 3)
    pixels = cut.reshape(rows * columns, 3, patch_size_px**2).astype(np.float32)
    pixels /= 255.0
    pixels -= _IMAGENET_MEAN[:, None]
    pixels /= _IMAGENET_STD[:, None]
    return torch.from_numpy(pixels.reshape(rows * columns, -1))


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One conversation as tokens: everything the student needs of it but the mask targets."""

    input_ids: Int[Tensor, " tokens"]
    labels: Int[Tensor, " tokens"]
    positions: Int[Tensor, "3 tokens"]
    branch: Int[Tensor, " tokens"]
    """See `model.attention.Structure`."""
    prefix: Int[Tensor, " tokens"]
    """Number of the image, within this row, that a token from `<vision>` to `</vision>` belongs to; -1 for text."""
    patches: Float[Tensor, "patches pixels"]
    patch_slots: Int[Tensor, " patches"]
    """Which token each patch stands at."""
    patch_prompt_ids: Int[Tensor, " patches"]
    """See `model.student.StudentInputs`."""
    pooled_slots: Int[Tensor, " pairs"]
    pooled_patches: Int[Tensor, " pairs"]
    """See `model.student.StudentInputs`; tokens and patches of this row."""
    grids: tuple[tuple[int, int], ...]
    """Rows and columns of patches of each image."""

    def shortened(self, num_tokens: int) -> EncodedRow:
        """The row without the text behind its first tokens; pictures have to lie before."""
        assert not bool((self.prefix[num_tokens:] >= 0).any())
        kept = self.pooled_slots < num_tokens
        return replace(
            self,
            input_ids=self.input_ids[:num_tokens],
            labels=self.labels[:num_tokens],
            positions=self.positions[:, :num_tokens],
            branch=self.branch[:num_tokens],
            prefix=self.prefix[:num_tokens],
            pooled_slots=self.pooled_slots[kept],
            pooled_patches=self.pooled_patches[kept],
        )


@dataclass(frozen=True, slots=True)
class Picture:
    """An image in a conversation, with the regions that are pointed at."""

    image: NDArray[np.uint8]
    """RGB (height, width, 3)."""
    visual_prompts: Sequence[tuple[int, NDArray[np.bool_]]] = ()
    """(number of the prompt token, bool (height, width) mask) pairs, painted in this order."""


@dataclass(frozen=True, slots=True)
class Text:
    """A stretch of text in a conversation, special tokens written out."""

    text: str
    is_answer: bool = False
    """Whether its tokens carry labels."""
    branch: int = 0
    """See `model.attention.Structure`."""


@dataclass(slots=True)
class _Row:
    """A row in the making: a few long arrays cost less than many short tensors."""

    ids: list[int] = field(default_factory=list)
    stretches: list[tuple[int, bool, int, int]] = field(default_factory=list)
    """Of each piece: tokens, whether it carries labels, branch, number of the image or -1."""
    segments: list[int | tuple[int, int]] = field(default_factory=list)
    branch_lengths: list[int] = field(default_factory=list)
    patches: list[Tensor] = field(default_factory=list)
    patch_slots: list[NDArray[np.int64]] = field(default_factory=list)
    prompt_ids: list[Tensor] = field(default_factory=list)
    regions: dict[int, Tensor] = field(default_factory=dict)
    """Patches of each prompt, by its token id, where regions are pooled."""
    pooled: list[tuple[int, int]] = field(default_factory=list)
    grids: list[tuple[int, int]] = field(default_factory=list)

    def append(self, ids: Sequence[int], *, is_answer: bool = False, branch: int = 0, image: int = -1) -> None:
        self.ids += ids
        self.stretches.append((len(ids), is_answer, branch, image))

    def finished(self, num_pixels: int) -> EncodedRow:
        pairs = torch.tensor(self.pooled, dtype=torch.long).reshape(-1, 2)
        ids = np.array(self.ids, np.int64)
        facts = np.array(self.stretches, np.int64).reshape(-1, 4)
        is_answer, branch, prefix = np.repeat(facts[:, 1:], facts[:, 0], axis=0).T
        none = np.zeros(0, np.int64)
        return EncodedRow(
            input_ids=torch.from_numpy(ids),
            labels=torch.from_numpy(np.where(is_answer, ids, IGNORED)),
            positions=sequence_positions(self.segments, self.branch_lengths),
            branch=torch.from_numpy(np.ascontiguousarray(branch)),
            prefix=torch.from_numpy(np.ascontiguousarray(prefix)),
            patches=_joined(self.patches) if self.patches else torch.zeros(0, num_pixels),
            patch_slots=torch.from_numpy(np.concatenate(self.patch_slots or [none])),
            patch_prompt_ids=_joined(self.prompt_ids) if self.prompt_ids else torch.from_numpy(none),
            pooled_slots=pairs[:, 0],
            pooled_patches=pairs[:, 1],
            grids=tuple(self.grids),
        )


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _asked(question: str) -> str:
    return f"{TURN_START}user\n{question}{TURN_END}\n"


def _answered(answer: str) -> str:
    return f"{answer}{END_OF_TEXT}"


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
        """Builds the row of one conversation about one image.

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
        if image is None and visual_prompts:
            raise ValueError("visual prompts: expected an image to point at, got text alone")
        parts: list[Picture | Text] = [] if image is None else [Picture(image, visual_prompts)]
        for number, (question, answer) in enumerate(turns, 1):
            branch = number if branched else 0
            parts.append(Text(_asked(question), branch=branch))
            if answer is not None:
                parts.append(Text(_answered(answer), is_answer=True, branch=branch))
        return self.encode_parts(parts)

    def num_tokens(
        self, size_px: tuple[int, int] | None, turns: Sequence[tuple[str, str]], prompts: Collection[int] = ()
    ) -> int:
        """Length of the row that `encode` would make, without a look at the image.

        Args:
            size_px: (height, width) of the image as it is stored; None for text alone.
            turns: questions and answers.
            prompts: numbers of the prompt tokens that point at something.
        """
        length = 0
        if size_px is not None:
            rows, columns = student_grid(*size_px, self.config.patch_size_px, self.config.max_side_px)
            length += rows * columns + 2
        pooled = {self.tokenizer.visual_prompts[number] for number in prompts}
        for question, answer in turns:
            asked = self._encode(_asked(question))
            length += len(asked) + len(self._encode(_answered(answer)))
            if self.config.visual_prompt == "pooled" and pooled:
                length += sum(token in pooled for token in asked)
        return length

    def encode_parts(self, parts: Sequence[Picture | Text]) -> EncodedRow:
        """Builds the row of pictures and texts in their order; branches have to stand at the end, ascending.

        Raises:
            ValueError: a prompt number that has no token, or one that is used twice; branches out of order.
        """
        branches = [0 if isinstance(part, Picture) else part.branch for part in parts]
        if branches != sorted(branches):
            raise ValueError(f"branches: expected them behind everything else, ascending, got {branches}")
        row = _Row()
        for part in parts:
            if isinstance(part, Picture):
                self._append_picture(row, part)
            else:
                self._append_text(row, part)
        return row.finished(3 * self.config.patch_size_px**2)

    def _append_picture(self, row: _Row, picture: Picture) -> None:
        tokens, patch_size = self.tokenizer, self.config.patch_size_px
        size = self.image_size(picture.image)
        patches = normalise_and_patchify(picture.image, size, patch_size)
        known = len(tokens.visual_prompts)
        used = set(row.regions)
        for number, _ in picture.visual_prompts:
            if not 0 <= number < known:
                raise ValueError(f"visual prompts: expected numbers from 0 to {known - 1}, got {number}")
            if tokens.visual_prompts[number] in used:
                raise ValueError(f"visual prompts: expected each number once in a conversation, got {number} twice")
            used.add(tokens.visual_prompts[number])
        first_patch = sum(map(len, row.patches))
        for number, mask in picture.visual_prompts:
            region = torch.from_numpy(prompt_patches(mask, size, patch_size).reshape(-1))
            row.regions[tokens.visual_prompts[number]] = first_patch + region.nonzero()[:, 0]
        if picture.visual_prompts:
            numbers = patch_prompts(picture.visual_prompts, size, patch_size)
            row.prompt_ids.append(torch.tensor([*tokens.visual_prompts, -1])[numbers])
        else:
            row.prompt_ids.append(torch.full((len(patches),), -1))
        grid = (size[0] // patch_size, size[1] // patch_size)
        row.patch_slots.append(np.arange(len(row.ids) + 1, len(row.ids) + 1 + len(patches)))
        row.append(
            [tokens.vision_start, *[tokens.vision_patch] * len(patches), tokens.vision_end], image=len(row.grids)
        )
        row.segments += [1, grid, 1]
        row.patches.append(patches)
        row.grids.append(grid)

    def _append_text(self, row: _Row, part: Text) -> None:
        ids = self._encode(part.text)
        if self.config.visual_prompt == "pooled" and not part.is_answer:
            ids = self._with_pooled(row, ids)
        row.append(ids, is_answer=part.is_answer, branch=part.branch)
        if not part.branch:
            row.segments.append(len(ids))
            return
        row.branch_lengths += [0] * (part.branch - len(row.branch_lengths))
        row.branch_lengths[part.branch - 1] += len(ids)

    def _with_pooled(self, row: _Row, ids: Sequence[int]) -> list[int]:
        """The ids with a token for the region behind each prompt token that points at one."""
        longer: list[int] = []
        for token in ids:
            longer.append(token)
            if token in row.regions:
                slot = len(row.ids) + len(longer)
                row.pooled += [(slot, patch) for patch in row.regions[token].tolist()]
                longer.append(self.tokenizer.pooled_region)
        return longer
