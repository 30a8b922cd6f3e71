"""Training tokens per second: the same conversations in packed rows over padded batches."""

from __future__ import annotations

import itertools
import logging
import math
import statistics
from collections.abc import Sequence
from typing import TypeVar

import torch

from model.attention import Structure
from model.config import DistillationHead, StudentConfig
from model.flops import attended_pairs, student_flops
from model.objective import LossWeights, TrainingBatch, compute_losses
from model.packing import pack
from model.student import PixelSail
from storage.keys import Json
from tests.benchmarks.measuring import Figures, Options, alternate, compared_times, fixed_threads, judged, machine
from tests.benchmarks.student_counts import tera
from tests.benchmarks.student_workloads import (
    MIXED_LENGTHS,
    LengthMixture,
    Points,
    SampleMaker,
    histogram,
    mixed_lengths,
    mixed_samples,
    seeded_student,
    shape_of,
    tiny_student,
    training_batch_of,
)

__all__ = ["TARGET", "packed_vs_padded"]

TARGET = 1.6
_SEED = 22
"""With it twenty conversations have the padding of a long stream (`tokens_by_batch_size`): 2.15 to its 2.14."""
_RTOL = 1e-4
"""Agreement of both sides' losses; measured 3e-7."""

_Item = TypeVar("_Item")

logger = logging.getLogger(__name__)


def narrow_student() -> StudentConfig:
    """The 0.5B shape (24 layers, SwiGLU of 5.4 widths, vocabulary of 170) with every width divided by seven.

    So the parts cost in proportion what they cost there: a shallow student would spend on its mask head,
    where there is no padding, what a deep one spends in its layers.
    """
    return StudentConfig(
        vocab_size=21_760,
        hidden_size=128,
        intermediate_size=696,
        num_layers=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        mask_dim=72,
        distillation=(
            DistillationHead(teacher="mask2former", num_channels=256, source="mask_features"),
            DistillationHead(teacher="sam2", num_channels=256, source="patches"),
        ),
    )


def packed_vs_padded(options: Options) -> Figures:
    """Both sides run all conversations once, batch by batch: forward pass, losses, backward pass.

    A packed batch is `rows_per_batch` rows filled by `pack`, 8,192 tokens together, the longest row of
    the published training; a padded one takes, in the drawn order, as many conversations as a packed one
    holds on average. Batches are made beforehand, as the feed does; what the step itself does with them
    (such as planning attention) is timed. How much padding there is depends on the size of batches:
    `tokens_by_batch_size` counts it.
    """
    config, mixture, num_samples = narrow_student(), MIXED_LENGTHS, 20
    row_tokens, rows_per_batch = 4_096, 2
    if options.tiny:
        config, num_samples, row_tokens = tiny_student(), 8, 128
        mixture = LengthMixture(side_patches=(2, 6), text_tokens=(20, 60))
    maker = SampleMaker(config, _SEED)
    samples = mixed_samples(maker, mixture, num_samples, _SEED)
    rows = [[samples[number] for number in row] for row in pack([s.num_tokens for s in samples], row_tokens)]
    packed = _split(rows, rows_per_batch)
    padded = [[[sample] for sample in part] for part in _in_parts(samples, len(packed))]
    sides = {
        name: [training_batch_of(batch, maker.tokenizer) for batch in batches]
        for name, batches in (("packed", packed), ("padded", padded))
    }
    student = seeded_student(config, _SEED).train()
    repeats = options.times(5)
    with fixed_threads(options.num_threads):
        losses = {name: epoch_loss(student, batches) for name, batches in sides.items()}
        logger.info("losses agree: %s", losses)
        assert math.isclose(losses["packed"], losses["padded"], rel_tol=_RTOL), losses
        seconds = alternate(
            {
                "packed": lambda: epoch_loss(student, sides["packed"], backward=True),
                "padded": lambda: epoch_loss(student, sides["padded"], backward=True),
            },
            repeats,
            options.warmups,
        )
    num_tokens = sum(sample.num_tokens for sample in samples)
    rates = {name: taken.rates(num_tokens) for name, taken in seconds.items()}
    figures, ratio = compared_times(rates, "tokens/s", ("packed", "padded"))
    workload: dict[str, Json] = {
        "seed": _SEED,
        "student": shape_of(config),
        "num_samples": num_samples,
        "num_tokens": num_tokens,
        "tokens_per_sample": histogram([s.num_tokens for s in samples], [0, 100, 200, 400, 600, 800, 1000, 1300]),
        "patches_per_picture": histogram(
            [s.num_patches for s in samples if s.num_patches], [0, 100, 200, 400, 600, 901]
        ),
        "text_only": sum(not s.num_patches for s in samples),
        "masks": sum(0 if s.masks is None else len(s.masks) for s in samples),
        "row_tokens": row_tokens,
        "packed": _side(config, sides["packed"]),
        "padded": _side(config, sides["padded"]),
        "tokens_by_batch_size": _tokens_by_batch_size(mixture, row_tokens),
        "tflop_per_sample": tera(_flops(config, sides["packed"])[0] / num_samples),
    }
    return {
        "workload": workload,
        "machine": machine(options, repeats),
        "checks": {"loss_packed": losses["packed"], "loss_padded": losses["padded"], "rtol": _RTOL},
        **figures,
        "ratio": judged(ratio, at_least=TARGET),
    }


def epoch_loss(student: PixelSail, batches: Sequence[tuple[TrainingBatch, Points]], *, backward: bool = False) -> float:
    """Mean loss of the conversations of all batches; with `backward`, gradients are computed batch by batch."""
    total = num_documents = 0.0
    with torch.set_grad_enabled(backward):
        for batch, points in batches:
            student.zero_grad(set_to_none=True)
            loss = compute_losses(student, batch, LossWeights(), points).total
            if backward:
                loss.backward()
            total += float(loss.detach()) * batch.num_documents
            num_documents += batch.num_documents
    return total / num_documents


def _split(items: Sequence[_Item], size: int) -> list[list[_Item]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _in_parts(items: Sequence[_Item], num_parts: int) -> list[list[_Item]]:
    """Neighbouring items in parts of about equal numbers."""
    edges = [round(len(items) * part / num_parts) for part in range(num_parts + 1)]
    return [list(items[start:stop]) for start, stop in itertools.pairwise(edges)]


def _tokens_by_batch_size(mixture: LengthMixture, row_tokens: int) -> dict[str, Json]:
    """Tokens laid out for each real one in a stream of conversations, by the tokens of a packed batch."""
    lengths = [one.num_tokens for one in mixed_lengths(mixture, 40 * row_tokens // 400, _SEED)]
    found: dict[str, Json] = {}
    for batch_tokens in (row_tokens // 2, row_tokens, 2 * row_tokens, 4 * row_tokens):
        if batch_tokens < max(lengths):
            continue
        rows = pack(lengths, min(batch_tokens, row_tokens))
        packed = len(rows) * min(batch_tokens, row_tokens)
        parts = _in_parts(lengths, math.ceil(packed / batch_tokens))
        padded = sum(len(part) * max(part) for part in parts)
        found[str(batch_tokens)] = {
            "packed": round(packed / sum(lengths), 3),
            "padded": round(padded / sum(lengths), 3),
            "padded / packed": round(padded / packed, 3),
        }
    return found


def _flops(config: StudentConfig, batches: Sequence[tuple[TrainingBatch, Points]]) -> tuple[int, int]:
    """Operations of a training epoch: without, and with what goes into padding."""
    useful = spent = 0
    for batch, _ in batches:
        pairs = attended_pairs(batch.inputs.structure)
        forward = student_flops(config, batch.inputs, len(batch.label_ids), batch, pairs=pairs)
        share = int((batch.inputs.document >= 0).sum()) / batch.inputs.document.numel()
        spent += 3 * forward.total
        useful += 3 * (forward.total - round(forward.layers * (1 - share)))
    return useful, spent


def _side(config: StudentConfig, batches: Sequence[tuple[TrainingBatch, Points]]) -> dict[str, Json]:
    structures = [batch.inputs.structure for batch, _ in batches]
    real = sum(int((structure.document >= 0).sum()) for structure in structures)
    laid_out = sum(structure.document.numel() for structure in structures)
    useful, spent = _flops(config, batches)
    return {
        "batch_shapes": [list(structure.document.shape) for structure in structures],
        "samples_per_batch": statistics.mean(batch.num_documents for batch, _ in batches),
        "padding_share": round(1 - real / laid_out, 4),
        "tflop": tera(useful),
        "tflop_with_padding": tera(spent),
        "largest_dense_mask_mib": round(max(_dense_mask_bytes(structure) for structure in structures) / 2**20, 1),
    }


def _dense_mask_bytes(structure: Structure) -> int:
    rows, tokens = structure.document.shape
    return rows * tokens * tokens
