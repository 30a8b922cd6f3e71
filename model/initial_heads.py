"""What the attention heads of a student that starts from nothing look at before it has learnt anything.

Drawn at random, every head begins by spreading its attention evenly, and it takes a small student long
to find out that neighbouring patches belong together, that `[SEG]` has words before it, or which
patches a visual prompt names. Heads drawn here begin with that much; no parameter is added, and
training may turn them into anything else. The published student starts from a language model and
needs none of this.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from model.attention import Attention
from model.config import StudentConfig

__all__ = ["draw_initial_heads", "neighbour_heads", "prompted_patch_heads", "recent_text_heads"]

_SCORE = 8.0
"""Score of such a head where it looks, before the softmax; elsewhere it is near 0."""

_QUESTION_TOKENS = 6
"""Where in a question a visual prompt is named, about."""


def draw_initial_heads(
    attention: Attention, config: StudentConfig, vp_embed: Float[Tensor, "dim dim"], generator: torch.Generator
) -> None:
    """Draws the heads that `config.initial_heads` asks for, in the order of its fields.

    Args:
        attention: the layer to draw; its other heads stay as they are.
        config: of the student.
        vp_embed: weight that turns a prompt's token embedding into what is added to its patches.
        generator: draws phases, offsets and projections.
    """
    heads, theta = config.initial_heads, config.rope_theta
    neighbour_heads(attention, theta, 0, heads.neighbours, generator)
    recent_text_heads(attention, theta, heads.neighbours, heads.recent_text, generator)
    prompted_patch_heads(
        attention,
        theta,
        heads.neighbours + heads.recent_text,
        heads.prompted_patches,
        vp_embed,
        config.max_side_px // config.patch_size_px,
        generator,
    )


@torch.no_grad()
def neighbour_heads(
    attention: Attention, theta: float, first_head: int, num_heads: int, generator: torch.Generator
) -> None:
    """Draws query and key biases so that some heads begin by looking at a neighbouring place.

    With q = R(d) k for a rotary turn R and an offset d, the score of two places is largest where they
    lie d apart, whatever they hold: the head starts as one tap of a 3 x 3 convolution (the idea of
    ConViT, arXiv 2103.10697, here without new parameters).

    Args:
        attention: the layer to draw; its other biases stay as they are.
        theta: base of the rotary frequencies; small enough that one column is a visible turn.
        first_head: first key-value head to draw.
        num_heads: key-value heads to draw, each with all its query heads.
        generator: draws phases and offsets.
    """
    amplitudes = torch.full((attention.head_dim // 2,), _amplitude(attention.head_dim, attention.head_dim // 2))
    for head in range(first_head, first_head + num_heads):
        _look_at_offsets(
            attention, theta, head, amplitudes, generator, lambda: torch.randint(-1, 2, (2,), generator=generator)
        )


@torch.no_grad()
def recent_text_heads(
    attention: Attention, theta: float, first_head: int, num_heads: int, generator: torch.Generator
) -> None:
    """Draws query and key biases so that some heads begin by looking at the last few tokens of the text.

    Without them a `[SEG]` spreads its attention over the whole picture and one word is worth one part
    in a hundred of its query. Only the slower half of the frequencies is used: it tells the last ten
    tokens from the picture before them, but not one of them from the next.

    Args:
        attention: the layer to draw; its other biases stay as they are.
        theta: base of the rotary frequencies.
        first_head: first key-value head to draw.
        num_heads: key-value heads to draw, each with all its query heads.
        generator: draws phases and offsets of 4 to 6 tokens.
    """
    quarter = attention.head_dim // 4
    amplitudes = torch.zeros(2 * quarter)
    amplitudes[quarter:] = _amplitude(attention.head_dim, quarter)
    for head in range(first_head, first_head + num_heads):
        _look_at_offsets(
            attention,
            theta,
            head,
            amplitudes,
            generator,
            lambda: -torch.randint(4, 7, (1,), generator=generator).repeat(2),
        )


@torch.no_grad()
def prompted_patch_heads(
    attention: Attention,
    theta: float,
    first_head: int,
    num_heads: int,
    vp_embed: Float[Tensor, "dim dim"],
    grid_columns: int,
    generator: torch.Generator,
) -> None:
    """Draws query and key weights so that some heads of `<Prompt_i>` begin by looking at the patches of prompt i.

    Keys undo `vp_embed` and then project as queries do, so that a token and the patches that carry its
    embedding agree, while the token does not find itself. The slower half of the frequencies is used,
    turned by the usual distance from a question to the middle of the picture, so that the agreement
    holds over the whole of it.

    Args:
        attention: the layer to draw; its other weights stay as they are.
        theta: base of the rotary frequencies.
        first_head: first key-value head to draw.
        num_heads: key-value heads to draw, each with all its query heads.
        vp_embed: weight that turns a prompt's token embedding into what is added to its patches; orthogonal
            but for its scale.
        grid_columns: patches across the largest picture.
        generator: draws the projections.
    """
    dim, quarter, hidden = attention.head_dim, attention.head_dim // 4, len(vp_embed)
    slow = torch.cat([torch.arange(quarter, 2 * quarter), torch.arange(3 * quarter, 4 * quarter)])
    undo = vp_embed.T / vp_embed.norm(dim=0).mean()
    distance = torch.full((2,), grid_columns / 2 + _QUESTION_TOKENS)
    # Behind the norm an embedding has the length sqrt(hidden), and a pair has two channels.
    scale = _amplitude(dim, quarter) / (2 * hidden) ** 0.5
    keys, queries = attention.k_proj.weight, attention.q_proj.weight
    queries_per_key = len(queries) // len(keys)
    for head in range(first_head, first_head + num_heads):
        projection = torch.zeros(dim, hidden)
        projection[slow] = scale * torch.randn(2 * quarter, hidden, generator=generator)
        keys[head * dim : (head + 1) * dim] = projection @ undo
        turned = _turned(projection, _angles(theta, dim, -distance))
        queries[head * queries_per_key * dim : (head + 1) * queries_per_key * dim] = turned.repeat(queries_per_key, 1)


def _amplitude(head_dim: int, num_pairs: int) -> float:
    """Length of each rotary pair for which `num_pairs` of them sum to the wanted score."""
    return (_SCORE * head_dim**0.5 / num_pairs) ** 0.5


def _angles(theta: float, head_dim: int, offset: Float[Tensor, "2"]) -> Float[Tensor, " pairs"]:
    """Turn of each rotary pair over an offset of (rows, columns)."""
    frequencies = theta ** -(torch.arange(0, head_dim, 2) / head_dim)
    return frequencies * offset.repeat_interleave(head_dim // 4)


def _turned(vectors: Float[Tensor, "channels ..."], angles: Float[Tensor, " pairs"]) -> Tensor:
    """Turns each pair (i, i + d/2) of the first axis by its angle."""
    first, second = vectors.chunk(2)
    shape = (-1, *[1] * (vectors.ndim - 1))
    cosines, sines = angles.cos().view(shape), angles.sin().view(shape)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines])


def _look_at_offsets(
    attention: Attention,
    theta: float,
    head: int,
    amplitudes: Float[Tensor, " pairs"],
    generator: torch.Generator,
    draw_offset: Callable[[], Tensor],
) -> None:
    """Sets the key bias of one head at random phases, and its query biases turned by (rows, columns)."""
    dim = attention.head_dim
    keys, queries = attention.k_proj.bias, attention.q_proj.bias
    queries_per_key = len(queries) // len(keys)
    phases = 2 * torch.pi * torch.rand(dim // 2, generator=generator)
    key = torch.cat([amplitudes * phases.cos(), amplitudes * phases.sin()])
    keys[head * dim : (head + 1) * dim] = key
    for query_head in range(head * queries_per_key, (head + 1) * queries_per_key):
        angles = _angles(theta, dim, draw_offset().float())
        queries[query_head * dim : (query_head + 1) * dim] = _turned(key, angles)
