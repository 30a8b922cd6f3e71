"""A trained student that answers: checkpoint folder in, text and masks out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TextStreamer
from transformers.generation.utils import GenerateOutput

from model.checkpoint import load_checkpoint, load_config, load_tokenizer
from model.huggingface.modeling import PixelSailForConditionalGeneration
from model.huggingface.processing import PixelSailProcessor, masks_at, model_inputs
from model.losses import chunked_next_token_loss
from model.pictures import as_rgb
from model.processor import IGNORED, EncodedRow
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from storage.objects import Objects

__all__ = ["Answer", "Predictor", "Request"]

_ROWS_PER_BATCH = 32


@dataclass(frozen=True, slots=True)
class Request:
    """A question on a picture; `<region1>` in the text is the first visual prompt, and so on."""

    image: object
    """See `model.pictures.as_rgb`."""
    text: str
    visual_prompts: Sequence[object] = ()
    """See `model.regions.region_mask`."""
    answer_prefix: str = ""
    """Words that the answer has to begin with, `[SEG]` among them if wanted; the student goes on behind them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The student's answer: text, and for each `[SEG]` in it a mask and its mean certainty in [0, 1]."""

    text: str
    masks: tuple[NDArray[np.bool_], ...]
    """bool (height, width) of the picture as it was given."""
    scores: tuple[float, ...]


class Predictor:
    """A student with its processor, ready to answer.

    Args:
        student: the student; it is put into evaluation mode.
        tokenizer: its tokenizer.
        device: where it runs.
    """

    def __init__(self, student: PixelSail, tokenizer: StudentTokenizer, device: str = "cpu") -> None:
        self.model = PixelSailForConditionalGeneration.of(student.to(device), tokenizer).eval()
        self.tokenizer = tokenizer
        self.processor = PixelSailProcessor.of(student.config, tokenizer)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> Predictor:
        """Loads a checkpoint from a local folder or any URL of `storage.objects`."""
        return cls.load(Objects.open(str(folder)), device)

    @classmethod
    def load(cls, checkpoint: Objects, device: str = "cpu") -> Predictor:
        """Loads a checkpoint folder."""
        return cls(*load_checkpoint(checkpoint), device)

    @classmethod
    def load_untrained(cls, checkpoint: Objects, device: str = "cpu", seed: int = 0) -> Predictor:
        """The same student with fresh weights: what a score is worth is seen beside it."""
        config = load_config(checkpoint)
        student = PixelSail(config).init_weights(torch.Generator().manual_seed(seed))
        return cls(student, load_tokenizer(checkpoint, config), device)

    def predict(
        self,
        image: object,
        text: str,
        prompts: Sequence[object] = (),
        max_new_tokens: int = 64,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answers one question.

        Args:
            image: a picture, see `model.pictures.as_rgb`.
            text: the question; `<region1>` names the first prompt.
            prompts: regions, see `model.regions.region_mask`.
            max_new_tokens: upper bound of the answer, in tokens.
            on_text: is called with each piece of the answer as it comes.

        Raises:
            ValueError: an empty text, a region that isn't in the picture or isn't named, a name without a
                region, or more regions than prompt tokens.
            TypeError: a picture or region of another type.
        """
        request = Request(image, text, prompts)
        for place in range(1, len(prompts) + 1):
            if f"<region{place}>" not in text and f"<Prompt{place - 1}>" not in text:
                raise ValueError(
                    f"visual prompt {place}: expected it named in the text as <region{place}>, got {text!r}"
                )
        return self._answer([self._encode(request)], [request], max_new_tokens, on_text)[0]

    def answer(self, requests: Sequence[Request], max_new_tokens: int = 64) -> list[Answer]:
        """Answers requests, in batches of rows of like length; errors as of `predict`."""
        rows = [self._encode(request) for request in requests]
        answers: dict[int, Answer] = {}
        by_length = sorted(range(len(rows)), key=lambda index: len(rows[index].input_ids))
        for start in range(0, len(rows), _ROWS_PER_BATCH):
            batch = by_length[start : start + _ROWS_PER_BATCH]
            found = self._answer([rows[i] for i in batch], [requests[i] for i in batch], max_new_tokens, None)
            answers |= dict(zip(batch, found, strict=True))
        return [answers[index] for index in range(len(rows))]

    @torch.inference_mode()
    def read(self, requests: Sequence[Request], answers: Sequence[str]) -> list[tuple[float, int]]:
        """How likely the student holds given answers.

        Args:
            requests: questions on pictures; `answer_prefix` isn't used.
            answers: the text of one answer to each.

        Returns:
            For each answer its cross-entropy in nats, summed over its tokens, and their number, the end included.

        Raises:
            ValueError: an empty question or answer, or as of `predict`.
        """
        rows = [self._encode(request, answer) for request, answer in zip(requests, answers, strict=True)]
        losses: dict[int, tuple[float, int]] = {}
        by_length = sorted(range(len(rows)), key=lambda index: len(rows[index].input_ids))
        for start in range(0, len(rows), _ROWS_PER_BATCH):
            batch = by_length[start : start + _ROWS_PER_BATCH]
            losses |= zip(batch, self._read([rows[index] for index in batch]), strict=True)
        return [losses[index] for index in range(len(rows))]

    def _read(self, rows: Sequence[EncodedRow]) -> list[tuple[float, int]]:
        inputs = {name: tensor.to(self.model.device) for name, tensor in model_inputs(rows, self.tokenizer).items()}
        following = inputs.pop("labels")[:, 1:]
        # The logits of all tokens are never needed together: of a real vocabulary they would not fit.
        hidden = cast("Tensor", self.model(**inputs, use_cache=False, logits_to_keep=1).last_hidden_state)[:, :-1]
        labelled = following != IGNORED
        losses = chunked_next_token_loss(hidden[labelled], self.model.model.output_embedding, following[labelled])
        counts = labelled.sum(1).tolist()
        return [(float(own.double().sum()), len(own)) for own in losses.split(counts)]

    def _encode(self, request: Request, answer: str | None = None) -> EncodedRow:
        if not request.text.strip():
            raise ValueError(f"text: expected a question, got {request.text!r}")
        blocks = [{"type": "image"}, {"type": "text", "text": request.text}]
        messages: list[Any] = [{"role": "user", "content": blocks}]
        if answer is not None:
            if not answer.strip():
                raise ValueError(f"answer: expected words, got {answer!r}")
            messages.append({"role": "assistant", "content": answer})
        text = self.processor.apply_chat_template(messages)
        return self.processor.encode(text, [as_rgb(request.image)], request.visual_prompts)

    def _answer(
        self,
        rows: Sequence[EncodedRow],
        requests: Sequence[Request],
        max_new_tokens: int,
        on_text: Callable[[str], None] | None,
    ) -> list[Answer]:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: expected at least 1, got {max_new_tokens}")
        device = self.model.device
        inputs = {name: tensor.to(device) for name, tensor in model_inputs(rows, self.tokenizer).items()}
        del inputs["labels"]
        forced = [self.tokenizer.encode(request.answer_prefix) for request in requests]
        longest = max(map(len, forced), default=0)
        begin = [_Beginning(inputs["input_ids"].shape[1], forced)] if longest else []
        streamer = None if on_text is None else _Pieces(self.processor, on_text)
        output = cast(
            "GenerateOutput",
            self.model.generate(
                **inputs,
                max_new_tokens=max_new_tokens + longest,
                do_sample=False,
                logits_processor=LogitsProcessorList(begin),
                return_dict_in_generate=True,
                streamer=streamer,
            ),
        )
        new = cast("Tensor", output.sequences)[:, inputs["input_ids"].shape[1] :].tolist()
        return [
            self._finish(tokens, masks, as_rgb(request.image).shape[:2])
            for tokens, masks, request in zip(new, output["masks"], requests, strict=True)
        ]

    def _finish(self, tokens: list[int], logits: Tensor, size_px: tuple[int, ...]) -> Answer:
        end = self.tokenizer.end_of_text
        text = self.tokenizer.decode(tokens[: tokens.index(end)] if end in tokens else tokens)
        masks, scores = masks_at(logits, (size_px[0], size_px[1]))
        return Answer(text, tuple(masks), tuple(scores))


class _Beginning(LogitsProcessor):
    """Makes answers begin with given tokens.

    Args:
        length: of the prompts, padding included.
        forced: tokens that each row has to begin with.
    """

    def __init__(self, length: int, forced: Sequence[Sequence[int]]) -> None:
        self._length, self._forced = length, forced

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Scores of the next token; where one is forced, all others have none."""
        place = input_ids.shape[1] - self._length
        scores = scores.clone()
        for row, tokens in enumerate(self._forced):
            if place < len(tokens):
                scores[row] = -torch.inf
                scores[row, tokens[place]] = 0.0
        return scores


class _Pieces(TextStreamer):
    """Hands text on as soon as it is sure."""

    def __init__(self, processor: PixelSailProcessor, on_text: Callable[[str], None]) -> None:
        super().__init__(processor.tokenizer, skip_prompt=True, skip_special_tokens=False)
        self._on_text = on_text
        self._end = str(processor.tokenizer.eos_token)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers with each piece."""
        text = text.removesuffix(self._end) if stream_end else text
        if text:
            self._on_text(text)
