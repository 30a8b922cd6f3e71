"""Checkpoints with a program in them, at every door by which files of others come in: it is refused and never runs.

What each door reads besides is tested beside its module.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import BertConfig, CLIPVisionConfig, LlamaConfig, LlavaConfig, Qwen2Config

from jobs import cli
from model.checkpoint import load_checkpoint
from model.huggingface.modeling import PixelSailForConditionalGeneration
from pipelines.benchmark_building.captioners.local_model import LocalModelCaptioner, LocalModelCaptionerConfig
from pipelines.evaluation.metrics.phrases import PhraseEncoder
from storage.errors import ObjectNotFound, SailloftError, UnsafePickle
from storage.objects import Objects
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.packaged import packaged_teachers
from teachers.radio import RadioTeacherConfig
from teachers.sam2 import Sam2TeacherConfig
from tests.masking_student import write_masking_student

Write = Callable[[Path], None]


class Planted:
    """Runs a shell command where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.command = f"touch {marker}"

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What the program leaves behind where it runs."""
    return tmp_path / "it-ran"


@pytest.fixture(params=["zip", "legacy", "pickle"])
def write(request: pytest.FixtureRequest, marker: Path) -> Write:
    """Writes weights with a program among them, in each form that torch reads."""

    def write(path: Path) -> None:
        content = {"model": {"norm.weight": torch.ones(2), "planted": Planted(marker)}}
        if request.param == "pickle":
            path.write_bytes(pickle.dumps(content, protocol=2))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=request.param == "zip")

    return write


def test_the_trap_works(write: Write, marker: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.pt")
    try:
        torch.load(tmp_path / "a.pt", weights_only=False)
    except (RuntimeError, pickle.UnpicklingError):  # a plain pickle
        pickle.loads((tmp_path / "a.pt").read_bytes())
    assert marker.exists()


def without_weights(name: str, target: Path) -> Path:
    """The folder of a packaged teacher, less its weights."""
    shutil.copytree(packaged_teachers()[name], target)
    (target / "model.safetensors").unlink()
    return target


@pytest.mark.parametrize(
    ("packaged", "kind"), [("tiny-sam2", Sam2TeacherConfig), ("tiny-mask2former", Mask2FormerTeacherConfig)]
)
def test_a_teachers_folder(packaged: str, kind: Callable[..., Any], write: Write, marker: Path, tmp_path: Path) -> None:
    folder = without_weights(packaged, tmp_path / "teacher")
    write(folder / "pytorch_model.bin")
    with pytest.raises(
        UnsafePickle, match=r"/teacher: expected tensors alone, but a file of it asks for (posix\.system|torch\.)"
    ):
        kind(checkpoint=str(folder)).build()
    assert not marker.exists()


@pytest.mark.parametrize("suffix", ["pt", "pth", "pkl"])
@pytest.mark.parametrize("kind", [Sam2TeacherConfig, Mask2FormerTeacherConfig])
def test_a_teachers_official_file(
    kind: Callable[..., Any], suffix: str, write: Write, marker: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"official.{suffix}"
    write(path)
    with pytest.raises(SailloftError, match=rf"official\.{suffix}: "):
        kind(checkpoint=str(path)).build()
    assert not marker.exists()


def test_a_radio_teachers_file(write: Write, marker: Path, tmp_path: Path) -> None:
    write(tmp_path / "radio.pth.tar")
    write(tmp_path / "pytorch_model.bin")
    for checkpoint in (tmp_path / "radio.pth.tar", tmp_path):
        with pytest.raises((SailloftError, OSError), match=r".+"):
            RadioTeacherConfig(checkpoint=str(checkpoint)).build()
    assert not marker.exists()


def test_a_student(write: Write, marker: Path, tmp_path: Path) -> None:
    """Safetensors are the only weights of a student that are read; transformers' own way refuses the rest."""
    folder = write_masking_student(tmp_path / "student")
    (folder / "model.safetensors").unlink()
    write(folder / "pytorch_model.bin")
    with pytest.raises(ObjectNotFound, match=r"model\.safetensors: no such object"):
        load_checkpoint(Objects.open(folder))
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        PixelSailForConditionalGeneration.from_pretrained(folder)
    assert not marker.exists()


def test_encoders_and_captioners(write: Write, marker: Path, tmp_path: Path) -> None:
    bert, llava = tmp_path / "bert", tmp_path / "llava"
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertConfig(vocab_size=6, **sizes).save_pretrained(bert)
    (bert / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=28, patch_size=14, **sizes),
        text_config=LlamaConfig(vocab_size=9, **sizes),
        architectures=["LlavaForConditionalGeneration"],
    ).save_pretrained(llava)
    for folder in (bert, llava):
        write(folder / "pytorch_model.bin")
    with pytest.raises(SailloftError, match=r"phrase_encoder .*: expected a text encoder .* it asks for \S+; download"):
        PhraseEncoder(str(bert))
    with pytest.raises(
        SailloftError, match=r"captioner\.checkpoint .*: expected the folder of a model .* it asks for \S+; download"
    ):
        LocalModelCaptioner(LocalModelCaptionerConfig(checkpoint=str(llava)))
    assert not marker.exists()


def test_the_command_line(
    write: Write, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Bad data is 3; a student's weights that aren't where they belong are 4, as whatever isn't there."""
    student = write_masking_student(tmp_path / "student")
    (student / "model.safetensors").unlink()
    base = tmp_path / "base"
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    Qwen2Config(vocab_size=9, architectures=["Qwen2ForCausalLM"], **sizes).save_pretrained(base)
    shutil.copy(student / "tokenizer.json", base)
    for path in (
        tmp_path / "sam2.pt",
        tmp_path / "mask2former.pkl",
        *(f / "pytorch_model.bin" for f in (base, student)),
    ):
        write(path)
    out, picture = tmp_path / "out", tmp_path / "cat.png"
    Image.new("RGB", (16, 16)).save(picture)
    commands: list[tuple[int, tuple[object, ...]]] = [
        (3, ("convert", tmp_path / "sam2.pt", out)),
        (3, ("convert", tmp_path / "mask2former.pkl", out)),
        (3, ("convert", base, out)),
        (4, ("predict", student, picture, "the cat")),
    ]
    for code, arguments in commands:
        monkeypatch.setattr(sys, "argv", ["sailloft", *map(str, arguments)])
        assert cli.main() == code, arguments
        said = "".join(capfd.readouterr())
        assert "Traceback" not in said
        assert "weights_only" not in said, "torch's advice to load it all the same"
    assert not marker.exists()
    assert not out.exists()
