"""What a piece of work costs, as PyTorch's own counter says; `model.flops` counts the student by its shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from model.flops import ForwardFlops
from storage.keys import Json

__all__ = ["counted_flops", "tera", "tera_by_part"]


def tera(flops: float) -> float:
    """In 1e12, to four digits."""
    return float(f"{flops / 1e12:.4g}")


def tera_by_part(flops: ForwardFlops) -> dict[str, Json]:
    """TFLOP of each part, and of all."""
    return {**{item.name: tera(getattr(flops, item.name)) for item in fields(flops)}, "total": tera(flops.total)}


def counted_flops(work: Callable[[], object]) -> int:
    """Operations of a forward pass as PyTorch counts them."""
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        work()
    return counter.get_total_flops()


def _cpu_attention(
    query_shape: tuple[int, ...], key_shape: tuple[int, ...], value_shape: tuple[int, ...], *_: object, **__: object
) -> int:
    """PyTorch counts fused attention of other devices only."""
    return sdpa_flop_count(query_shape, key_shape, value_shape)


_CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention}
