"""Pictures that anybody may have made: the formats of photographs alone, and no more pixels than PIL's own limit."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from jobs import cli
from pipelines.benchmark_building.drawing import decoded
from pipelines.distillation.steps import decode_rgb
from pipelines.evaluation.inference import picture_of
from storage.errors import DataError
from storage.pictures import PICTURE_FORMATS, open_picture
from tests.image_records import file_record

_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(hit) (w) file closefile\nshowpage\n"


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a run of Ghostscript leaves behind."""
    marker = tmp_path / "it-ran"
    program = tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho 10.0\necho "$@" >> {marker}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return marker


@pytest.mark.parametrize("form", PICTURE_FORMATS)
def test_formats_of_photographs_open(form: str, tmp_path: Path) -> None:
    path = tmp_path / "without-ending"
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(path, form)
    for file in (path, str(path), path.read_bytes()):
        with open_picture(file) as picture:
            assert (picture.format, picture.size) == (form, (8, 6))


def test_no_picture_reaches_another_program(
    ghostscript: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masking_checkpoint: Path
) -> None:
    """PIL goes by what stands in a file, so that a PostScript program may be called cat.jpg."""
    readers: list[Callable[[], object]] = [
        lambda: open_picture(_EPS).load(),
        lambda: decode_rgb(_EPS),
        lambda: picture_of(file_record(_EPS, 8, 8)),
        lambda: decoded(_EPS),
    ]
    for read in readers:
        with pytest.raises((OSError, DataError), match="cannot identify image file"):
            read()
    picture = tmp_path / "cat.jpg"
    picture.write_bytes(_EPS)
    monkeypatch.setattr(sys, "argv", ["sailloft", "predict", str(masking_checkpoint), str(picture), "the cat"])
    assert cli.main() == 2
    assert not ghostscript.exists()

    with Image.open(io.BytesIO(_EPS)) as unguarded, pytest.raises(OSError, match=r".*"):
        unguarded.load()
    assert ghostscript.exists(), "the test would see it run"


def _header(width: int, height: int) -> bytes:
    sink = io.BytesIO()
    Image.new("L", (1, 1)).save(sink, "BMP")
    data = bytearray(sink.getvalue())
    data[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    """Between PIL's limit and twice that PIL itself only warns."""
    data = _header(side, side)
    with pytest.raises(OSError, match="pixels"):
        open_picture(data)
    for read in (decode_rgb, lambda data: picture_of(file_record(data, 8, 8))):
        with pytest.raises(DataError, match="pixels"):
            read(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_where_the_warning_is_off() -> None:
    with pytest.raises(OSError, match="10000 x 10000 px, expected at most 89478485 px in all"):
        open_picture(_header(10_000, 10_000))


def test_the_limit_is_pils(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert open_picture(_header(60_000, 60_000)).size == (60_000, 60_000)
