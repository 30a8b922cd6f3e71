"""Low-rank adapters (LoRA, arXiv 2106.09685) in the decoder, by peft; what is new in a student trains as a whole."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from model.student import PixelSail
from storage.errors import UsageError
from storage.recipe import RecipeModel

__all__ = ["LoraConfig", "add_lora", "merge_lora"]

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class LoraConfig(RecipeModel):
    """Adapters beside the decoder's projections; the projections and norms themselves stay as they are."""

    rank: int = Field(default=64, gt=0)
    """Rank of the adapters."""
    alpha: float = Field(default=128.0, gt=0)
    """Their scale is `alpha / rank`."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the inputs of an adapter that is dropped in training."""
    projections: tuple[Projection, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Which projections of each layer get one."""
    train_embeddings: bool = True
    """Whether token embeddings and the output embedding train: new tokens, `[SEG]` among them, need it."""


def add_lora(student: PixelSail, config: LoraConfig, seed: int) -> PixelSail:
    """Adds adapters in place and freezes what they stand beside.

    Everything outside the decoder (patch and prompt embedding, mask head, distillation heads) trains
    as a whole: it is small, and fresh where a student starts from a language model.

    Args:
        student: the student; what it computes is unchanged, since adapters begin at zero.
        config: the adapters.
        seed: draws them.

    Raises:
        UsageError: peft is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise UsageError("lora: expected peft, which isn't installed; pip install 'sailloft[lora]'") from error
    import torch

    adapters = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType] (any number will do)
        lora_dropout=config.dropout,
        target_modules=rf"layers\.\d+\.(?:.*\.)?(?:{'|'.join(config.projections)})",
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(adapters, student)
    for name, parameter in student.named_parameters():
        inside = name.startswith(("layers.", "norm."))
        embedding = name.startswith(("embed_tokens.", "lm_head."))
        parameter.requires_grad_(".lora_" in name or not (inside or (embedding and not config.train_embeddings)))
    return student


def merge_lora(student: PixelSail) -> PixelSail:
    """Adds adapters to the weights beside which they stand, in place; afterwards it is a student like any other."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(student.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)
            student.set_submodule(name, module.get_base_layer())
    return student.requires_grad_(True)
