"""How the ranks of a run share one step: replicas whose gradients are summed, or shards of the student.

Either way the update is that of a single process with the same global batch: gradients are sums over
the ranks, never means, since a conversation already counts by its share of the global batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from model.student import PixelSail
from pipelines.training.config import TrainingConfig

__all__ = ["Replicas", "Shards", "arrange", "full_weights", "is_sharded", "trained_parameters"]

Item = TypeVar("Item")


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that aren't frozen."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank holds only a part of a tensor."""
    return isinstance(tensor, DTensor)


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """The whole state dict on the CPU; every rank must ask, the first one gets it, of shards it alone."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found = cast("dict[str, Tensor]", get_model_state_dict(model, options=options))
    return {name: tensor.detach().clone() for name, tensor in found.items()}


@dataclass
class Replicas:
    """Every rank holds the whole student (`ddp`).

    Gradients are summed in one flat all-reduce behind the last micro-batch. torch's
    DistributedDataParallel would overlap that with the backward pass, but it takes means, wants the
    same parameters used in every rank and step (pictures without masks or teachers don't) and its
    buckets hold forward passes that go through `forward` alone; a step accumulates over many
    micro-batches anyway, of which only the last could overlap.
    """

    model: PixelSail
    rank: int = 0
    world_size: int = 1

    def padded(self, micro_batches: Sequence[Item]) -> list[tuple[Item, float]]:
        """The micro-batches that this rank runs, each with the weight of its loss."""
        return [(batch, 1.0) for batch in micro_batches]

    def begin_micro_batch(self, *, is_last: bool) -> None:
        """Is told before each forward pass whether gradients are complete behind it."""

    def sum_gradients(self) -> None:
        """Sums over the ranks what has not been summed on the way."""
        if self.world_size > 1:
            _sum_gradients(trained_parameters(self.model))

    def clip(self, bound: float) -> float:
        """Scales all gradients down to a global norm; returns the norm before."""
        return float(nn.utils.clip_grad_norm_(trained_parameters(self.model), bound))


@dataclass
class Shards(Replicas):
    """The matrices of the decoder layers and the embeddings are sharded over the ranks (`fsdp2`).

    One group per layer; the embeddings form the root's, which stays gathered from the forward pass
    to the backward pass, because the output embedding is used outside of it. What is small (norms,
    biases, patch embedding, mask head, distillation heads) is replicated: it is used outside of the
    forward pass as well, and by some micro-batches only, which sharded gradients couldn't tell
    from a gradient of zero.
    """

    _replicated: list[nn.Parameter] = field(init=False, repr=False)
    _sharded: list[nn.Parameter] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parameters = trained_parameters(self.model)
        self._sharded = [parameter for parameter in parameters if is_sharded(parameter)]
        self._replicated = [parameter for parameter in parameters if not is_sharded(parameter)]

    def padded(self, micro_batches: Sequence[Item]) -> list[tuple[Item, float]]:
        """Every rank gathers and reduces as often as the others: who has less repeats its last one for nothing."""
        counts = [0] * self.world_size
        distributed.all_gather_object(counts, len(micro_batches))
        last = list(micro_batches[-1:])
        if not min(counts):
            offered: list[Item | None] = [last[0] if self.rank == counts.index(max(counts)) else None]
            distributed.broadcast_object_list(offered, src=counts.index(max(counts)))
            last = last or cast("list[Item]", offered)
        return [(batch, 1.0) for batch in micro_batches] + [(last[0], 0.0)] * (max(counts) - len(micro_batches))

    def begin_micro_batch(self, *, is_last: bool) -> None:
        """Gradients are accumulated whole and scattered behind the last micro-batch."""
        root = cast("FSDPModule", self.model)
        root.set_requires_gradient_sync(is_last)
        root.set_is_last_backward(is_last)

    def sum_gradients(self) -> None:
        """Those of the shards are summed already."""
        if self._replicated:
            _sum_gradients(self._replicated)

    def clip(self, bound: float) -> float:
        """As of `Replicas`; the two kinds of gradients can't stand in one list."""
        norms = [nn.utils.get_total_norm(_gradients(group)) for group in (self._sharded, self._replicated)]
        whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
        norm = torch.linalg.vector_norm(torch.stack(whole))
        for group in (self._sharded, self._replicated):
            nn.utils.clip_grads_with_norm_(group, bound, norm)
        return float(norm)


def arrange(model: PixelSail, config: TrainingConfig, device: torch.device, rank: int, world_size: int) -> Replicas:
    """Arranges a student among the ranks as the recipe wants it; sharding happens in place.

    A run of a single process holds the whole student anyway.

    Args:
        model: the whole student, on its device, the same in every rank.
        config: names the way and the precision.
        device: of this rank.
        rank: number of this process.
        world_size: number of processes.
    """
    if config.parallel == "ddp" or world_size == 1:
        return Replicas(model, rank, world_size)
    mesh = init_device_mesh(device.type, (world_size,))
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = half if config.precision == "bfloat16" else MixedPrecisionPolicy()
    sharded = {id(p) for p in model.layers.parameters() if p.ndim >= 2} | {id(weight) for weight in _embeddings(model)}
    replicated = {parameter for parameter in model.parameters() if id(parameter) not in sharded}
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy, ignored_params=replicated)
    fully_shard(model, mesh=mesh, reshard_after_forward=False, ignored_params=replicated)
    for module in [model, *model.layers]:
        shard = cast("FSDPModule", module)
        shard.set_gradient_divide_factor(1.0)
        shard.set_force_sum_reduction_for_comms(True)  # gloo has no other
    cast("FSDPModule", model).set_reduce_scatter_unused_params(True, recurse=False)
    return Shards(model, rank, world_size)


def _embeddings(model: PixelSail) -> Iterable[Tensor]:
    yield model.embed_tokens.weight
    if model.lm_head is not None:
        yield model.lm_head.weight


def _sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Behind the gradients stands how many ranks have each: what none has stays without, as in one process."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    counts = torch.tensor([float(p.grad is not None) for p in parameters], device=gradients[0].device)
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), counts])
    distributed.all_reduce(flat)
    *parts, counts = flat.split([*(p.numel() for p in parameters), len(parameters)])
    for parameter, part, count in zip(parameters, parts, counts.tolist(), strict=True):
        parameter.grad = part.view_as(parameter) if count else None


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
