"""Checkpoints as the official programs write them, of any size and with random weights, for tests."""

from __future__ import annotations

import torch
from torch import Tensor

from teachers.mask2former_sizes import Mask2FormerArchitecture
from teachers.sam2_sizes import Sam2Architecture

__all__ = ["official_mask2former", "official_sam2"]


def official_sam2(architecture: Sam2Architecture, *, device: str = "cpu") -> dict[str, Tensor]:
    """State dict of an official SAM 2: the image path, and one tensor that stays unused."""
    width, channels = architecture.embed_dim, architecture.num_channels
    rows, columns = architecture.background_size
    window = architecture.window_sizes[0]
    shapes: dict[str, tuple[int, ...]] = {
        "no_mem_embed": (1, 1, channels),
        "no_obj_ptr": (1, channels),
        "image_encoder.trunk.pos_embed": (1, width, rows, columns),
        "image_encoder.trunk.pos_embed_window": (1, width, window, window),
        **_layer("image_encoder.trunk.patch_embed.proj", width, 3, 7, 7),
    }
    block = 0
    for stage, depth in enumerate(architecture.blocks):
        for index in range(depth):
            name = f"image_encoder.trunk.blocks.{block}"
            outputs = width * 2**stage
            inputs = outputs // 2 if stage and not index else outputs
            shapes |= _norm(f"{name}.norm1", inputs) | _norm(f"{name}.norm2", outputs)
            shapes |= _layer(f"{name}.attn.qkv", 3 * outputs, inputs) | _layer(f"{name}.attn.proj", outputs, outputs)
            shapes |= _layer(f"{name}.mlp.layers.0", 4 * outputs, outputs)
            shapes |= _layer(f"{name}.mlp.layers.1", outputs, 4 * outputs)
            if inputs != outputs:
                shapes |= _layer(f"{name}.proj", outputs, inputs)
            block += 1
    for level in range(4):
        shapes |= _layer(f"image_encoder.neck.convs.{level}.conv", channels, width * 2 ** (3 - level), 1, 1)
    return _draw(shapes, device)


def official_mask2former(architecture: Mask2FormerArchitecture, *, device: str = "cpu") -> dict[str, Tensor]:
    """State dict of an official Mask2Former: the feature network, and one tensor that stays unused."""
    decoder, channels = "sem_seg_head.pixel_decoder", architecture.num_channels
    width, window = architecture.embed_dim, architecture.window_size
    shapes: dict[str, tuple[int, ...]] = {
        "sem_seg_head.predictor.query_feat.weight": (2, channels),
        **_layer("backbone.patch_embed.proj", width, 3, 4, 4),
        **_norm("backbone.patch_embed.norm", width),
        **_layer(f"{decoder}.mask_features", architecture.num_mask_channels, channels, 1, 1),
        f"{decoder}.transformer.level_embed": (3, channels),
    }
    for stage, depth in enumerate(architecture.depths):
        outputs = width * 2**stage
        hidden = int(architecture.mlp_ratio * outputs)
        for block in range(depth):
            name = f"backbone.layers.{stage}.blocks.{block}"
            shapes |= _norm(f"{name}.norm1", outputs) | _norm(f"{name}.norm2", outputs)
            shapes |= _layer(f"{name}.attn.qkv", 3 * outputs, outputs) | _layer(f"{name}.attn.proj", outputs, outputs)
            shapes |= _layer(f"{name}.mlp.fc1", hidden, outputs) | _layer(f"{name}.mlp.fc2", outputs, hidden)
            shapes[f"{name}.attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, architecture.num_heads[stage])
            shapes[f"{name}.attn.relative_position_index"] = (window**2, window**2)
        shapes |= _norm(f"backbone.norm{stage}", outputs)
        if stage < 3:
            shapes[f"backbone.layers.{stage}.downsample.reduction.weight"] = (2 * outputs, 4 * outputs)
            shapes |= _norm(f"backbone.layers.{stage}.downsample.norm", 4 * outputs)
    for level in range(3):
        shapes |= _layer(f"{decoder}.input_proj.{level}.0", channels, width * 2 ** (3 - level), 1, 1)
        shapes |= _norm(f"{decoder}.input_proj.{level}.1", channels)
    for name, inputs, side in (("adapter_1", width, 1), ("layer_1", channels, 3)):
        shapes[f"{decoder}.{name}.weight"] = (channels, inputs, side, side)
        shapes |= _norm(f"{decoder}.{name}.norm", channels)
    points = architecture.num_encoder_heads * 3 * 4
    for layer in range(architecture.num_encoder_layers):
        name = f"{decoder}.transformer.encoder.layers.{layer}"
        hidden = architecture.encoder_feedforward_channels
        shapes |= _layer(f"{name}.self_attn.sampling_offsets", 2 * points, channels)
        shapes |= _layer(f"{name}.self_attn.attention_weights", points, channels)
        shapes |= _layer(f"{name}.self_attn.value_proj", channels, channels)
        shapes |= _layer(f"{name}.self_attn.output_proj", channels, channels)
        shapes |= _layer(f"{name}.linear1", hidden, channels) | _layer(f"{name}.linear2", channels, hidden)
        shapes |= _norm(f"{name}.norm1", channels) | _norm(f"{name}.norm2", channels)
    return _draw(shapes, device)


def _layer(name: str, *weight: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return _layer(name, width)


def _draw(shapes: dict[str, tuple[int, ...]], device: str) -> dict[str, Tensor]:
    if device == "meta":
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    generator = torch.Generator().manual_seed(0)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
