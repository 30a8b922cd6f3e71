"""Configurations that are refused, and what is said about it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipelines.scenes.config import KindWeights, ScenesConfig, SplitSizes
from pipelines.scenes.generate import scenes_key


def test_fewest_objects_above_most_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_objects 7 is more than max_objects 6"):
        ScenesConfig(min_objects=7)


def test_textures_are_named_once() -> None:
    with pytest.raises(ValidationError, match="each once"):
        ScenesConfig(textures=("plain", "plain"))


def test_some_kind_needs_a_weight() -> None:
    with pytest.raises(ValidationError, match="all weights of expression kinds are 0"):
        KindWeights(attribute=0, size=0, position=0, relation=0, texture=0)


def test_sizes_outside_the_range_are_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 64"):
        ScenesConfig(size_px=32)


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        SplitSizes.model_validate({"test": 3})


def test_every_field_is_described_and_changes_the_key() -> None:
    assert all(field.description for field in ScenesConfig.model_fields.values())
    keys = {scenes_key(ScenesConfig()), scenes_key(ScenesConfig(seed=1)), scenes_key(ScenesConfig(size_px=64))}
    assert len(keys) == 3
    assert scenes_key(ScenesConfig()) == scenes_key(ScenesConfig(seed=0))
