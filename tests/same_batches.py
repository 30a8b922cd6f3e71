"""Whether two batches are the same, whatever they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

import torch

__all__ = ["assert_same"]


def assert_same(found: object, expected: object) -> None:
    """Equal to the last bit, tensors and all; the seconds that they took don't count."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor)
        assert found.dtype == expected.dtype
        assert found.equal(expected)
    elif is_dataclass(expected):
        for item in fields(expected):
            if item.name != "seconds":
                assert_same(getattr(found, item.name), getattr(expected, item.name))
    elif isinstance(expected, Mapping):
        assert isinstance(found, Mapping)
        assert list(found) == list(expected)
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, tuple | list):
        assert isinstance(found, tuple | list)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected
