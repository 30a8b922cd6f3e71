"""A captioner that is a vision-language model of transformers on this machine."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipelines.benchmark_building.captioners.base import BaseCaptionerConfig, DraftError, DraftRequest
from pipelines.benchmark_building.captioners.instructions import SYSTEM, instruction, marked_regions, read_reply
from pipelines.benchmark_building.drawing import with_regions
from pipelines.benchmark_building.records import Texts
from storage.errors import UsageError
from storage.pickle_opcodes import told_by_torch

__all__ = ["LocalModelCaptioner", "LocalModelCaptionerConfig"]


class LocalModelCaptionerConfig(BaseCaptionerConfig):
    """A model of transformers' task `image-text-to-text`; nothing is downloaded, and no code of its folder runs."""

    kind: Literal["transformers"] = "transformers"
    """Name in the registry."""
    VERSION: ClassVar[int] = 1

    checkpoint: str = Field(min_length=1)
    """Folder with the model and its processor."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic; `auto`: as the weights are stored."""
    device: str = Field(default="cpu", json_schema_extra={"hashed": False})
    """Where it runs, such as `cuda`."""
    side_px: int = Field(default=1024, ge=64)
    """Longer side of the picture that it is shown, in px."""
    max_new_tokens: int = Field(default=400, ge=1)
    """Upper bound of a reply."""

    def build(self) -> LocalModelCaptioner:
        """The captioner; raises UsageError where the folder holds no such model."""
        return LocalModelCaptioner(self)

    def description(self) -> str:
        """Name of the checkpoint, and the version of transformers."""
        import transformers

        name = self.checkpoint.rstrip("/").rpartition("/")[2]
        return f"{name} with transformers {transformers.__version__}, instructions version {self.VERSION}"


class LocalModelCaptioner:
    """Asks the model for one draft after the other, by greedy decoding.

    Args:
        config: which model.

    Raises:
        UsageError: no such model there.
    """

    is_concurrent = False

    def __init__(self, config: LocalModelCaptionerConfig) -> None:
        import torch
        from transformers import pipeline

        if not Path(config.checkpoint, "config.json").is_file():
            raise UsageError(
                f"captioner.checkpoint {config.checkpoint}: expected a folder with config.json, found none; download a "
                "model for image-text-to-text and name its folder"
            )
        make: Any = pipeline
        self._config = config
        dtype = "auto" if config.dtype == "auto" else getattr(torch, config.dtype)
        try:
            self._pipeline: Any = make(
                "image-text-to-text",
                model=config.checkpoint,
                device=config.device,
                dtype=dtype,
                trust_remote_code=False,
            )
        # transformers tells of absent, foreign and broken checkpoints in all these ways.
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, pickle.UnpicklingError) as error:
            raise UsageError(
                f"captioner.checkpoint {config.checkpoint}: expected the folder of a model for image-text-to-text with "
                f"its processor, got {type(error).__name__}: {told_by_torch(error)}; download one and name its folder"
            ) from error

    def draft(self, request: DraftRequest) -> Texts:
        """The draft that the model writes; raises DraftError where its reply is none."""
        picture = with_regions(request.pixels, marked_regions(request), self._config.side_px)
        messages = [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": picture},
                    {"type": "text", "text": f"{SYSTEM} {instruction(request)}"},
                ],
            }
        ]
        replies: Any = self._pipeline(
            text=messages,
            return_full_text=False,
            generate_kwargs={"max_new_tokens": self._config.max_new_tokens, "do_sample": False},
        )
        said: object = replies[0]["generated_text"]
        if not isinstance(said, str):
            raise DraftError(f"reply: expected text, got {said!r:.100}")
        return read_reply(request, said)
