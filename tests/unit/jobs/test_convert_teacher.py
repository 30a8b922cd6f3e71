"""`sailloft convert` of official teacher checkpoints."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from teachers.conversion.testing import official_mask2former, official_sam2
from teachers.mask2former import Mask2FormerSizes
from teachers.registry import parse_teacher
from teachers.sam2_sizes import Sam2Sizes
from tests.command_line import CommandLine


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs the command line in this process; gives exit code, standard output and standard error."""
    return CommandLine(monkeypatch, capfd)


@pytest.fixture
def sam2(tmp_path: Path) -> Path:
    path = tmp_path / "sam2.pt"
    torch.save({"model": official_sam2(Sam2Sizes().architecture())}, path)
    return path


@pytest.fixture
def mask2former(tmp_path: Path) -> Path:
    path = tmp_path / "model_final.pth"
    torch.save({"model": official_mask2former(Mask2FormerSizes().architecture()), "iteration": 9}, path)
    return path


SAM2_DETAILS = ("num_heads=1", "window_sizes=[8,4,8,4]", "global_attention_blocks=[3]")


@pytest.mark.parametrize(("kind", "details"), [("sam2", SAM2_DETAILS), ("mask2former", ())])
def test_a_teacher_is_converted(
    command: CommandLine,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    kind: str,
    details: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = request.getfixturevalue(kind)
    with caplog.at_level(logging.INFO, logger="jobs.convert_teacher"):
        code, out, _ = command("convert", source, tmp_path / "out", *details)
    assert code == 0
    assert f"official checkpoint of a teacher {kind}, a size of its own" in out
    assert "dropped  1 tensors (" in out
    assert "teachers.0.checkpoint=" in out
    assert "left out: no_obj_ptr" in caplog.text or "left out: sem_seg_head.predictor.query_feat.weight" in caplog.text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert f"{sum(tensor.numel() for tensor in weights.values()):,} parameters" in out
    assert parse_teacher({"kind": kind, "checkpoint": str(tmp_path / "out")}).build().num_channels == 32
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "its weights don't tell num_heads, window_sizes, global_attention_blocks"),
        (("num_head=1",), "num_head: no such field of a teacher; did you mean num_heads?"),
        (("num_heads=one",), "num_heads: Input should be a valid integer"),
        ((*SAM2_DETAILS, "--seed", "3"), "takes none of --format, --tokenizer and --seed"),
        ((*SAM2_DETAILS, "--format", "released"), "takes none of --format, --tokenizer and --seed"),
    ],
)
def test_wrong_usage(
    command: CommandLine, sam2: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = command("convert", sam2, tmp_path / "out", *arguments)
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_mask2former_takes_no_fields(command: CommandLine, mask2former: Path, tmp_path: Path) -> None:
    code, _, err = command("convert", mask2former, tmp_path / "out", "num_heads=3")
    assert code == 2
    assert "a Mask2Former's weights tell its whole architecture, got num_heads" in err


def test_bad_data(command: CommandLine, mask2former: Path, tmp_path: Path) -> None:
    content = torch.load(mask2former, weights_only=True)
    content["model"]["backbone.layers.0.blocks.0.mlp.fc2.bias"] = torch.zeros(3)
    torch.save(content, mask2former)
    code, _, err = command("convert", mask2former, tmp_path / "out")
    assert code == 3
    assert "don't fit each other" in err
    (tmp_path / "torn.pkl").write_bytes(b"\x80\x02}q\x00")
    code, _, err = command("convert", tmp_path / "torn.pkl", tmp_path / "out")
    assert code == 3
    assert "expected a whole pickle of numpy arrays" in err
    assert not (tmp_path / "out").exists()
