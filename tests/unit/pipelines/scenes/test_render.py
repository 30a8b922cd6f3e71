"""Pictures and masks: exact, disjoint, inside, and of the right colours."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.scenes import DrawnScene, ScenesConfig, draw_scene
from pipelines.scenes.chance import Chance
from pipelines.scenes.render import draw_masks, draw_picture, shape_distance_px
from pipelines.scenes.world import COLOURS, SHAPES, Scene, SceneObject


def _object(shape: str, **fields: object) -> SceneObject:
    values = {"colour": "red", "texture": "plain", "size": "large", "x": 0.5, "y": 0.5, "radius": 0.19}
    return SceneObject(shape=shape, **(values | {"rgb": (214, 36, 40)} | fields))  # type: ignore[arg-type]


def test_masks_are_disjoint_and_leave_the_border_free(scenes: list[DrawnScene]) -> None:
    for drawn in scenes:
        assert drawn.masks.dtype == np.bool_
        assert drawn.masks.sum(axis=0).max() == 1
        border = np.ones(drawn.masks.shape[1:], dtype=bool)
        border[1:-1, 1:-1] = False
        assert not (drawn.masks & border).any()


def test_later_objects_cover_earlier_ones() -> None:
    back, front = _object("circle"), _object("square", x=0.6, colour="blue")
    masks, whole = draw_masks(Scene("train", 0, (back, front)), 96)
    alone, _ = draw_masks(Scene("train", 0, (front,)), 96)
    assert (masks[1] == alone[0]).all()
    assert masks[0].sum() < whole[0]
    assert masks[1].sum() == whole[1]


@pytest.mark.parametrize("shape", SHAPES)
def test_mask_is_the_same_shape_at_every_size(shape: str) -> None:
    small, large = (draw_masks(Scene("train", 0, (_object(shape),)), size)[0][0].mean() for size in (64, 512))
    assert small == pytest.approx(large, rel=0.1)


def test_shapes_differ_at_fourteen_pixels() -> None:
    """Smallest objects (radius 6.7 px): circle and square overlap with IoU 0.83, no other pair with over 0.64."""
    axis = np.arange(-12, 12, dtype=np.float32) + 0.5
    masks = {shape: shape_distance_px(shape, axis[None, :], axis[:, None], 6.7) < 0 for shape in SHAPES}
    for one in SHAPES:
        for other in SHAPES:
            if one < other:
                overlap = (masks[one] & masks[other]).sum() / (masks[one] | masks[other]).sum()
                assert overlap < (0.85 if (one, other) == ("circle", "square") else 0.7)


def test_area_is_that_of_the_geometry() -> None:
    circle = draw_masks(Scene("train", 0, (_object("circle"),)), 512)[1][0]
    assert circle == pytest.approx(np.pi * (0.94 * 0.19 * 512) ** 2, rel=0.005)
    square = draw_masks(Scene("train", 0, (_object("square", rotation=0.2),)), 512)[1][0]
    assert square == pytest.approx((2 * 0.84 * 0.19 * 512) ** 2, rel=0.005)


def test_inside_of_an_object_has_its_colour_and_outside_the_background() -> None:
    scene = Scene("train", 0, (_object("square"),))
    picture = draw_picture(scene, 97, Chance("b"), "plain")
    assert (picture[44:52, 44:52] == (214, 36, 40)).all()
    assert len(np.unique(picture[:20, :20].reshape(-1, 3), axis=0)) == 1
    # Pixels that the edge crosses are blends.
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 2


def test_texture_darkens_about_half_and_keeps_the_hue() -> None:
    picture = draw_picture(Scene("train", 0, (_object("square", texture="striped"),)), 256, Chance("b"), "plain")
    inside = picture[100:156, 100:156].astype(int)
    dark = inside[..., 0] < 140
    assert 0.35 < dark.mean() < 0.65
    assert (inside[..., 0] >= inside[..., 1]).all()


def test_background_never_has_an_objects_colour() -> None:
    palette = np.array(list(COLOURS.values()), dtype=float)
    for index in range(40):
        picture = draw_picture(Scene("train", index, ()), 64, Chance(index), "textured").reshape(-1, 1, 3)
        assert np.linalg.norm(picture - palette, axis=2).min() > 40


def test_visible_pixels_are_nearest_to_their_own_colour(scenes: list[DrawnScene]) -> None:
    """Plain objects, pixels away from the edge."""
    names = list(COLOURS)
    palette = np.array(list(COLOURS.values()), dtype=float)
    for drawn in scenes[:60]:
        for item, mask in zip(drawn.scene.objects, drawn.masks, strict=True):
            inner = mask.copy()
            for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
                inner &= np.roll(mask, shift, axis)
            if item.texture == "plain" and inner.any():
                distance = np.linalg.norm(drawn.image[inner][:, None] - palette, axis=2)
                assert {names[best] for best in distance.argmin(axis=1)} == {item.colour}


@pytest.mark.parametrize("size_px", [64, 96, 512])
def test_pictures_of_every_size(size_px: int) -> None:
    drawn = draw_scene(ScenesConfig(size_px=size_px), "val", 1)
    assert drawn.image.shape == (size_px, size_px, 3)
    assert drawn.image.dtype == np.uint8
    assert drawn.masks.shape[1:] == (size_px, size_px)
