"""Pictures of every kind as RGB."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms

from model.pictures import as_pictures, as_rgb, describe, tensor_values

RGB = np.random.default_rng(0).integers(0, 256, (7, 10, 3), np.uint8)
GREY = RGB[..., 1].copy()
ALPHA = np.random.default_rng(1).integers(0, 256, (7, 10, 1), np.uint8)
RGBA = np.concatenate([RGB, ALPHA], 2)


def spread(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([grey, grey, grey], -1)


def check(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


def merged(mode: str, channels: NDArray[np.uint8]) -> Image.Image:
    return Image.merge(mode, [Image.fromarray(channel) for channel in np.moveaxis(channels, 2, 0).copy()])


def lookup(palette: Image.Image) -> NDArray[np.uint8]:
    colours = palette.getpalette("RGB")
    assert colours is not None
    return np.array(colours, np.uint8).reshape(-1, 3)[np.asarray(palette)]


def palette(transparency: bytes | int | None = None) -> Image.Image:
    image = Image.fromarray(RGB).quantize(6)
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.fromarray(RGB), RGB, id="RGB"),
        pytest.param(Image.fromarray(GREY), spread(GREY), id="L"),
        pytest.param(Image.fromarray(GREY > 99), spread(np.where(GREY > 99, 255, 0).astype(np.uint8)), id="1"),
        pytest.param(Image.fromarray(RGBA), RGB, id="RGBA"),
        pytest.param(Image.fromarray(RGBA[..., [1, 3]]), spread(GREY), id="LA"),
        pytest.param(Image.fromarray(GREY.astype(np.int32)), spread(GREY), id="I"),
        pytest.param(Image.fromarray(GREY.astype(np.uint16)), spread(GREY), id="I;16"),
        pytest.param(Image.fromarray(GREY.astype(">u2")), spread(GREY), id="I;16B"),
        pytest.param(Image.fromarray(GREY.astype(np.float32)), spread(GREY), id="F"),
        pytest.param(palette(), lookup(palette()), id="P"),
        pytest.param(palette(3), lookup(palette()), id="P-transparent-colour"),
        pytest.param(palette(b"\x00\x80\xff"), lookup(palette()), id="P-transparent-bytes"),
    ],
)
def test_pil_images_of_every_kind(image: Image.Image, expected: NDArray[np.uint8]) -> None:
    check(as_rgb(image), expected)


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa", "RGBX", "YCbCr", "HSV", "LAB", "I;16L"])
def test_rarer_modes_are_taken(mode: str) -> None:
    found = as_rgb(Image.new(mode, (5, 3)))
    assert (found.shape, found.dtype) == ((3, 5, 3), np.uint8)


def test_inks_take_their_share_of_white() -> None:
    image = merged("CMYK", 255 - RGBA)
    paper = 1 - np.asarray(image).astype(float) / 255
    np.testing.assert_allclose(as_rgb(image).astype(float), 255 * paper[..., :3] * paper[..., 3:], atol=1)


def test_colours_of_ycbcr_and_lab_come_back() -> None:
    neutral = np.full_like(GREY, 128)
    check(as_rgb(merged("YCbCr", np.stack([GREY, neutral, neutral], -1))), spread(GREY))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    there = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    red = ImageCms.applyTransform(Image.new("RGB", (2, 2), (200, 30, 30)), there)
    assert red is not None
    np.testing.assert_allclose(as_rgb(red).astype(int), np.full((2, 2, 3), (200, 30, 30)), atol=4)


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees when shown
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        assert image.getexif()[0x0112] == 6
        check(as_rgb(image), RGB)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        pytest.param(RGB, RGB, id="height-width-3"),
        pytest.param(GREY, spread(GREY), id="height-width"),
        pytest.param(GREY[..., None], spread(GREY), id="height-width-1"),
        pytest.param(RGBA, RGB, id="height-width-4"),
        pytest.param(RGB.transpose(2, 0, 1), RGB, id="3-height-width"),
        pytest.param(GREY[None], spread(GREY), id="1-height-width"),
        pytest.param(RGBA.transpose(2, 0, 1), RGB, id="4-height-width"),
        pytest.param(RGB[::-1, ::-2], RGB[::-1, ::-2], id="negative-strides"),
        pytest.param((RGB / 255), RGB, id="float64"),
        pytest.param((RGB / 255).astype(np.float32), RGB, id="float32"),
        pytest.param((RGB / 255).astype(np.float16), RGB, id="float16"),
        pytest.param((RGBA / 255).astype(">f4"), RGB, id="float32-big-endian"),
        pytest.param((GREY / 255)[None], spread(GREY), id="float-grey"),
        pytest.param(np.ma.masked_equal(RGB, 0), RGB, id="masked-array"),
    ],
)
def test_arrays(array: NDArray[np.generic], expected: NDArray[np.uint8]) -> None:
    before = array.copy()
    check(as_rgb(array), expected)
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        pytest.param(torch.from_numpy(RGB).permute(2, 0, 1), RGB, id="3-height-width"),
        pytest.param(torch.from_numpy(GREY)[None], spread(GREY), id="1-height-width"),
        pytest.param(torch.from_numpy(RGBA).permute(2, 0, 1), RGB, id="4-height-width"),
        pytest.param(torch.from_numpy(GREY), spread(GREY), id="height-width"),
        pytest.param(torch.from_numpy(RGB), RGB, id="height-width-3"),
        pytest.param(torch.from_numpy(RGBA), RGB, id="height-width-4"),
        pytest.param(torch.from_numpy(RGB / 255), RGB, id="float64"),
        pytest.param(torch.from_numpy(RGB / 255).float().permute(2, 0, 1), RGB, id="float32"),
        pytest.param(torch.from_numpy(RGB / 255).half().permute(2, 0, 1), RGB, id="float16"),
        pytest.param(torch.from_numpy(RGB / 255).permute(2, 0, 1).requires_grad_(), RGB, id="with-gradient"),
        pytest.param(torch.nn.Parameter(torch.from_numpy(RGB / 255)), RGB, id="parameter"),
    ],
)
def test_tensors(tensor: torch.Tensor, expected: NDArray[np.uint8]) -> None:
    check(as_rgb(tensor), expected)


def test_bfloat16_is_as_near_as_its_eight_bits_allow() -> None:
    levels = torch.tensor([[0.0, 0.25, 0.5, 1.0]], dtype=torch.bfloat16)
    check(as_rgb(levels), spread(np.array([[0, 64, 128, 255]], np.uint8)))


@pytest.mark.gpu
def test_tensors_on_an_accelerator() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an accelerator")
    check(as_rgb(torch.from_numpy(RGB).permute(2, 0, 1).cuda()), RGB)


def test_of_two_possible_axes_numpy_takes_the_last_and_torch_the_first() -> None:
    cube = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    check(as_rgb(cube), cube)
    check(as_rgb(torch.from_numpy(cube)), cube.transpose(1, 2, 0))
    narrow = np.arange(3 * 6 * 1, dtype=np.uint8).reshape(3, 6, 1)
    check(as_rgb(narrow), spread(narrow[..., 0]))
    check(as_rgb(torch.from_numpy(narrow)), narrow.transpose(1, 2, 0))


def test_floats_are_rounded_to_the_nearest_level() -> None:
    values = np.array([[0, 0.4, 0.6, 99.4, 99.6, 254.6, 255]]) / 255
    expected = spread(np.array([[0, 0, 1, 99, 100, 255, 255]], np.uint8))
    for given in (values, values.astype(np.float32), torch.from_numpy(values)):
        check(as_rgb(given), expected)


def test_one_pixel_is_a_picture() -> None:
    check(as_rgb(np.array([[7]], np.uint8)), np.full((1, 1, 3), 7, np.uint8))


def test_all_kinds_of_one_picture_are_equal() -> None:
    kinds = [Image.fromarray(RGB), RGB, RGB / 255, torch.from_numpy(RGB).permute(2, 0, 1), Image.fromarray(RGBA)]
    for found in as_pictures(kinds):
        check(found, RGB)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            "x.jpg",
            r"^expected a picture \(PIL image, NumPy array or torch tensor\), got the text 'x.jpg'; open it with ",
        ),
        ("a" * 5000, r"got the text 'a{100}\.\.\.'; open it with PIL.Image.open first$"),
        (Path("a/x.png"), r"got the path 'a/x.png'; open it with PIL.Image.open first"),
        (b"\xff\xd8\xff", r"got 3 bytes; open them with PIL.Image.open\(io.BytesIO\(data\)\) first"),
        (None, "got None; convert it to one of these first"),
        (7, "got a value of type int; convert it"),
        ({"image": RGB}, "got a value of type dict; convert it"),
        ([RGB], "got a value of type list; make an array of nested numbers .* hand pictures over one by one"),
        (
            GREY > 9,
            r"expected uint8 .* or floats .*, got a NumPy array of bool \(7, 10\); .*mask belongs among the reg",
        ),
        (torch.zeros(4, 5, dtype=torch.bool), r"got a torch tensor of bool \(4, 5\); .*multiply by np.uint8\(255\)"),
        (RGB.astype(np.int64), r"got a NumPy array of int64 \(7, 10, 3\); convert values from 0 to 255 to uint8, or"),
        (torch.zeros(3, 4, 5, dtype=torch.int32), r"got a torch tensor of int32 \(3, 4, 5\); convert values from 0"),
        (RGB.astype(np.complex64), r"got a NumPy array of complex64 \(7, 10, 3\); convert it to uint8 or float32"),
        (np.array([[None]]), r"got a NumPy array of object \(1, 1\); convert it to uint8"),
    ],
)
def test_other_types_are_refused(image: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        as_rgb(image)


LAYOUTS = r"expected \(height, width\), \(height, width, channels\) or \(channels, height, width\)"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros(3, np.uint8), rf"{LAYOUTS} .*got a NumPy array of uint8 \(3,\); choose or combine channels"),
        (np.zeros((), np.uint8), rf"{LAYOUTS} .*got a NumPy array of uint8 \(\); "),
        (np.zeros((7, 8, 5), np.uint8), rf"{LAYOUTS} with 1, 3 or 4 channels, got a NumPy array of uint8 \(7, 8, 5\)"),
        (torch.zeros(2, 8, 5), rf"{LAYOUTS} .*got a torch tensor of float32 \(2, 8, 5\); choose"),
        (np.zeros((1, 1, 4, 4, 3), np.uint8), rf"{LAYOUTS} .*got a NumPy array of uint8 \(1, 1, 4, 4, 3\)"),
        (RGB[None], r"expected one picture, got a batch, a NumPy array of uint8 \(1, 7, 10, 3\); pass a list .*list\("),
        (torch.zeros(2, 3, 4, 5), r"got a batch, a torch tensor of float32 \(2, 3, 4, 5\); pass a list of its pict"),
        (RGB[:0], r"expected a picture with pixels, got a NumPy array of uint8 \(0, 10, 3\); leave it out"),
        (RGB[:, :0], r"expected a picture with pixels, got a NumPy array of uint8 \(7, 0, 3\)"),
        (np.zeros((0, 0)), r"expected a picture with pixels, got a NumPy array of float64 \(0, 0\)"),
        (torch.zeros(3, 0, 5), r"expected a picture with pixels, got a torch tensor of float32 \(3, 0, 5\)"),
        (Image.new("RGB", (0, 5)), "with pixels, got a PIL image of mode RGB, 5 px high and 0 px wide; leave it out"),
        (
            RGB.astype(np.float32),
            r"expected floats from 0 to 1, got values from 0.0 to 249.0 in a NumPy .*divide by 255",
        ),
        (np.array([[-0.5, 0.5]]), r"got values from -0.5 to 0.5 in a NumPy array of float64 \(1, 2\); .*undo a norm"),
        (np.array([[0.25, 1.0 + 1e-9]]), r"got values from 0.25 to 1.000000001 in .*np.clip what overshoots"),
        (np.array([[0.25, np.nan, 0.5]]), r"got values from 0.25 to 0.5 and 1 times NaN in a NumPy array"),
        (np.full((2, 2), np.nan), "got no number and 4 times NaN in a NumPy array"),
        (torch.tensor([[0.0, torch.inf]]), "got values from 0.0 to inf in a torch tensor"),
        (torch.tensor([[0.0, 2.0]], dtype=torch.bfloat16), "got values from 0.0 to 2.0 in a torch tensor of bfloat16"),
        (Image.fromarray(np.array([[0, 40_000]], np.uint16)), r"from 0 to 255, got .* from 0.0 to 40000.0 .*mode I;16"),
        (
            Image.fromarray(np.array([[-1, 9]], np.int32)),
            r"got values from -1.0 to 9.0 in a PIL image of mode I, .*scale",
        ),
        (Image.fromarray(np.array([[0, np.nan]], np.float32)), "got values from nan to nan in a PIL image of mode F"),
        (
            Image.fromarray(np.array([[0, 0.7]], np.float32)),
            r"would be black; hand over np.asarray\(image\), whose float",
        ),
    ],
)
def test_other_shapes_and_values_are_refused(image: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_rgb(image)


@pytest.mark.parametrize("mode", ["I", "I;16", "F"])
def test_deep_images_are_what_convert_says(mode: str) -> None:
    image = Image.fromarray(GREY).convert(mode)
    check(as_rgb(image), np.asarray(image.convert("RGB")))
    fractions = Image.fromarray(np.array([[0, 0.6, 99.4, 254.9, 255]], np.float32))
    check(as_rgb(fractions), np.asarray(fractions.convert("RGB")))


def test_the_remedies_for_deep_images_work() -> None:
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    check(as_rgb(np.asarray(deep) / 65535), spread(GREY))
    check(as_rgb(np.asarray(Image.fromarray((GREY / 255).astype(np.float32)))), spread(GREY))


def test_a_black_image_of_floats_is_no_mistake() -> None:
    check(as_rgb(Image.new("F", (4, 2))), np.zeros((2, 4, 3), np.uint8))


def test_palettes_with_transparency_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = as_rgb(palette(b"\x00\x80\xff"))
    assert found.dtype == np.uint8
    assert found.shape[-1] == 3


@pytest.mark.parametrize("one", [Image.fromarray(RGB), RGB, torch.from_numpy(RGB).permute(2, 0, 1)])
def test_one_picture_becomes_a_list_of_one(one: object) -> None:
    (found,) = as_pictures(one)
    check(found, RGB)


@pytest.mark.parametrize("kind", [list, tuple])
def test_sequences_keep_order_and_sizes(kind: Callable[[list[object]], object]) -> None:
    found = as_pictures(kind([RGB, Image.fromarray(GREY[:3]), torch.from_numpy(RGB[2:] / 255)]))
    for picture, expected in zip(found, [RGB, spread(GREY[:3]), RGB[2:]], strict=True):
        check(picture, expected)


def test_no_pictures() -> None:
    assert as_pictures([]) == []


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ("x.jpg", TypeError, "^expected a picture .*got the text 'x.jpg'; open it"),
        (b"GIF", TypeError, "^expected a picture .*got 3 bytes; open them"),
        (["x.jpg", RGB], TypeError, "^picture 0: expected a picture .*got the text 'x.jpg'; open it"),
        ([RGB, [RGB]], TypeError, "^picture 1: expected a picture .*got a value of type list"),
        ([RGB, None], TypeError, "^picture 1: expected a picture .*got None"),
        ([RGB, RGB, RGB.astype(float)], ValueError, "^picture 2: expected floats from 0 to 1, got values from"),
        ({RGB.tobytes(): RGB}, TypeError, "got a value of type dict"),
        (np.stack([RGB, RGB]), ValueError, "got a batch, a NumPy array .*pass a list of its pictures"),
        (torch.zeros(2, 3, 4, 5), ValueError, "got a batch, a torch tensor .*pass a list of its pictures"),
    ],
)
def test_sequences_name_the_picture_that_is_wrong(images: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_pictures(images)


def test_the_remedy_for_a_batch_works() -> None:
    batch = torch.from_numpy(np.stack([RGB, RGB[::-1]])).permute(0, 3, 1, 2)
    first, second = as_pictures(list(batch))
    check(first, RGB)
    check(second, RGB[::-1])


def test_values_of_tensors() -> None:
    assert tensor_values(torch.ones(2, dtype=torch.bfloat16, requires_grad=True)).dtype == np.float32
    assert tensor_values(torch.ones(2, dtype=torch.float64)).dtype == np.float64
    assert tensor_values(torch.ones(2, dtype=torch.int16)).dtype == np.int16


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Image.new("L", (4, 2)), "a PIL image of mode L, 2 px high and 4 px wide"),
        (np.zeros((2, 3), np.uint8), "a NumPy array of uint8 (2, 3)"),
        (torch.zeros(2, 3), "a torch tensor of float32 (2, 3)"),
        (bytearray(5), "5 bytes"),
        (0.5, "a value of type float"),
    ],
)
def test_values_in_words(value: object, words: str) -> None:
    assert describe(value) == words
