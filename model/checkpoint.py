"""A checkpoint as a folder: what transformers reads too, written and read without it.

Weights are safetensors, the rest JSON and a template; nothing in it names a Python module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from model.config import StudentConfig
from model.student import PixelSail
from model.tokenizer import END_OF_TEXT, StudentTokenizer
from storage.errors import DataError
from storage.objects import Objects

__all__ = [
    "CONFIG_FILE",
    "MODEL_TYPE",
    "TOKENIZER_FILE",
    "WEIGHTS_FILE",
    "checkpoint_files",
    "load_checkpoint",
    "load_config",
    "load_tokenizer",
    "load_weights",
    "token_ids",
]

CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "model.safetensors", "tokenizer.json"
MODEL_TYPE = "pixel_sail"
CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text()

_PREFIX = "model."
_INDEX_FILE = f"{WEIGHTS_FILE}.index.json"


def token_ids(tokenizer: StudentTokenizer) -> dict[str, int | list[int]]:
    """Ids of the special tokens by the names that `config.json` gives them."""
    return {
        "vision_start_token_id": tokenizer.vision_start,
        "image_token_id": tokenizer.vision_patch,
        "vision_end_token_id": tokenizer.vision_end,
        "seg_token_id": tokenizer.seg,
        "pooled_region_token_id": tokenizer.pooled_region,
        "visual_prompt_token_ids": list(tokenizer.visual_prompts),
        "eos_token_id": tokenizer.end_of_text,
        "pad_token_id": tokenizer.end_of_text,
    }


def checkpoint_files(model: PixelSail, tokenizer: StudentTokenizer) -> dict[str, bytes]:
    """The files of a checkpoint by name."""
    config = model.config
    ids = token_ids(tokenizer)
    weights = {f"{_PREFIX}{name}": tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    contents: dict[str, Mapping[str, object]] = {
        CONFIG_FILE: {
            "model_type": MODEL_TYPE,
            "architectures": ["PixelSailForConditionalGeneration"],
            "dtype": str(model.embed_tokens.weight.dtype).removeprefix("torch."),
            **ids,
            **config.model_dump(mode="json"),
        },
        "generation_config.json": {
            "eos_token_id": ids["eos_token_id"],
            "pad_token_id": ids["pad_token_id"],
            # Answers hold no images.
            "suppress_tokens": [
                ids[f"{name}_token_id"] for name in ("vision_start", "image", "vision_end", "pooled_region")
            ],
        },
        "processor_config.json": {
            "processor_class": "PixelSailProcessor",
            "patch_size_px": config.patch_size_px,
            "max_side_px": config.max_side_px,
            "visual_prompt": config.visual_prompt,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "PixelSailProcessor",
            "eos_token": END_OF_TEXT,
            "pad_token": END_OF_TEXT,
            "padding_side": "left",
            "clean_up_tokenization_spaces": False,
        },
    }
    return {
        **{name: json.dumps(content, indent=2).encode() for name, content in contents.items()},
        "chat_template.jinja": CHAT_TEMPLATE.encode(),
        TOKENIZER_FILE: tokenizer.to_json().encode(),
        WEIGHTS_FILE: save_safetensors(weights, metadata={"format": "pt"}),
    }


def load_config(checkpoint: Objects) -> StudentConfig:
    """The student's configuration; fields that only transformers knows are left out.

    Raises:
        DataError: `config.json` is of another kind of model.
    """
    content = json.loads(checkpoint.read(CONFIG_FILE))
    if content.get("model_type") != MODEL_TYPE:
        raise DataError(
            f"{checkpoint.url}/{CONFIG_FILE}: expected model_type {MODEL_TYPE!r}, got {content.get('model_type')!r}; "
            "`sailloft convert` makes a student of released weights and of language models"
        )
    return StudentConfig.model_validate({name: content[name] for name in StudentConfig.model_fields if name in content})


def load_tokenizer(checkpoint: Objects, config: StudentConfig) -> StudentTokenizer:
    """The student's tokenizer."""
    return StudentTokenizer.from_json(checkpoint.read(TOKENIZER_FILE).decode(), config.num_visual_prompts)


def load_checkpoint(checkpoint: Objects) -> tuple[PixelSail, StudentTokenizer]:
    """Reads a checkpoint folder, in one file or sharded.

    Raises:
        DataError: weights of other names or shapes than the configuration says.
    """
    config = load_config(checkpoint)
    tokenizer = load_tokenizer(checkpoint, config)
    with torch.device("meta"):
        model = PixelSail(config)
    return load_weights(model, _read_weights(checkpoint), checkpoint.url), tokenizer


def _read_weights(checkpoint: Objects) -> dict[str, Tensor]:
    names = [WEIGHTS_FILE]
    if not checkpoint.exists(WEIGHTS_FILE) and checkpoint.exists(_INDEX_FILE):
        names = sorted(set(json.loads(checkpoint.read(_INDEX_FILE))["weight_map"].values()))
    weights: dict[str, Tensor] = {}
    for name in names:
        weights |= load_safetensors(checkpoint.read(name))
    return {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items()}


def load_weights(model: PixelSail, weights: Mapping[str, Tensor], source: str) -> PixelSail:
    """Puts weights in the place of a student's own; the model may be on the meta device.

    Args:
        model: the student.
        weights: by the names of its state dict.
        source: where they come from, for the error.

    Raises:
        DataError: a weight is missing, left over, or of another shape; the message lists each.
    """
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = [
        f"{name}: expected {own.get(name, 'no such weight')}, got {found.get(name, 'none')}"
        for name in sorted(own.keys() | found.keys())
        if own.get(name) != found.get(name)
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise DataError(f"{source}: weights don't fit {CONFIG_FILE}: {'; '.join(wrong[:5])}{more}")
    model.load_state_dict(dict(weights), assign=True)
    return model
