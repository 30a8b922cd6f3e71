from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch import Tensor

from pipelines.distillation.steps import (
    compute_features,
    decode_rgb,
    feature_rows,
    prepare_batch,
    resize_features,
)
from storage.corpus import image_bytes
from storage.errors import DataError, InfrastructureError
from storage.feature_plan import PlannedRow
from tests.image_records import picture_record


class StubTeacher:
    """Features that anybody can predict: channel means over 4 x 4 px, plus the mean of the whole batch times `leak`."""

    fingerprint = "stub"
    num_channels = 3

    def __init__(self, leak: float = 0.0) -> None:
        self.leak = leak
        self.batches: list[Tensor] = []

    def input_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        return height_px // 4 * 4, width_px // 4 * 4

    def output_grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        return height_px // 4, width_px // 4

    def preprocess(self, image: Image.Image) -> Tensor:
        height, width = self.input_size(image.height, image.width)
        return torch.from_numpy(np.array(image, np.float32)[:height, :width]).permute(2, 0, 1) / 255

    def forward(self, batch: Tensor) -> Tensor:
        self.batches.append(batch.clone())
        if bool((batch > 0.99).all((1, 2, 3)).any()):
            raise RuntimeError("all white")
        features = torch.nn.functional.avg_pool2d(batch, 4) + self.leak * batch.mean()
        features[(batch > 0.9).all((1, 2, 3))] = float("nan")
        return features


def _noise(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (height, width, 3), np.uint8)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    sink = io.BytesIO()
    Image.fromarray(_noise(8, 6, 0)).convert(mode).save(sink, "TIFF")
    image = decode_rgb(sink.getvalue())
    assert (image.mode, image.size) == ("RGB", (6, 8))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_truncated_pictures_are_refused(file_format: str) -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    data = picture_record(_noise(64, 64, 0), file_format).data
    assert data is not None
    for length in (0, 10, len(data) // 2):
        with pytest.raises(DataError, match="can't be decoded"):
            decode_rgb(data[:length])


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side in (11, 30):
        with pytest.raises(DataError, match="can't be decoded"):
            decode_rgb(picture_record(_noise(side, side, 0)).data or b"")


def test_bytes_come_from_the_record_or_its_uri(tmp_path: Path) -> None:
    record = picture_record(_noise(8, 8, 0))
    assert image_bytes(record) == record.data
    (tmp_path / "picture.png").write_bytes(record.data or b"")
    linked = replace(record, data=None, uri=f"{tmp_path}/picture.png")
    assert image_bytes(linked) == record.data
    (tmp_path / "picture.png").write_bytes(b"something else")
    with pytest.raises(DataError, match="holds other bytes now"):
        image_bytes(linked)
    with pytest.raises(DataError, match="no such object"):
        image_bytes(replace(record, data=None, uri=f"{tmp_path}/absent.png"))
    with pytest.raises(DataError, match="expected bytes or a URI"):
        image_bytes(replace(record, data=None))


def test_a_batch_has_zeros_where_an_image_cant_be_used() -> None:
    good = picture_record(_noise(8, 12, 0))
    torn = replace(picture_record(_noise(8, 12, 1)), data=(good.data or b"")[:30])
    other = replace(picture_record(_noise(12, 8, 2)), height=8, width=12)
    batch, failures = prepare_batch(StubTeacher(), [good, torn, other], (8, 12))
    assert tuple(batch.shape) == (3, 3, 8, 12)
    assert torch.equal(batch[0], StubTeacher().preprocess(decode_rgb(good.data or b"")))
    assert not batch[1:].any()
    assert sorted(failures) == [1, 2]
    assert "can't be decoded" in failures[1]
    assert failures[2] == "expected 8 x 12 px as in the corpus, got 12 x 8"


def test_healthy_batch_runs_once() -> None:
    teacher = StubTeacher()
    batch = torch.rand(3, 3, 8, 8) * 0.5
    features, failures = compute_features(teacher, batch, {})
    assert not failures
    assert len(teacher.batches) == 1
    assert torch.equal(features, torch.nn.functional.avg_pool2d(batch, 4))


@pytest.mark.parametrize(("level", "reason"), [(0.95, "not finite"), (1.0, "all white")])
def test_poison_becomes_zeros_and_the_batch_is_repeated(level: float, reason: str) -> None:
    # The stub leaks the batch's mean into every image, so that a repeat without zeros would show.
    batch = torch.rand(4, 3, 8, 8) * 0.5
    batch[2] = level
    before = batch.clone()
    features, failures = compute_features(StubTeacher(leak=1.0), batch, {})
    assert torch.equal(batch, before)
    assert list(failures) == [2]
    assert reason in failures[2]
    blank = batch.clone()
    blank[2] = 0
    assert torch.equal(features, StubTeacher(leak=1.0).forward(blank))


def test_several_kinds_of_poison_in_one_batch() -> None:
    batch = torch.rand(4, 3, 8, 8) * 0.5
    batch[0], batch[3] = 0.95, 1.0
    _, failures = compute_features(StubTeacher(), batch, {1: "can't be decoded"})
    assert sorted(failures) == [0, 1, 3]
    assert failures[1] == "can't be decoded"


def test_a_teacher_that_fails_on_zeros_blames_no_image() -> None:
    class Broken(StubTeacher):
        def forward(self, batch: Tensor) -> Tensor:
            raise RuntimeError("no device")

    with pytest.raises(InfrastructureError, match=r"fails on a blank batch .*no device"):
        compute_features(Broken(), torch.rand(2, 3, 8, 8), {})


def test_a_teacher_that_fails_on_no_image_alone_blames_none() -> None:
    class Small(StubTeacher):
        def forward(self, batch: Tensor) -> Tensor:
            if len(batch) > 1 and bool(batch.any()):
                raise RuntimeError("too large")
            return super().forward(batch)

    with pytest.raises(InfrastructureError, match="none of its images alone: too large"):
        compute_features(Small(), torch.rand(2, 3, 8, 8) * 0.5, {})


def test_a_coarser_grid_by_a_stride_is_antialiased() -> None:
    stripes = torch.zeros(1, 1, 16, 16)
    stripes[..., ::4] = 4.0
    assert resize_features(stripes, (4, 4), antialias=True).std() < 0.3
    assert resize_features(stripes, (4, 4)).std() == 0
    assert not resize_features(stripes, (4, 4)).any()  # every sample falls between the stripes
    (row,) = feature_rows([PlannedRow("a", 4, 4)], stripes, {}, antialias=True)
    assert row.values is not None
    np.testing.assert_array_equal(row.values, resize_features(stripes, (4, 4), antialias=True)[0].numpy())


def test_resize_is_the_one_of_the_loss() -> None:
    features = torch.rand(1, 2, 5, 7)
    expected = torch.nn.functional.interpolate(features, size=(3, 4), mode="bilinear", align_corners=False)
    assert torch.equal(resize_features(features, (3, 4)), expected)
    assert resize_features(features, (5, 7)) is features


def test_rows_carry_features_on_the_planned_grid_or_a_reason() -> None:
    features = torch.rand(2, 3, 4, 4)
    rows = feature_rows([PlannedRow("a", 4, 4), PlannedRow("b", 2, 2)], features, {1: "torn"})
    assert rows[0].values is not None
    assert rows[0].values.dtype == np.float32
    np.testing.assert_array_equal(rows[0].values, features[0].numpy())
    assert (rows[1].values, rows[1].detail, rows[1].height, rows[1].width) == (None, "torn", 2, 2)
