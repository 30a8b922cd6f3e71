"""The tiny student as a model and a processor of transformers."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from transformers.utils import logging as transformers_logging

from model.checkpoint import checkpoint_files
from model.config import StudentConfig
from model.huggingface import PixelSailForConditionalGeneration, PixelSailProcessor
from model.processor import EncodedRow
from model.student import PixelSail
from model.tokenizer import StudentTokenizer

Write = Callable[[PixelSail], Path]


@pytest.fixture(autouse=True)
def readable_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers reads a processor's options off the code of `__init__`, which the tests' shape checks wrap."""
    monkeypatch.setattr(PixelSailProcessor, "__init__", inspect.unwrap(PixelSailProcessor.__init__))


@pytest.fixture
def model(student: PixelSail, tokenizer: StudentTokenizer) -> PixelSailForConditionalGeneration:
    return PixelSailForConditionalGeneration.of(student, tokenizer)


@pytest.fixture
def hf_processor(config: StudentConfig, tokenizer: StudentTokenizer) -> PixelSailProcessor:
    return PixelSailProcessor.of(config, tokenizer)


@pytest.fixture
def write(tmp_path: Path, tokenizer: StudentTokenizer) -> Write:
    """Writes the checkpoint of a student and says where it is."""

    def folder_of(student: PixelSail) -> Path:
        folder = tmp_path / "checkpoint"
        folder.mkdir(exist_ok=True)
        for name, data in checkpoint_files(student, tokenizer).items():
            (folder / name).write_bytes(data)
        return folder

    return folder_of


@pytest.fixture
def folder(student: PixelSail, write: Write) -> Path:
    return write(student)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What transformers warns of in its log."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Handler(logging.WARNING)
    logger = transformers_logging.get_logger("transformers")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


@pytest.fixture
def no_shape_checks() -> Iterator[None]:
    """Outside of tests nothing looks at annotations; the errors are our own then."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def inputs_of(tokenizer: StudentTokenizer) -> Callable[[list[EncodedRow]], dict[str, Any]]:
    """What the processor would give for rows, without labels."""
    from model.huggingface.processing import model_inputs

    def make(rows: list[EncodedRow]) -> dict[str, Any]:
        named = model_inputs(rows, tokenizer)
        del named["labels"]
        return named

    return make
