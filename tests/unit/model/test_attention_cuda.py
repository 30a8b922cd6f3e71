"""FlexAttention on CUDA against the dense mask, and a training step on packed rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.attention import AttentionPlan, DenseMask, FlexBlocks, Structure, flex_blocks, plan_attention, prefix_mask
from model.objective import LossWeights, TrainingBatch, compute_losses, training_batch
from model.packing import collate_packed
from model.processor import Processor
from model.student import PixelSail

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # torch's own compiler uses what torch has deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]


def structure() -> Structure:
    """Two rows: conversations with text, images and branches over several blocks of 128; padding behind one."""
    document, prefix, branch = (torch.full((2, 640), value) for value in (-1, -1, 0))
    document[0, :333], document[0, 333:600] = 0, 1
    prefix[0, 3:290], prefix[0, 340:420], prefix[0, 430:500] = 0, 1, 2
    branch[0, 300:315], branch[0, 315:333] = 1, 2
    document[1, :20], document[1, 20:] = 2, 3
    prefix[1, 20:500] = 3
    branch[1, 510:560], branch[1, 560:640] = 1, 2
    return Structure(document, prefix, branch).to("cuda")


def attended(plan: AttentionPlan, heads: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """What a plan gives, and the gradients of its mean square."""
    leaves = [part.clone().requires_grad_() for part in heads]
    found = plan.attend(leaves[0], leaves[1], leaves[2])
    found.square().mean().backward()
    return found.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)


@pytest.mark.parametrize("head_dim", [16, 64])
def test_blocks_give_what_the_dense_mask_gives(head_dim: int) -> None:
    """Grouped heads, in float32. A pair that is seen wrongly changes values of scale 1 by tenths."""
    where = structure()
    generator = torch.Generator("cuda").manual_seed(0)
    queries, keys, values = (
        torch.randn(2, heads, 640, head_dim, generator=generator, device="cuda") for heads in (4, 2, 2)
    )
    blocks = attended(flex_blocks(where), (queries, keys, values))
    dense = attended(DenseMask(prefix_mask(where)), (queries, keys, values))
    assert len(blocks) == len(dense) == 4
    for ours, expected in zip(blocks, dense, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_cuda_takes_blocks() -> None:
    assert isinstance(plan_attention(structure()), FlexBlocks)


@pytest.fixture
def packed(processor: Processor, picture: Callable[..., NDArray[np.uint8]]) -> TrainingBatch:
    """Two rows, one of a picture with a mask and of text, one of a picture with two masks."""
    rows = [
        [
            processor.encode(picture(24, 32, 1), [("segment the red square", "It is [SEG].")]),
            processor.encode(None, [("hello", "segment the blue ring")]),
        ],
        [processor.encode(picture(16, 24, 2), [("a", "[SEG]."), ("b", "No target [SEG].")], branched=True)],
    ]
    inputs, labels = collate_packed(rows, processor.tokenizer.end_of_text)
    masks = [torch.ones(1, 24, 32, dtype=torch.uint8), torch.zeros(2, 16, 24, dtype=torch.uint8)]
    return training_batch(inputs, labels, masks, {}, processor.tokenizer.seg)


def test_a_packed_step_gives_the_losses_of_the_cpu(student: PixelSail, packed: TrainingBatch) -> None:
    expected = compute_losses(student, packed, LossWeights()).total
    on_device = compute_losses(student.to("cuda"), packed.to("cuda"), LossWeights()).total
    torch.testing.assert_close(on_device.cpu(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_packed_step_in_half_precision(student: PixelSail, packed: TrainingBatch, checkpointing: bool) -> None:
    """Compiled layers are run by tests/benchmarks: jaxtyping's checks, which are on here, can't be compiled."""
    student.to("cuda").train()
    student.gradient_checkpointing = checkpointing
    batch = packed.to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        losses = compute_losses(student, batch, LossWeights())
    losses.total.backward()
    assert bool(losses.total.isfinite())
    for name, parameter in student.layers.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
