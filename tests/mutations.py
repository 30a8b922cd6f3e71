"""Damage to records: values of sources replaced by what no reader expects."""

from __future__ import annotations

import copy
import random

_NASTY: tuple[object, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**400, 1.5, float("nan"), float("inf"), "", " ", "\x00", "\ud800", "x" * 10_000,
    "../..", "<region1>", "<region999999>", "[SEG]", [], [[]], [None], [[float("nan")] * 6], [[1e308] * 8], {},
    {"size": [0, 0], "counts": ""}, {"size": [24, 32], "counts": [2**40]}, {"size": [64, 64], "counts": "\x7f" * 50},
    {"size": [1e9, 1e9], "counts": [0]}, [[[[[[[[0]]]]]]]], b"bytes",
)  # fmt: skip


def mutated(value: object, draw: random.Random) -> object:
    """The value with one place in it replaced, removed or repeated."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(sorted(value))
        if draw.random() < 0.15:
            return {name: item for name, item in value.items() if name != key}
        return value | {key: mutated(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.85:
        place = draw.randrange(len(value))
        if draw.random() < 0.15:
            return [*value, value[place]]
        return [*value[:place], mutated(value[place], draw), *value[place + 1 :]]
    return copy.deepcopy(draw.choice(_NASTY))
