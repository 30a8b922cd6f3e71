"""Scenes as sampled: distractors, room, determinism."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from pydantic import ValidationError

from pipelines.scenes import DrawnScene, ScenesConfig
from pipelines.scenes.world import COLOURS, SHAPES, SIZES, sample_scene


@pytest.mark.parametrize(
    ("radii", "complaint"),
    [
        ({"small": (0.1, 0.12), "large": (0.179, 0.2)}, "told apart"),
        ({"small": (0.09, 0.07)}, "from least to most"),
        ({"large": (0.2, 0.5)}, "from least to most"),
    ],
)
def test_radii_that_make_no_sense_are_refused(radii: dict[str, tuple[float, float]], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        ScenesConfig.model_validate({"splits": {"train": 1}, "radii": radii})


def test_radii_follow_the_recipe() -> None:
    config = ScenesConfig.model_validate(
        {"splits": {"train": 1}, "radii": {"small": (0.1, 0.12), "large": (0.18, 0.2)}}
    )
    wanted = {"small": config.radii.small, "large": config.radii.large}
    sampled = [scene for index in range(20) if (scene := sample_scene(config, "train", index)) is not None]
    assert sampled
    for item in (item for scene in sampled for item in scene.objects):
        least, most = wanted[item.size]
        assert least <= item.radius <= most


def test_sizes_have_a_clear_gap(scenes: list[DrawnScene]) -> None:
    radii = {size: [o.radius for scene in scenes for o in scene.scene.objects if o.size == size] for size in SIZES}
    assert min(radii["large"]) >= 1.5 * max(radii["small"])


def test_colours_are_well_separated() -> None:
    for one, other in itertools.combinations(COLOURS.values(), 2):
        assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 85


def test_number_of_objects_covers_the_range(scenes: list[DrawnScene]) -> None:
    assert {len(drawn.scene.objects) for drawn in scenes} == set(range(3, 10))


def test_all_shapes_colours_textures_and_sizes_occur_about_evenly(scenes: list[DrawnScene]) -> None:
    objects = [item for drawn in scenes for item in drawn.scene.objects]
    for words, name in ((SHAPES, "shape"), (tuple(COLOURS), "colour")):
        shares = [sum(getattr(item, name) == word for item in objects) / len(objects) for word in words]
        assert min(shares) > 0.08
        assert max(shares) < 0.18
    assert {item.texture for item in objects} == {"plain", "striped", "dotted"}
    assert sum(item.size == "large" for item in objects) / len(objects) == pytest.approx(0.42, abs=0.1)


def test_most_objects_share_colour_with_one_and_shape_with_another(scenes: list[DrawnScene]) -> None:
    """Measured: 0.94 share their colour with another, 0.94 their shape, 0.88 both."""
    num_objects = num_colour = num_shape = num_both = 0
    for drawn in scenes:
        for item in drawn.scene.objects:
            others = [other for other in drawn.scene.objects if other is not item]
            num_objects += 1
            colour = any(other.colour == item.colour for other in others)
            shape = any(other.shape == item.shape for other in others)
            num_colour, num_shape, num_both = num_colour + colour, num_shape + shape, num_both + (colour and shape)
    assert num_colour / num_objects > 0.9
    assert num_shape / num_objects > 0.9
    assert num_both / num_objects > 0.83


def test_equal_colours_never_touch(scenes: list[DrawnScene]) -> None:
    for drawn in scenes:
        for one, other in itertools.combinations(range(len(drawn.scene.objects)), 2):
            if drawn.scene.objects[one].colour == drawn.scene.objects[other].colour:
                grown = sum(np.roll(drawn.masks[one], shift, axis) for shift in (-1, 1) for axis in (0, 1)) > 0
                assert not (grown & drawn.masks[other]).any()


def test_scenes_follow_from_seed_split_index_and_attempt(config: ScenesConfig) -> None:
    assert sample_scene(config, "train", 5) == sample_scene(config, "train", 5)
    others = [
        sample_scene(config, "val", 5),
        sample_scene(config, "train", 6),
        sample_scene(config, "train", 5, attempt=1),
        sample_scene(config.model_copy(update={"seed": 1}), "train", 5),
    ]
    assert sample_scene(config, "train", 5) not in others


def test_one_texture_gives_objects_of_that_texture() -> None:
    config = ScenesConfig(textures=("plain",))
    scenes = [scene for index in range(20) if (scene := sample_scene(config, "train", index)) is not None]
    assert {item.texture for scene in scenes for item in scene.objects} == {"plain"}
