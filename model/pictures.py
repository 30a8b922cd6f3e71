"""Pictures as users hand them over become RGB arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

__all__ = ["as_pictures", "as_rgb", "describe", "tensor_values"]

_CHANNELS = (1, 3, 4)
"""Lengths of an axis of channels: grey, RGB, RGBA."""
_SHOWN_CHARACTERS = 100
"""A text beyond that (a data URL, say) is cut in messages."""
_DEEP_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""PIL's modes of integers beyond 255."""


def as_rgb(image: object) -> NDArray[np.uint8]:
    """A picture as RGB in pixels, in the orientation that it is stored in.

    PIL images of every mode become RGB as PIL's own `convert` does it: alpha is dropped, a palette looked up.
    EXIF orientation is NOT applied, since masks and boxes of data sets refer to the stored pixels; whoever wants the
    upright picture hands over `PIL.ImageOps.exif_transpose(image)` and points at pixels of that. Images with more
    than 8 bits a channel (modes I, I;16 and F) are taken if their values are 0 to 255, where `convert` is exact or
    drops fractions; beyond, it would saturate, so that is refused.

    Arrays and tensors are (height, width) in grey, or have an axis of 1, 3 or 4 channels (grey, RGB, RGBA with alpha
    dropped). Where both the first and the last of three axes could be it, the last one is in a NumPy array
    and the first one in a torch tensor. uint8 counts from 0 to 255; floats count from 0 to 1 and are rounded to the
    nearest of 256 levels. Tensors may be on any device and carry gradients.

    Args:
        image: PIL image, NumPy array or torch tensor.

    Returns:
        uint8 RGB (height, width, 3), C-contiguous, row 0 at the top; what is all this already is returned as it is,
        without a copy.

    Raises:
        TypeError: neither of the three, or numbers of another type than uint8 and floats.
        ValueError: an array without axis of channels, a batch, no pixels, or values out of range.
    """
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if isinstance(image, Tensor):
        return _from_array(tensor_values(image), describe(image), is_channels_first=True)
    if isinstance(image, np.ndarray):
        return _from_array(np.asarray(cast("NDArray[Any]", image)), describe(image), is_channels_first=False)
    raise TypeError(
        f"expected a picture (PIL image, NumPy array or torch tensor), got {describe(image)}; {_remedy(image)}"
    )


def as_pictures(images: object) -> list[NDArray[np.uint8]]:
    """One picture, or a list or other sequence of them, as `as_rgb` gives them.

    Args:
        images: a picture, or a sequence of pictures, whose sizes may differ. Batches with four axes are refused.

    Returns:
        uint8 RGB (height, width, 3) of each; nothing for an empty sequence.

    Raises:
        TypeError: see `as_rgb`; within a sequence, the message begins with the picture's index.
        ValueError: likewise.
    """
    if not isinstance(images, Sequence) or isinstance(images, str | bytes | bytearray | memoryview):
        return [as_rgb(images)]
    pictures: list[NDArray[np.uint8]] = []
    for index, image in enumerate(cast("Sequence[object]", images)):
        try:
            pictures.append(as_rgb(image))
        except TypeError as error:
            raise TypeError(f"picture {index}: {error}") from error
        except ValueError as error:
            raise ValueError(f"picture {index}: {error}") from error
    return pictures


def tensor_values(tensor: Tensor) -> NDArray[Any]:
    """The values of a tensor on any device, detached; floats as float32 or float64, since NumPy has no bfloat16."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and tensor.dtype.itemsize < 8:
        tensor = tensor.float()
    return tensor.numpy()


def describe(value: object) -> str:
    """A value in a few words for a message: what it is, with type of numbers and size.

    >>> describe(np.zeros((2, 3), np.uint8))
    'a NumPy array of uint8 (2, 3)'
    """
    if isinstance(value, Image.Image):
        return f"a PIL image of mode {value.mode}, {value.height} px high and {value.width} px wide"
    if isinstance(value, Tensor):
        return f"a torch tensor of {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        array = cast("NDArray[Any]", value)
        return f"a NumPy array of {array.dtype} {array.shape}"
    if value is None:
        return "None"
    if isinstance(value, str):
        return f"the text {_cut(value)!r}"
    if isinstance(value, os.PathLike):
        return f"the path {_cut(str(cast('os.PathLike[str]', value)))!r}"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(cast('Sequence[object]', value))} bytes"
    return f"a value of type {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _remedy(value: object) -> str:
    if isinstance(value, str | os.PathLike):
        return "open it with PIL.Image.open first"
    if isinstance(value, bytes | bytearray | memoryview):
        return "open them with PIL.Image.open(io.BytesIO(data)) first"
    if isinstance(value, list | tuple):
        return "make an array of nested numbers with np.array(picture, np.uint8), and hand pictures over one by one"
    return "convert it to one of these first"


def _from_pil(image: Image.Image) -> NDArray[np.uint8]:
    given = describe(image)
    if min(image.size) < 1:
        raise ValueError(f"expected a picture with pixels, got {given}; leave it out")
    if image.mode == "F" or image.mode in _DEEP_GREY:
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 255):
            raise ValueError(
                f"expected values from 0 to 255, got values from {low} to {high} in {given}; scale them first, "
                "e.g. hand over np.asarray(image) / 65535 for a white of 65535"
            )
        if image.mode == "F" and 0 < high <= 1:
            raise ValueError(
                f"expected values from 0 to 255, got values from {low} to {high} in {given}, which would be "
                "black; hand over np.asarray(image), whose floats count from 0 to 1"
            )
        # What `convert` gives, but Pillow didn't always have a way from each of these modes.
        image = Image.fromarray(values.astype(np.uint8))
    if image.mode == "La":
        image = image.convert("LA")  # PIL has no direct way from there to RGB
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # the same colours as by the direct way, which warns
    return np.ascontiguousarray(image.convert("RGB"))


def _from_array(pixels: NDArray[Any], given: str, *, is_channels_first: bool) -> NDArray[np.uint8]:
    if pixels.ndim == 4:
        raise ValueError(f"expected one picture, got a batch, {given}; pass a list of its pictures: list(batch)")
    if pixels.dtype != np.uint8 and pixels.dtype.kind != "f":
        raise TypeError(f"expected uint8 from 0 to 255 or floats from 0 to 1, got {given}; {_number_remedy(pixels)}")
    pixels = _channels_last(pixels, given, is_channels_first=is_channels_first)
    if not pixels.size:
        raise ValueError(f"expected a picture with pixels, got {given}; leave it out")
    if pixels.dtype != np.uint8:
        pixels = _levels(pixels, given)
    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]
    return np.ascontiguousarray(pixels)


def _number_remedy(pixels: NDArray[Any]) -> str:
    if pixels.dtype.kind == "b":
        return "for a picture in black and white multiply by np.uint8(255); a mask belongs among the regions"
    if pixels.dtype.kind in "ui":
        return "convert values from 0 to 255 to uint8, or divide by the value of white"
    return "convert it to uint8 or float32"


def _channels_last(pixels: NDArray[Any], given: str, *, is_channels_first: bool) -> NDArray[Any]:
    if pixels.ndim == 2:
        return pixels[..., None]
    axes = (0, 2) if is_channels_first else (2, 0)
    axis = next((axis for axis in axes if pixels.ndim == 3 and pixels.shape[axis] in _CHANNELS), None)
    if axis is None:
        raise ValueError(
            f"expected (height, width), (height, width, channels) or (channels, height, width) with 1, 3 or 4 "
            f"channels, got {given}; choose or combine channels first"
        )
    return np.moveaxis(pixels, axis, 2)


def _levels(pixels: NDArray[Any], given: str) -> NDArray[np.uint8]:
    """Floats from 0 to 1 as uint8 levels."""
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        is_number = ~np.isnan(pixels)
        numbers = pixels[is_number]
        found = f"values from {float(numbers.min())} to {float(numbers.max())}" if numbers.size else "no number"
        if not is_number.all():
            found += f" and {int((~is_number).sum())} times NaN"
        raise ValueError(
            f"expected floats from 0 to 1, got {found} in {given}; divide by 255 where white is 255, undo a "
            "normalisation by mean and deviation, or np.clip what overshoots"
        )
    return np.rint(pixels.astype(np.promote_types(pixels.dtype, np.float32), copy=False) * 255).astype(np.uint8)
