from __future__ import annotations

import pytest
import torch
from torch import nn

from storage.errors import DataError
from teachers.base import build_seeded, require_loaded, teacher_fingerprint, weights_key


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))


def test_weights_key_sees_names_shapes_types_and_bytes() -> None:
    base = build_seeded(_network, 0)
    same = build_seeded(_network, 0)
    assert weights_key(base) == weights_key(same)
    keys = {weights_key(base), weights_key(nn.ModuleList(base.children())), weights_key(build_seeded(_network, 1))}
    same.to(torch.bfloat16)
    keys.add(weights_key(same))
    flipped = build_seeded(_network, 0)
    with torch.no_grad():
        flipped[2].bias[3] += 1e-7
    keys.add(weights_key(flipped))
    # nn.ModuleList keeps the names of its children, so only that one repeats the first key.
    assert len(keys) == 4


def test_weights_key_takes_scalars_and_strided_tensors() -> None:
    holder = nn.Module()
    holder.register_buffer("step", torch.tensor(3))
    holder.register_buffer("turned", torch.arange(6.0).reshape(2, 3).t())
    straight = nn.Module()
    straight.register_buffer("step", torch.tensor(3))
    straight.register_buffer("turned", torch.arange(6.0).reshape(2, 3).t().contiguous())
    assert weights_key(holder) == weights_key(straight)


def test_fingerprint_covers_identity_weights_and_dtype() -> None:
    base = teacher_fingerprint({"kind": "a"}, "w", "float32")
    assert base == teacher_fingerprint({"kind": "a"}, "w", "float32")
    others = {
        teacher_fingerprint({"kind": "b"}, "w", "float32"),
        teacher_fingerprint({"kind": "a"}, "v", "float32"),
        teacher_fingerprint({"kind": "a"}, "w", "bfloat16"),
    }
    assert len(others | {base}) == 4


def test_random_weights_keep_the_scale_of_what_passes_through() -> None:
    layer = build_seeded(lambda: nn.Linear(4096, 64), 7)
    output = layer(torch.tensor([1.0, -1.0]).repeat(2048)[None]).detach()
    assert 0.6 < float(output.std()) < 1.6


def test_random_weights_ignore_and_keep_the_global_generator() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = build_seeded(_network, 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert weights_key(build_seeded(_network, 3)) == weights_key(first)


def test_missing_needed_weights_are_named() -> None:
    require_loaded("here", {"decoder.weight"}, ("encoder.",))
    with pytest.raises(DataError, match=r"checkpoint here: 2 weights .* first encoder\.a"):
        require_loaded("here", {"encoder.b", "encoder.a", "decoder.weight"}, ("encoder.",))
