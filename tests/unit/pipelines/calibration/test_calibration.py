"""Fitting `klt` to a teacher: once, by its own record, and for whoever teaches afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.calibration.pipeline import calibrate
from pipelines.calibration.steps import (
    calibration_key,
    codec_for,
    fit_calibration,
    is_calibrated,
    sample_images,
)
from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.pipeline import teach
from storage.errors import CorruptObject, DataError, UsageError
from storage.features import FeatureStore
from storage.klt import CALIBRATION_NAME, KltCodec
from storage.manifest import verify_manifest
from storage.objects import Objects
from storage.schema import ImageRecord
from teachers.sam2 import Sam2TeacherConfig
from teachers.testing import textured_image
from tests.image_records import picture_record
from tests.small_corpora import write_corpus

TEACHER = Sam2TeacherConfig(image_size_px=128)
CONFIG = FeaturesConfig(num_actors=1, num_cpus_per_decoder=0, calibration_images=4)


def _image(number: int, torn: bool = False) -> ImageRecord:
    return picture_record(textured_image(48, 64, number), f"{number}.png", num_bytes=100 if torn else None)


def test_only_klt_is_calibrated() -> None:
    assert [is_calibrated(FeaturesConfig(codec=name)) for name in ("raw16", "int8", "klt", "klt-20db")] == [
        False,
        False,
        True,
        True,
    ]
    assert codec_for(FeaturesConfig(codec="int8")).encoding == "int8"
    with pytest.raises(UsageError, match="expected the folder of a calibration"):
        codec_for(CONFIG)


def test_a_key_covers_features_and_tier_alone() -> None:
    coarse = CONFIG.model_copy(update={"codec": "klt-20db"})
    more = CONFIG.model_copy(update={"calibration_images": 5, "batch_size": 1})
    assert calibration_key("f", CONFIG) == calibration_key("f", more)
    assert len({calibration_key("f", CONFIG), calibration_key("g", CONFIG), calibration_key("f", coarse)}) == 3


def test_a_sample_is_drawn_by_ids_alone() -> None:
    ids = [f"{number:064x}" for number in range(50)]
    drawn = sample_images(ids, 5)
    assert len(set(drawn)) == 5
    assert drawn == sample_images(ids[::-1], 5)
    assert drawn != ids[:5]
    assert sorted(sample_images(ids[:3], 5)) == ids[:3]


def test_images_on_which_the_teacher_fails_are_left_out() -> None:
    teacher, done = TEACHER.build(), list[int]()
    records = [_image(0), _image(1, torn=True), _image(2)]
    calibration = fit_calibration(teacher, records, CONFIG, "patches", done.append)
    assert calibration.facts["num_images"] == 2
    assert calibration.facts["teacher"] == teacher.fingerprint
    assert done == [1, 2, 3]
    with pytest.raises(DataError, match=r"expected features of at least one image; .*can't be decoded"):
        fit_calibration(teacher, records[1:2], CONFIG, "patches")


@pytest.mark.ray
def test_a_calibration_is_made_once_and_used_from_then_on(local_ray: None, tmp_path: Path) -> None:
    corpus = write_corpus(Objects.open(tmp_path / "corpus"), [_image(number) for number in range(6)], "some")
    folder = Objects.open(tmp_path / "calibration")
    manifest = calibrate(corpus, TEACHER, CONFIG, folder, "fingerprint")
    fewer = CONFIG.model_copy(update={"calibration_images": 2})
    assert verify_manifest(folder) == manifest
    assert (manifest.kind, manifest.facts["num_images"], manifest.facts["tier_db"]) == ("calibration", 4, 30)
    assert calibrate(corpus, TEACHER, fewer, folder, "fingerprint") == manifest
    # Of two at once the first one's calibration stands, also if it dies before its manifest.
    folder.delete("manifest.json")
    assert calibrate(corpus, TEACHER, fewer, folder, "fingerprint") == manifest

    codec = codec_for(CONFIG, folder)
    assert isinstance(codec, KltCodec)
    assert codec.encoding == manifest.facts["encoding"]
    named = FeaturesConfig(calibration=folder.url)
    assert codec_for(named).encoding == codec.encoding
    with pytest.raises(UsageError, match=r"expected a calibration for 20 dB .*, found one for 30 dB"):
        codec_for(named.model_copy(update={"codec": "klt-20db"}))

    teach(corpus, TEACHER, CONFIG, codec, Objects.open(tmp_path / "store"))
    store = FeatureStore.open(str(tmp_path / "store"))
    (facts,) = [part.facts for part in store.manifests]
    assert facts["calibration"] == codec.facts
    assert 29.5 <= float(str(facts["snr_db"])) <= 33
    exact = TEACHER.build()
    for number in range(6):
        image = _image(number)
        wanted = exact.forward(exact.preprocess(textured_image(48, 64, number))[None])[0].numpy()
        error = ((store[image.image_id] - wanted) ** 2).mean() / wanted.reshape(32, -1).var(axis=1).mean()
        assert error == pytest.approx(store.read_stored([image.image_id])[0].relative_mse, rel=0.05)
    np.testing.assert_array_equal(store[_image(0).image_id], FeatureStore.open(store.objects)[_image(0).image_id])


def test_a_damaged_calibration_is_refused(tmp_path: Path) -> None:
    folder = Objects.open(tmp_path)
    folder.create(CALIBRATION_NAME, b"nonsense")
    with pytest.raises(CorruptObject, match="not one of this version"):
        codec_for(CONFIG, folder)
    with pytest.raises(UsageError, match=r"features.calibration: .*no such object"):
        codec_for(FeaturesConfig(calibration=str(tmp_path / "absent")))
