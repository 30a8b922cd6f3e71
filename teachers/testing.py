"""The contract that every teacher meets, as a suite to subclass (see tests/contract/test_teachers.py)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from teachers.base import Geometry, Teacher
from teachers.registry import TeacherConfig, parse_teacher

__all__ = ["TeacherSuite", "textured_image"]

BATCH_TOLERANCE = 2e-5
"""Largest difference between a batch and batch 1, relative to the features' standard deviation.

Measured on the tiny random teachers with batches of 2 to 16: at most 2.3e-6 (Mask2Former, where
matrix products of other shapes sum in another order) and 0 (SAM 2).
"""


def textured_image(height_px: int, width_px: int, seed: int = 0) -> Image.Image:
    """An RGB picture of colour gradients and noise, the same for the same arguments."""
    rng = np.random.default_rng([seed, height_px, width_px])
    rows, columns = np.mgrid[0:height_px, 0:width_px]
    waves = [np.sin(rows * rng.uniform(0.02, 0.4) + columns * rng.uniform(0.02, 0.4)) for _ in range(3)]
    pixels = 127 + 90 * np.stack(waves, axis=2) + rng.normal(0, 12, (height_px, width_px, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


class TeacherSuite:
    """Subclass it and set `config`, `changes` and `sizes_px`."""

    config: TeacherConfig
    """A small teacher, milliseconds per image."""
    changes: tuple[dict[str, object], ...]
    """Fields, each of which changes the features and so the fingerprint."""
    sizes_px: tuple[tuple[int, int], ...] = ((96, 96), (64, 96), (97, 61), (33, 200), (1, 1), (500, 20))
    """(height, width) of images to try."""

    @pytest.fixture(scope="class")
    @classmethod
    def teacher(cls) -> Teacher:
        """The teacher under test."""
        return cls.config.build()

    def test_meets_the_protocol(self, teacher: Teacher) -> None:
        """It has every member of the protocol."""
        assert isinstance(teacher, Teacher)
        assert isinstance(type(self).config, Geometry)
        assert teacher.num_channels > 0
        assert len(teacher.fingerprint) == 64

    def test_sizes_are_known_from_the_image_size_alone(self, teacher: Teacher) -> None:
        """Planned sizes equal the real ones."""
        for height, width in self.sizes_px:
            inputs = teacher.preprocess(textured_image(height, width))
            assert inputs.dtype == torch.float32
            assert tuple(inputs.shape) == (3, *teacher.input_size(height, width))
            assert type(self).config.input_size(height, width) == teacher.input_size(height, width)
            assert type(self).config.output_grid(height, width) == teacher.output_grid(height, width)
            features = teacher.forward(inputs[None])
            assert features.dtype == torch.float32
            assert tuple(features.shape) == (1, teacher.num_channels, *teacher.output_grid(height, width))
            assert bool(torch.isfinite(features).all())

    def test_batch_equals_batch_one(self, teacher: Teacher) -> None:
        """Features don't depend on the neighbours in the batch."""
        inputs = torch.stack([teacher.preprocess(textured_image(80, 96, seed)) for seed in range(5)])
        together = teacher.forward(inputs)
        alone = torch.cat([teacher.forward(row[None]) for row in inputs])
        assert float((together - alone).abs().max()) <= BATCH_TOLERANCE * float(together.std())

    def test_same_batch_gives_the_same_bits(self, teacher: Teacher) -> None:
        """A repeated batch, in a rebuilt teacher too, gives identical features, and no input is changed."""
        inputs = torch.stack([teacher.preprocess(textured_image(80, 96, seed)) for seed in range(3)])
        before = inputs.clone()
        first = teacher.forward(inputs)
        assert torch.equal(inputs, before)
        assert torch.equal(first, teacher.forward(inputs))
        assert torch.equal(first, type(self).config.build().forward(inputs))

    def test_features_depend_on_the_image(self, teacher: Teacher) -> None:
        """Different pictures differ by a good part of the features' spread."""
        inputs = torch.stack([teacher.preprocess(textured_image(96, 96, seed)) for seed in range(4)])
        features = teacher.forward(inputs)
        assert float((features - features.mean(0)).var()) > 0.1 * float(features.var())

    def test_no_gradient_is_kept(self, teacher: Teacher) -> None:
        """Features are constants to the student."""
        inputs = teacher.preprocess(textured_image(96, 96))[None].requires_grad_()
        assert not teacher.forward(inputs).requires_grad

    def test_building_leaves_the_global_generator_alone(self) -> None:
        """Random weights come from the seed, whatever the global generator's state."""
        torch.manual_seed(1)
        state = torch.get_rng_state()
        first = type(self).config.build()
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(2)
        assert type(self).config.build().fingerprint == first.fingerprint

    def test_fingerprint_follows_what_changes_the_features(self, teacher: Teacher) -> None:
        """Each changed field gives another fingerprint, and all of them differ."""
        fields = type(self).config.model_dump()
        fingerprints = {teacher.fingerprint}
        for change in type(self).changes:
            fingerprints.add(parse_teacher({**fields, **change}).build().fingerprint)
        assert len(fingerprints) == 1 + len(type(self).changes)

    def test_other_image_modes_are_refused(self, teacher: Teacher) -> None:
        """Grey and transparent images must be converted by whoever decodes them."""
        with pytest.raises(ValueError, match="expected an RGB image, got mode L"):
            teacher.preprocess(textured_image(32, 32).convert("L"))
