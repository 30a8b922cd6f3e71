"""Another encoding without computing anything again."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from storage.calibration import TIERS
from storage.codecs import codec_of
from storage.errors import UsageError
from storage.feature_transcode import calibrate_on_store, transcode
from storage.features import FeatureStore
from storage.klt import KltCodec
from storage.objects import Objects
from storage.testing import example_codec, example_features, publish_example_part


@pytest.fixture
def store() -> Objects:
    return Objects.open(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def source(store: Objects) -> FeatureStore:
    for number, row in enumerate(example_features()):
        publish_example_part(store.child("raw"), f"part{number}", [row], "raw16")
    return FeatureStore.open(store.child("raw"))


@pytest.mark.parametrize("tier", ["klt", "klt-20db"])
def test_features_come_in_the_other_encoding(store: Objects, source: FeatureStore, tier: str) -> None:
    calibration = calibrate_on_store(source, TIERS[tier])
    assert calibration.facts["features"] == "teacher"
    codec, seen = KltCodec(calibration), list[tuple[int, int]]()
    manifest = transcode(source, store.child("klt"), codec, on_shard=lambda done, total: seen.append((done, total)))
    assert manifest is not None
    assert seen == [(number, len(seen)) for number in range(1, len(seen) + 1)]
    found = FeatureStore.open(store.child("klt"))
    found.verify()
    assert found.rejected == source.rejected
    assert set(found) == set(source)
    assert source.description is not None
    assert found.description is not None
    assert found.description.fingerprint == source.description.fingerprint
    for image_id, values in found.items():
        np.testing.assert_array_equal(values, codec.encode(source[image_id]).dequantise())
    assert transcode(source, store.child("klt"), codec) is None


def test_only_what_is_missing_is_added(store: Objects, source: FeatureStore) -> None:
    target, int8 = store.child("int8"), codec_of("int8")
    publish_example_part(target, "taught", example_features()[:3], "int8")
    before = FeatureStore.open(target).read(["image0", "image1"])
    manifest = transcode(source, target, int8)
    assert manifest is not None
    assert (manifest.facts["num_images"], manifest.facts["num_rejected"]) == (4, 1)
    after = FeatureStore.open(target)
    assert len(after) == 7
    for one, other in zip(before, after.read(["image0", "image1"]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_errors_do_not_add_up(store: Objects, source: FeatureStore) -> None:
    coarse = store.child("int8")
    transcode(source, coarse, codec_of("int8"))
    with pytest.raises(UsageError, match="expected a finer encoding than raw16"):
        transcode(FeatureStore.open(coarse), store.child("other"), codec_of("raw16"))
    klt = store.child("klt")
    transcode(FeatureStore.open(coarse), klt, example_codec("klt"))
    with pytest.raises(UsageError, match="expected a finer encoding than klt"):
        transcode(FeatureStore.open(klt), store.child("other"), example_codec("klt-20db"))


def test_what_cannot_be_transcoded_is_named(store: Objects, source: FeatureStore) -> None:
    with pytest.raises(UsageError, match="holds no features to transcode"):
        transcode(FeatureStore.open(store.child("absent"), absent_ok=True), store.child("a"), codec_of("int8"))
    publish_example_part(store.child("b"), "part", example_features()[:1], "int8", fingerprint="another")
    with pytest.raises(UsageError, match=r"holds .*another.*, expected .*teacher"):
        transcode(source, store.child("b"), codec_of("int8"))
