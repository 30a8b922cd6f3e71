"""What one asks a student by hand: the student, and the picture as viewers show it; errors say what to do."""

from __future__ import annotations

import os

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors import SafetensorError

from model.checkpoint import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, load_config
from model.pictures import as_rgb
from model.predictor import Predictor
from storage.errors import DataError, ObjectNotFound, UsageError
from storage.objects import Objects
from storage.pictures import open_picture

__all__ = ["load_predictor", "upright_image", "upright_rgb"]


def upright_image(name: str, file: bytes | str | os.PathLike[str]) -> Image.Image:
    """An image file in memory, upright as viewers show it.

    Args:
        name: what the message calls it.
        file: path, or the file's bytes.

    Raises:
        UsageError: no such file, or none that PIL can read.
    """
    try:
        with open_picture(file) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise UsageError(f"{name}: expected an image file, found none; correct the path") from None
    # PIL tells of broken files in all these ways.
    except (OSError, SyntaxError, ValueError) as error:
        # PIL names the object in memory that it was given.
        found = "another kind of file" if isinstance(error, UnidentifiedImageError) else error
        raise UsageError(
            f"{name}: expected an image that PIL can read, got: {found}; convert it to PNG or JPEG"
        ) from error


def upright_rgb(name: str, file: bytes | str | os.PathLike[str]) -> NDArray[np.uint8]:
    """`upright_image` as uint8 RGB (height, width, 3).

    Raises:
        UsageError: likewise, or more than 8 bits a channel.
    """
    image = upright_image(name, file)
    try:
        return as_rgb(image)
    except ValueError as error:
        raise UsageError(f"{name}: {error}; or save it with 8 bits a channel") from error


def load_predictor(checkpoint: str, device: str) -> Predictor:
    """A student that answers.

    Args:
        checkpoint: folder or URL.
        device: where it runs.

    Raises:
        UsageError: no such device, or no checkpoint of a student.
        ObjectNotFound: nothing there.
        DataError: a damaged one.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found = str(error).partition("\n")[0]
        raise UsageError(f"--device {device}: expected a device of this machine, got: {found}; try cpu") from error
    objects = Objects.open(checkpoint)
    expected = f"expected a folder or URL with {CONFIG_FILE}, {WEIGHTS_FILE} and {TOKENIZER_FILE} of a student"
    try:
        load_config(objects)
    except ObjectNotFound:
        raise ObjectNotFound(
            f"CHECKPOINT {checkpoint}: {expected}, found no {CONFIG_FILE}; `sailloft run RECIPE --dry-run` shows on "
            "the line of train where a recipe's checkpoint lies"
        ) from None
    except DataError as error:
        raise UsageError(f"CHECKPOINT {error}") from error
    except ValueError as error:
        raise UsageError(
            f"CHECKPOINT {checkpoint}: {expected}, got another {CONFIG_FILE}: {error}; name the folder of a student"
        ) from error
    try:
        return Predictor.load(objects, device)
    except ObjectNotFound as error:
        raise ObjectNotFound(f"CHECKPOINT {checkpoint}: {expected}, got: {error}") from error
    except SafetensorError as error:
        raise DataError(
            f"CHECKPOINT {checkpoint}: expected whole weights, got: {error}; copy or train them again"
        ) from error
