"""The student's architecture as a recipe; its JSON is the `config.json` of every checkpoint."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from storage.recipe import RecipeModel

__all__ = ["DistillationHead", "InitialHeads", "StudentConfig"]


class DistillationHead(RecipeModel):
    """A linear head that is compared with a teacher's features; dropped from released weights."""

    teacher: str
    """The teacher's `kind`."""
    num_channels: int = Field(gt=0)
    """Channels of the teacher's features."""
    source: Literal["mask_features", "patches"]
    """`mask_features`: the upsampled mask features (as for Mask2Former); `patches`: the
    low-resolution hidden states of the patches (as for SAM2)."""


class InitialHeads(RecipeModel):
    """Key-value heads of each layer by what they look at when freshly drawn, see `model.initial_heads`."""

    neighbours: int = Field(default=0, ge=0)
    """Heads that look at a neighbouring place."""
    recent_text: int = Field(default=0, ge=0)
    """Heads that look at the last few tokens of the text."""
    prompted_patches: int = Field(default=0, ge=0)
    """Heads that look at the patches of the visual prompt that a token names."""

    def total(self) -> int:
        """Heads that are drawn so."""
        return self.neighbours + self.recent_text + self.prompted_patches


class StudentConfig(RecipeModel):
    """Sizes of the single transformer, in the words of the Qwen2.5 configuration."""

    vocab_size: int = Field(default=512, gt=0)
    """Upper bound of the tokenizer's vocabulary where it is trained on the corpus, special tokens
    included; the checkpoint holds the number that it really has."""
    hidden_size: int = Field(default=128, gt=0)
    """Width of the residual stream."""
    intermediate_size: int = Field(default=384, gt=0)
    """Width of the SwiGLU."""
    num_layers: int = Field(default=4, gt=0)
    """Decoder layers."""
    num_attention_heads: int = Field(default=4, gt=0)
    """Query heads."""
    num_key_value_heads: int = Field(default=2, gt=0)
    """Key and value heads (grouped-query attention)."""
    attention_head_dim: int | None = Field(default=None, gt=0)
    """Channels of one head, a multiple of 4; null: `hidden_size / num_attention_heads`."""
    attention_bias: bool = True
    """Whether queries, keys and values have a bias: they do in Qwen2, not in Mistral."""
    tie_word_embeddings: bool = True
    """Whether the output embedding is the input embedding."""
    modality_weights: Literal["shared", "separate"] = "shared"
    """`separate`: patches have norms, attention projections and SwiGLU of their own in every layer (EVEv2)."""
    rope_theta: float = Field(default=1_000_000.0, gt=0)
    """Base of the rotary frequencies."""
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    """Epsilon of the RMSNorm."""
    initializer_range: float = Field(default=0.02, gt=0)
    """Standard deviation of freshly drawn weights."""
    initial_heads: InitialHeads = InitialHeads()
    """Heads of each layer that begin with a task. None, as published: a language model has its own."""
    patch_size_px: int = Field(default=16, gt=0)
    """Side of a square patch, in px of the resized image."""
    patch_embedding: Literal["linear", "convolutions"] = "linear"
    """`linear`: one bias-free matrix, as published. `convolutions`: two of them with a GELU between (EVEv2)."""
    max_side_px: int = Field(default=1024, gt=0)
    """Upper bound of the resized image's long side."""
    mask_stride_px: int = Field(default=4, gt=0)
    """Pixels of the resized image per cell of the mask features: 4 in the paper, 2 in the released code."""
    upsampling: Literal["learned", "none"] = "learned"
    """`none`: the plain baseline, mask features at the patch grid; `mask_stride_px` is then not used."""
    mask_dim: int = Field(default=512, gt=0)
    """Channels of queries and mask features."""
    max_mask_channels: int = Field(default=1024, gt=0)
    """Wider hidden states are projected to this width before they are upsampled."""
    num_visual_prompts: int = Field(default=15, ge=0)
    """Prompt tokens `<Prompt0>` ... one for each region that a conversation can point at."""
    visual_prompt: Literal["injected", "pooled"] = "injected"
    """`injected`: the prompt token's embedding is added to the patches of its region. `pooled`: the plain
    baseline, the mean of the region's patch embeddings stands as a token behind each `<Prompt..>`."""
    wordings: Literal["short", "varied"] = "varied"
    """The set of sentences that frame the facts, see `model.wordings`."""
    distillation: tuple[DistillationHead, ...] = (
        DistillationHead(teacher="mask2former", num_channels=256, source="mask_features"),
        DistillationHead(teacher="sam2", num_channels=256, source="patches"),
    )
    """Teachers that the student learns from."""

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.attention_head_dim or self.hidden_size // self.num_attention_heads

    @property
    def cells_per_patch(self) -> int:
        """Cells of the mask features along one side of a patch."""
        return 1 if self.upsampling == "none" else self.patch_size_px // self.mask_stride_px

    @property
    def num_upsample_blocks(self) -> int:
        """Doublings from the patch grid to the mask grid."""
        return self.cells_per_patch.bit_length() - 1

    @property
    def mask_channels(self) -> int:
        """Channels in which the hidden states are upsampled."""
        return min(self.hidden_size, self.max_mask_channels)

    @model_validator(mode="after")
    def _consistent(self) -> StudentConfig:
        if self.attention_head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size / num_attention_heads: expected a whole number or attention_head_dim, "
                f"got {self.hidden_size} / {self.num_attention_heads}"
            )
        if self.head_dim % 4:
            raise ValueError(
                f"channels of an attention head: expected a multiple of 4 (two axes share the rotary halves), "
                f"got {self.head_dim}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads: expected a divisor of {self.num_attention_heads}, got {self.num_key_value_heads}"
            )
        if self.initial_heads.total() > self.num_key_value_heads:
            raise ValueError(
                f"initial_heads: expected at most num_key_value_heads {self.num_key_value_heads}, "
                f"got {self.initial_heads.total()}"
            )
        if not self.attention_bias and self.initial_heads.neighbours + self.initial_heads.recent_text:
            raise ValueError(
                "initial_heads: expected attention_bias for neighbours and recent_text, which are drawn as biases"
            )
        doublings = max((self.patch_size_px // self.mask_stride_px).bit_length() - 1, 0)
        divides = self.mask_stride_px <= self.patch_size_px == self.mask_stride_px << doublings
        if self.upsampling == "learned" and not divides:
            raise ValueError(
                f"mask_stride_px: expected patch_size_px {self.patch_size_px} divided by a power of two, "
                f"got {self.mask_stride_px}"
            )
        if self.patch_embedding == "convolutions" and self.patch_size_px % 2:
            raise ValueError(f"patch_size_px: expected an even number for two convolutions, got {self.patch_size_px}")
        if self.max_side_px % self.patch_size_px:
            raise ValueError(
                f"max_side_px: expected a multiple of patch_size_px {self.patch_size_px}, got {self.max_side_px}"
            )
        return self
