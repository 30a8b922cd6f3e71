"""Whole scenes: occlusion limits, determinism, configurations that can't be drawn."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.scenes import DrawnScene, ScenesConfig, draw_scene
from storage.errors import UsageError


def test_hidden_shares_stay_below_the_limit_and_occur(scenes: list[DrawnScene], config: ScenesConfig) -> None:
    hidden = [share for drawn in scenes for share in drawn.hidden_fractions]
    assert max(hidden) <= config.max_hidden_fraction
    assert min(hidden) >= 0
    # Measured: 0.16 of the objects are partly hidden.
    assert 0.1 < np.mean([share > 0 for share in hidden]) < 0.25


def test_every_object_stays_visible(scenes: list[DrawnScene], config: ScenesConfig) -> None:
    areas = [mask.sum() for drawn in scenes for mask in drawn.masks]
    assert min(areas) >= 0.003 * config.size_px**2


def test_no_occlusion_where_none_is_wanted() -> None:
    config = ScenesConfig(occlusion_share=0, size_px=64)
    assert all(max(draw_scene(config, "train", index).hidden_fractions) == 0 for index in range(30))


def test_drawing_twice_gives_the_same(config: ScenesConfig) -> None:
    one, other = draw_scene(config, "val", 17), draw_scene(config, "val", 17)
    assert (one.image == other.image).all()
    assert (one.masks == other.masks).all()
    assert one.expressions == other.expressions
    assert (one.image != draw_scene(config, "train", 17).image).any()


def test_impossible_scenes_are_named() -> None:
    weights = {"attribute": 0, "size": 0, "position": 0, "relation": 0, "texture": 1}
    config = ScenesConfig.model_validate({"size_px": 64, "weights": weights, "textures": ["plain"]})
    with pytest.raises(UsageError, match=r"no scene found for train/0 in 200 attempts \(.*with too few expressions"):
        draw_scene(config, "train", 0)
