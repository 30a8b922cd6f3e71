"""Geometry and arithmetic of teacher preprocessing: exact sizes, exact pixel values.

A feature is only as exact as the pixels it was computed from, so the rules of the original
programs are kept to the last bit (`tests/parity/test_teacher_preprocessing.py`).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from storage.errors import UsageError

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "lookup_normalised",
    "nearest_short_side_size",
    "pad_to",
    "require_rgb",
    "resize_antialiased",
    "resize_to_unit",
    "round_up",
    "short_side_size",
    "subtract_and_divide",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green, blue on the 0-1 scale."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of red, green, blue on the 0-1 scale."""


def round_up(size_px: int, multiple_px: int) -> int:
    """The next multiple of `multiple_px` at or above `size_px`.

    >>> round_up(800, 32), round_up(1066, 32)
    (800, 1088)
    """
    return math.ceil(size_px / multiple_px) * multiple_px


def short_side_size(height_px: int, width_px: int, short_px: int, long_px: int) -> tuple[int, int]:
    """Size with the short side at `short_px`, or less where the long side would pass `long_px`.

    The rounding is that of the DETR line of models (transformers
    `image_transforms.get_size_with_aspect_ratio`, 5.23): the limit's own short side is rounded to
    an integer for the short side, but used unrounded for the long one.

    Args:
        height_px: height of the image, at least 1.
        width_px: width of the image, at least 1.
        short_px: wanted short side.
        long_px: upper limit of the long side.

    Returns:
        (height, width) in pixels, at least 1 each.

    Raises:
        UsageError: an image without pixels.

    >>> short_side_size(480, 640, 800, 1333)
    (800, 1066)
    """
    _require_pixels(height_px, width_px)
    short, long = min(height_px, width_px), max(height_px, width_px)
    target: int = short_px
    unrounded: float = short_px
    if long / short * short_px > long_px:
        unrounded = long_px * float(short) / float(long)
        target = round(unrounded)
    if short == target:
        return height_px, width_px
    # Same order of operations as the original: multiply, divide, cut off.
    other = int(unrounded * height_px / width_px) if width_px < height_px else int(unrounded * width_px / height_px)
    other, target = max(other, 1), max(target, 1)
    return (other, target) if width_px < height_px else (target, other)


def nearest_short_side_size(height_px: int, width_px: int, short_px: int, long_px: int) -> tuple[int, int]:
    """The same by detectron2's rule: sides are scaled in floats, and rounded to the nearest integer at the end.

    Source: facebookresearch/detectron2 `detectron2/data/transforms/augmentation_impl.py` at 02b5c4e,
    `ResizeShortestEdge.get_output_shape`.

    Args:
        height_px: height of the image, at least 1.
        width_px: width of the image, at least 1.
        short_px: wanted short side.
        long_px: upper limit of the long side.

    Returns:
        (height, width) in pixels, at least 1 each.

    Raises:
        UsageError: an image without pixels.

    >>> nearest_short_side_size(480, 640, 800, 1333)
    (800, 1067)
    """
    _require_pixels(height_px, width_px)
    scale = float(short_px) / min(height_px, width_px)
    height, width = (short_px, scale * width_px) if height_px < width_px else (scale * height_px, short_px)
    if max(height, width) > long_px:
        scale = long_px * 1.0 / max(height, width)
        height, width = height * scale, width * scale
    return max(int(height + 0.5), 1), max(int(width + 0.5), 1)


def _require_pixels(height_px: int, width_px: int) -> None:
    if min(height_px, width_px) < 1:
        raise UsageError(f"image size: expected at least 1 x 1 px, got {height_px} x {width_px}")


def require_rgb(image: Image.Image) -> None:
    """Refuses an image that isn't RGB, so that nobody converts twice or differently.

    Raises:
        UsageError: another mode, with the remedy.
    """
    if image.mode != "RGB":
        raise UsageError(f'teacher input: expected an RGB image, got mode {image.mode}; use image.convert("RGB")')


def _normalisation_table() -> np.ndarray:
    # 256 x 3 float32: rescaled in float64, rounded to float32, then normalised in float32, which is
    # the order of the image processors; a table keeps that rounding and is 4 times faster.
    scaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)[:, None]
    return (scaled - np.asarray(IMAGENET_MEAN, np.float32)) / np.asarray(IMAGENET_STD, np.float32)


_TABLE = _normalisation_table()


def lookup_normalised(image: Image.Image) -> Float[Tensor, "3 height width"]:
    """8-bit RGB to normalised float32, bit for bit as transformers' PIL image processors do it."""
    pixels = np.asarray(image, np.uint8)
    planes = [_TABLE[:, channel][pixels[:, :, channel]] for channel in range(3)]
    return torch.from_numpy(np.stack(planes))


_MEAN_255 = np.asarray([123.675, 116.280, 103.530], np.float32)
_STD_255 = np.asarray([58.395, 57.120, 57.375], np.float32)


def subtract_and_divide(image: Image.Image) -> Float[Tensor, "3 height width"]:
    """8-bit RGB to normalised float32 on the 0-255 scale, bit for bit as detectron2's models do it."""
    pixels = (np.asarray(image, np.uint8).astype(np.float32) - _MEAN_255) / _STD_255
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def pad_to(pixels: Float[Tensor, "3 height width"], height_px: int, width_px: int) -> Tensor:
    """Zeros on the right and below, after normalisation, as detectron2's `ImageList` pads."""
    return torch.nn.functional.pad(pixels, (0, width_px - pixels.shape[-1], 0, height_px - pixels.shape[-2]))


def resize_antialiased(image: Image.Image, height_px: int, width_px: int) -> Float[Tensor, "3 height width"]:
    """RGB in 0-1, stretched with antialiased bilinear on floats, then normalised (ImageNet).

    This is the transform of the SAM 2 image predictor (facebookresearch/sam2
    `sam2/utils/transforms.py`): to tensor, resize, normalise.
    """
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    return resize_to_unit(image, height_px, width_px).sub_(mean).div_(std)


def resize_to_unit(image: Image.Image, height_px: int, width_px: int) -> Float[Tensor, "3 height width"]:
    """RGB in 0-1, stretched with antialiased bilinear on floats."""
    pixels = torch.from_numpy(np.array(image, np.uint8)).permute(2, 0, 1).to(torch.float32).div(255)
    return torch.nn.functional.interpolate(
        pixels[None], size=(height_px, width_px), mode="bilinear", align_corners=False, antialias=True
    )[0]
