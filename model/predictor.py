"""A trained student that answers: checkpoint folder in, text and masks out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch.nn import functional

from model.config import StudentConfig
from model.generate import Generated, generate
from model.processor import EncodedRow, Processor
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from model.visual_prompt import largest_first
from storage.objects import Objects

__all__ = ["Answer", "Predictor", "Request", "checkpoint_files"]

CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "model.safetensors", "tokenizer.json"
_PLACEHOLDER = re.compile(r"<region(\d+)>")
_ROWS_PER_BATCH = 32


@dataclass(frozen=True, slots=True)
class Request:
    """A question on a picture; `<region1>` in the text is the first visual prompt, and so on."""

    image: Image.Image
    text: str
    visual_prompts: tuple[NDArray[np.bool_], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The student's answer: text, and for each `[SEG]` in it a mask and its mean certainty in [0, 1]."""

    text: str
    masks: tuple[NDArray[np.bool_], ...]
    scores: tuple[float, ...]


def checkpoint_files(model: PixelSail, tokenizer: StudentTokenizer) -> dict[str, bytes]:
    """The files of a checkpoint by name; weights are safetensors, the rest JSON."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return {
        CONFIG_FILE: json.dumps(model.config.model_dump(mode="json"), indent=2).encode(),
        WEIGHTS_FILE: save_safetensors(weights),
        TOKENIZER_FILE: tokenizer.to_json().encode(),
    }


class Predictor:
    """A student with its processor, ready to answer.

    Args:
        model: the student; it is put into evaluation mode.
        tokenizer: its tokenizer.
        device: where it runs.
    """

    def __init__(self, model: PixelSail, tokenizer: StudentTokenizer, device: str = "cpu") -> None:
        self.model = model.to(device).eval()
        self.tokenizer = tokenizer
        self.processor = Processor(model.config, tokenizer)

    @classmethod
    def load(cls, checkpoint: Objects, device: str = "cpu") -> Predictor:
        """Loads a checkpoint folder."""
        model, tokenizer = cls._unloaded(checkpoint)
        model.load_state_dict(load_safetensors(checkpoint.read(WEIGHTS_FILE)))
        return cls(model, tokenizer, device)

    @classmethod
    def load_untrained(cls, checkpoint: Objects, device: str = "cpu", seed: int = 0) -> Predictor:
        """The same student with fresh weights: what a score is worth is seen beside it."""
        model, tokenizer = cls._unloaded(checkpoint)
        return cls(model.init_weights(torch.Generator().manual_seed(seed)), tokenizer, device)

    @classmethod
    def _unloaded(cls, checkpoint: Objects) -> tuple[PixelSail, StudentTokenizer]:
        config = StudentConfig.model_validate_json(checkpoint.read(CONFIG_FILE))
        tokenizer = StudentTokenizer.from_json(checkpoint.read(TOKENIZER_FILE).decode(), config.num_visual_prompts)
        return PixelSail(config), tokenizer

    def answer(self, requests: Sequence[Request], max_new_tokens: int = 64) -> list[Answer]:
        """Answers requests, in batches of rows of like length.

        Raises:
            ValueError: a placeholder without a visual prompt, or more prompts than prompt tokens.
        """
        rows = [self._encode(request) for request in requests]
        answers: dict[int, Answer] = {}
        by_length = sorted(range(len(rows)), key=lambda index: len(rows[index].input_ids))
        for start in range(0, len(rows), _ROWS_PER_BATCH):
            batch = by_length[start : start + _ROWS_PER_BATCH]
            continued = generate(self.model, self.tokenizer, [rows[index] for index in batch], max_new_tokens)
            for index, generated in zip(batch, continued, strict=True):
                answers[index] = self._finish(generated, requests[index].image)
        return [answers[index] for index in range(len(rows))]

    def _encode(self, request: Request) -> EncodedRow:
        prompts = list(enumerate(request.visual_prompts))
        text = name_prompts(request.text, list(range(len(prompts))))
        image = np.asarray(request.image.convert("RGB"))
        return self.processor.encode(image, [(text, None)], largest_first(prompts))

    def _finish(self, generated: Generated, image: Image.Image) -> Answer:
        text = self.tokenizer.decode(generated.token_ids)
        if not len(generated.mask_logits):
            return Answer(text, (), ())
        logits = functional.interpolate(
            generated.mask_logits[:, None], size=(image.height, image.width), mode="bilinear", align_corners=False
        )[:, 0]
        masks = logits > 0
        certainty = torch.where(masks, logits.sigmoid(), 0).sum((1, 2)) / masks.sum((1, 2)).clamp_min(1)
        return Answer(text, tuple(masks.cpu().numpy()), tuple(certainty.tolist()))


def name_prompts(text: str, numbers: Sequence[int]) -> str:
    """Replaces `<region1>` ... by the prompt tokens of the given numbers.

    Raises:
        ValueError: a placeholder without a visual prompt.

    >>> name_prompts("Is <region2> left of <region1>?", [7, 3])
    'Is <Prompt3> left of <Prompt7>?'
    """

    def token(match: re.Match[str]) -> str:
        place = int(match[1])
        if not 1 <= place <= len(numbers):
            raise ValueError(f"{match[0]}: expected one of {len(numbers)} visual prompts, got number {place}")
        return f"<Prompt{numbers[place - 1]}>"

    return _PLACEHOLDER.sub(token, text)
