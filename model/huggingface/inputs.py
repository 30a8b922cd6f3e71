"""From what transformers passes around (ids, masks, pixels) to the student's inputs and back to rows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.huggingface.configuration import PixelSailConfig
from model.positions import sequence_positions
from model.student import StudentInputs

__all__ = ["VisualInputs", "is_token", "student_inputs"]


@dataclass(frozen=True, slots=True)
class VisualInputs:
    """The images of a batch, in the order in which they stand in its rows."""

    pixel_values: Float[Tensor, "patches pixels"]
    image_grids: Int[Tensor, "images 2"]
    """Rows and columns of patches of each image."""
    visual_prompt_ids: Int[Tensor, " patches"]
    """Token id of the visual prompt on each patch, -1 for none."""
    pooled_tokens: Int[Tensor, " pairs"]
    """With `pooled_patches`: which token for a pooled region (counted through the batch) has which patch."""
    pooled_patches: Int[Tensor, " pairs"]

    @classmethod
    def of(cls, config: PixelSailConfig, given: dict[str, Tensor | None], device: torch.device) -> VisualInputs:
        """Fills up what isn't given: no images, no prompts.

        Raises:
            ValueError: parts that don't fit each other or the student.
        """
        num_pixels = 3 * config.student.patch_size_px**2
        none = torch.zeros(0, dtype=torch.long, device=device)
        pixels = given.get("pixel_values")
        grids = given.get("image_grids")
        if (pixels is None) is not (grids is None):
            raise ValueError(
                "images: expected pixel_values and image_grids together, got one of them; take both from the processor"
            )
        pixels = torch.zeros(0, num_pixels, device=device) if pixels is None else pixels
        grids = none.reshape(0, 2) if grids is None else grids
        if pixels.ndim != 2 or pixels.shape[1] != num_pixels:
            raise ValueError(
                f"pixel_values: expected (patches, {num_pixels}), which are patches of {config.student.patch_size_px} "
                f"px, got {tuple(pixels.shape)}; take them from this student's processor"
            )
        if grids.ndim != 2 or grids.shape[1] != 2:
            raise ValueError(f"image_grids: expected (images, 2), got {tuple(grids.shape)}")
        expected = int(grids.prod(1).sum())
        if len(pixels) != expected:
            raise ValueError(f"pixel_values: expected {expected} patches by image_grids, got {len(pixels)}")
        prompts = given.get("visual_prompt_ids")
        if prompts is None:
            prompts = torch.full((len(pixels),), -1, dtype=torch.long, device=device)
        if len(prompts) != len(pixels):
            raise ValueError(f"visual_prompt_ids: expected one per patch, {len(pixels)}, got {len(prompts)}")
        pairs = [given.get(name) for name in ("pooled_tokens", "pooled_patches")]
        pooled_tokens, pooled_patches = (none if part is None else part for part in pairs)
        if len(pooled_tokens) != len(pooled_patches):
            raise ValueError(
                f"pooled_tokens and pooled_patches: expected pairs, got {len(pooled_tokens)} and {len(pooled_patches)}"
            )
        last = int(pooled_patches.max()) if len(pooled_patches) else -1
        if last >= len(pixels):
            raise ValueError(f"pooled_patches: expected numbers below {len(pixels)}, the patches given, got {last}")
        return cls(pixels, grids, prompts, pooled_tokens, pooled_patches)

    def repeated(self, images_per_row: list[int], pooled_per_row: list[int], times: int) -> VisualInputs:
        """Each row's images `times` times in a row, as beams and several answers need them."""
        patches_per_image = self.image_grids.prod(1).tolist()
        image_numbers, patch_numbers, pair_numbers = [], [], []
        pooled_tokens, pooled_patches = [], []
        first_image = first_patch = first_token = 0
        tokens_done = patches_done = 0
        for num_images, num_tokens in zip(images_per_row, pooled_per_row, strict=True):
            num_patches = sum(patches_per_image[first_image : first_image + num_images])
            own = ((self.pooled_tokens >= first_token) & (self.pooled_tokens < first_token + num_tokens)).nonzero()
            for _ in range(times):
                image_numbers += range(first_image, first_image + num_images)
                patch_numbers += range(first_patch, first_patch + num_patches)
                pair_numbers += own[:, 0].tolist()
                pooled_tokens.append(self.pooled_tokens[own[:, 0]] - first_token + tokens_done)
                pooled_patches.append(self.pooled_patches[own[:, 0]] - first_patch + patches_done)
                tokens_done, patches_done = tokens_done + num_tokens, patches_done + num_patches
            first_image, first_patch = first_image + num_images, first_patch + num_patches
            first_token += num_tokens
        return VisualInputs(
            self.pixel_values[patch_numbers],
            self.image_grids[image_numbers],
            self.visual_prompt_ids[patch_numbers],
            torch.cat(pooled_tokens),
            torch.cat(pooled_patches),
        )

    def as_arguments(self) -> dict[str, Tensor]:
        """By the names of the model's arguments."""
        return {item.name: cast("Tensor", getattr(self, item.name)) for item in fields(self)}


def is_token(ids: Int[Tensor, "*tokens"], token_id: int | None) -> Bool[Tensor, "*tokens"]:
    """Where a special token stands; nowhere, if the configuration doesn't name it."""
    return torch.zeros_like(ids, dtype=torch.bool) if token_id is None else ids == token_id


def student_inputs(
    config: PixelSailConfig,
    input_ids: Int[Tensor, "batch tokens"],
    attention_mask: Int[Tensor, "batch tokens"] | None,
    visual: VisualInputs,
) -> StudentInputs:
    """Finds images, positions and structure of padded rows.

    Raises:
        ValueError: images in the text that don't fit those given.
    """
    device = input_ids.device
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask: expected {tuple(input_ids.shape)} like input_ids, got {tuple(attention_mask.shape)}"
        )
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    grids = [(rows, columns) for rows, columns in visual.image_grids.tolist()]
    prefix = torch.full_like(input_ids, -1)
    positions = torch.zeros(3, *input_ids.shape, dtype=torch.long)
    ids, kept = input_ids.cpu(), real.cpu()
    is_start = is_token(ids, config.vision_start_token_id) & kept
    if int(is_start.sum()) != len(grids):
        raise ValueError(f"images: expected {int(is_start.sum())}, one per <vision> in the text, got {len(grids)}")
    image = 0
    for row in range(len(ids)):
        where = kept[row].nonzero()[:, 0]
        if not len(where):
            raise ValueError(f"row {row}: expected at least one token, got padding alone")
        first, stop = int(where[0]), int(where[-1]) + 1
        if stop - first != len(where):
            raise ValueError(f"attention_mask, row {row}: expected padding at one side or both, got a hole")
        segments: list[int | tuple[int, int]] = []
        done = first
        for start in is_start[row].nonzero()[:, 0].tolist():
            rows, columns = grids[image]
            end = start + rows * columns + 1
            span = ids[row, start + 1 : end]
            if (
                end >= stop
                or int(ids[row, end]) != config.vision_end_token_id
                or not bool(is_token(span, config.image_token_id).all())
            ):
                raise ValueError(
                    f"image {image}: expected {rows} x {columns} <vpatch> and </vision> behind <vision> in row {row}; "
                    "the text was cut or not made by this student's processor"
                )
            segments += [start + 1 - done, (rows, columns)]
            prefix[row, start : end + 1] = image
            done, image = end, image + 1
        segments.append(stop - done)
        positions[:, row, first:stop] = sequence_positions(segments)
    numbers = torch.arange(len(ids), device=device)[:, None]
    flat = input_ids.flatten()
    patch_slots = (is_token(flat, config.image_token_id) & real.flatten()).nonzero()[:, 0]
    if len(patch_slots) != len(visual.pixel_values):
        raise ValueError(
            f"<vpatch> tokens: expected {len(visual.pixel_values)}, one per patch, got {len(patch_slots)}; "
            "they stand between <vision> and </vision> alone"
        )
    pooled = (is_token(flat, config.pooled_region_token_id) & real.flatten()).nonzero()[:, 0]
    if len(visual.pooled_tokens) and int(visual.pooled_tokens.max()) >= len(pooled):
        raise ValueError(
            f"pooled_tokens: expected numbers below {len(pooled)}, the tokens for regions in the text, "
            f"got {int(visual.pooled_tokens.max())}"
        )
    return StudentInputs(
        input_ids=input_ids,
        positions=positions.to(device),
        document=torch.where(real, numbers, -1),
        prefix=prefix,
        branch=torch.zeros_like(input_ids),
        patches=visual.pixel_values,
        patch_slots=patch_slots,
        patch_prompt_ids=visual.visual_prompt_ids,
        pooled_slots=pooled[visual.pooled_tokens],
        pooled_patches=visual.pooled_patches,
        grids=tuple(grids),
    )
