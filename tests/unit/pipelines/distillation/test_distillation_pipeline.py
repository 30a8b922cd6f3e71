from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.distillation import pipeline
from pipelines.distillation.config import FeaturesConfig, StudentGrid
from pipelines.distillation.pipeline import teach
from pipelines.distillation.plan import feature_grid
from pipelines.distillation.steps import decode_rgb
from pipelines.observer import NULL_OBSERVER
from storage.codecs import codec_of
from storage.corpus import Corpus, write_images, write_samples
from storage.errors import CorruptObject, TooManyRejects, UsageError
from storage.features import FeatureStore
from storage.manifest import Manifest, publish, verify_manifest
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, ImageRecord, Sample, Task
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.testing import textured_image
from tests.image_records import picture_record

pytestmark = pytest.mark.ray

TEACHER = Mask2FormerTeacherConfig(short_side_px=64, long_side_px=96)
# Five images of two shapes in shards of two: three shards and more, few seconds.
CONFIG = FeaturesConfig(
    codec="raw16", batch_size=2, images_per_shard=2, num_actors=1, num_cpus_per_decoder=0, max_reject_share=0.5
)
RAW16 = codec_of("raw16")
SIZES_PX = ((32, 48), (48, 32), (32, 48), (32, 48), (48, 32), (32, 48), (64, 64))


class Recorder:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, int, dict[str, object]]] = []

    def update(self, done: int, total: int, **facts: object) -> None:
        self.reports.append((done, total, facts))


def _image(number: int, torn: bool = False) -> ImageRecord:
    picture = textured_image(*SIZES_PX[number], number)
    return picture_record(picture, f"{number}.png", num_bytes=100 if torn else None)


def _corpus(folder: Path, images: list[ImageRecord], key: str) -> Corpus:
    objects = Objects.open(str(folder))
    samples = [
        Sample(
            sample_id=image.image_id,
            image_id=image.image_id,
            family="scenes",
            task=Task.UNLABELLED,
            split="val" if number == 0 else "train",
            source_file="",
            locator=str(number),
        )
        for number, image in enumerate(images)
    ]
    files = (write_images(objects, "0", images), write_samples(objects, "0", samples))
    publish(objects, Manifest("corpus", key, SCHEMA_VERSION, {}, {}, files))
    return Corpus.open(objects)


@pytest.fixture(scope="module")
def images() -> list[ImageRecord]:
    """Five images, the last of them torn."""
    return [_image(number, torn=number == 4) for number in range(5)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, images: list[ImageRecord]) -> Corpus:
    return _corpus(tmp_path_factory.mktemp("corpus"), images, "five")


@pytest.fixture(scope="module")
def taught(
    local_ray: None, tmp_path_factory: pytest.TempPathFactory, corpus: Corpus
) -> tuple[Objects, Manifest, Recorder]:
    """The store after one undisturbed run, with decoding in tasks of its own."""
    output, progress = Objects.open(str(tmp_path_factory.mktemp("store"))), Recorder()
    config = CONFIG.model_copy(update={"num_cpus_per_decoder": 0.5, "num_batches_ahead": 1})
    return output, teach(corpus, TEACHER, config, RAW16, output, progress), progress


def _files(objects: Objects) -> dict[str, bytes]:
    return {info.key: objects.read(info.key) for info in objects.list()}


def _expected(image: ImageRecord) -> np.ndarray:
    teacher = TEACHER.build()
    inputs = teacher.preprocess(decode_rgb(image.data or b""))[None]
    return teacher.forward(inputs)[0].numpy()


def test_every_image_has_features_or_a_reason(
    taught: tuple[Objects, Manifest, Recorder], images: list[ImageRecord]
) -> None:
    output, manifest, _ = taught
    store = FeatureStore.open(output)
    store.verify()
    for image in images[:4]:
        expected = _expected(image)
        # raw16 rounds to 11 bits; the rest is the batch's rounding.
        np.testing.assert_allclose(store[image.image_id], expected, rtol=1e-3, atol=1e-3)
    assert list(store.rejected) == [images[4].image_id]
    assert "can't be decoded" in store.rejected[images[4].image_id]
    assert manifest.facts["num_images"] == 4
    assert manifest.facts["rejects"] == {"teacher_failed": 1}


def test_statement_of_a_corpus_verifies_and_is_found_again(
    taught: tuple[Objects, Manifest, Recorder], corpus: Corpus
) -> None:
    output, manifest, _ = taught
    (statement,) = {info.key.rsplit("/", 1)[0] for info in output.list("corpora") if info.key.endswith("manifest.json")}
    assert verify_manifest(output.child(statement)) == manifest
    assert manifest.inputs["corpus"] == "five"
    before = _files(output)
    assert teach(corpus, TEACHER, CONFIG, RAW16, output) == manifest
    assert _files(output) == before


def test_progress_counts_images_and_rejects(taught: tuple[Objects, Manifest, Recorder]) -> None:
    reports = taught[2].reports
    assert reports[0] == (0, 5, {"unit": "images", "rejects": 0})
    done, total, facts = reports[-1]
    assert (done, total, facts["unit"], facts["rejects"]) == (5, 5, "images", 1)
    assert str(facts["waiting"]).endswith("%")
    assert [done for done, _, _ in reports] == sorted(done for done, _, _ in reports)


def test_interrupted_run_continues_to_the_same_bytes(
    taught: tuple[Objects, Manifest, Recorder], corpus: Corpus, tmp_path: Path
) -> None:
    output, manifest, _ = taught
    whole = _files(output)
    for key, data in whole.items():
        Objects.open(str(tmp_path)).create(key, data)
    shards = sorted(key for key in whole if "/c/" in key)
    assert len(shards) == 3
    # What a kill leaves: one shard is missing and nothing is published.
    shutil.rmtree(tmp_path / "index")
    shutil.rmtree(tmp_path / "corpora")
    for path in [*tmp_path.glob("parts/*/manifest.json"), *tmp_path.glob("parts/*/rows.parquet"), tmp_path / shards[1]]:
        path.unlink()
    kept = {key: (tmp_path / key).stat().st_mtime_ns for key in (shards[0], shards[2])}

    progress = Recorder()
    again = Objects.open(str(tmp_path))
    assert teach(corpus, TEACHER, CONFIG, RAW16, again, progress) == manifest
    assert _files(again) == whole
    assert {key: (tmp_path / key).stat().st_mtime_ns for key in kept} == kept
    assert progress.reports[0][0] in (3, 4)
    assert progress.reports[-1][:2] == (5, 5)


def test_new_images_make_a_new_part_and_only_they_are_computed(
    taught: tuple[Objects, Manifest, Recorder], images: list[ImageRecord], tmp_path: Path
) -> None:
    for key, data in _files(taught[0]).items():
        Objects.open(str(tmp_path / "store")).create(key, data)
    output = Objects.open(str(tmp_path / "store"))
    old = {key for key in _files(output) if key.startswith("parts/")}
    larger = _corpus(tmp_path / "corpus", [*images, _image(5), _image(6)], "seven")
    progress = Recorder()
    manifest = teach(larger, TEACHER, CONFIG, RAW16, output, progress)
    assert progress.reports[-1][:2] == (2, 2)
    assert manifest.facts["num_images"] == 6
    assert manifest.facts["num_rejected"] == 1
    store = FeatureStore.open(output)
    assert len(store.manifests) == 2
    assert old < set(_files(output))
    new = _image(6)
    np.testing.assert_allclose(store[new.image_id], _expected(new), rtol=1e-3, atol=1e-3)


def test_too_many_rejects_publish_nothing_and_the_students_grid_is_stored(
    local_ray: None, corpus: Corpus, images: list[ImageRecord], tmp_path: Path
) -> None:
    student = StudentGrid(patch_size_px=16, mask_stride_px=8, max_side_px=48)
    config = CONFIG.model_copy(update={"grid": "student", "student": student, "splits": ("train",)})
    output = Objects.open(str(tmp_path))
    strict = config.model_copy(update={"max_reject_share": 0.1})
    for _ in range(2):  # the second run starts no teacher: it reads the shards that are there
        with pytest.raises(TooManyRejects, match=rf"failed on 1 of 4 images.*{images[4].image_id}.*can't be decoded"):
            teach(corpus, TEACHER, strict, RAW16, output)
    assert not list(output.list("index"))

    manifest = teach(corpus, TEACHER, config, RAW16, output)
    assert (manifest.facts["num_images"], manifest.facts["num_rejected"]) == (3, 1)
    store = FeatureStore.open(output)
    assert images[0].image_id not in store  # in split `val` alone
    for image in images[1:4]:
        grid = feature_grid(config, TEACHER, "mask_features", image.height, image.width)
        assert grid == (image.height // 8, image.width // 8)
        native = torch.from_numpy(_expected(image))[None]
        expected = torch.nn.functional.interpolate(native, size=grid, mode="bilinear", align_corners=False)[0]
        np.testing.assert_allclose(store[image.image_id], expected.numpy(), rtol=1e-3, atol=1e-3)


def test_a_store_of_something_else_is_refused_before_anything_runs(
    taught: tuple[Objects, Manifest, Recorder], corpus: Corpus
) -> None:
    output = taught[0]
    with pytest.raises(UsageError, match="give each teacher, grid and encoding its own store"):
        teach(corpus, TEACHER, CONFIG, codec_of("int8"), output)


def test_memory_is_refused(corpus: Corpus) -> None:
    with pytest.raises(UsageError, match="Ray's processes can't share memory://"):
        teach(corpus, TEACHER, CONFIG, RAW16, Objects.open("memory://here/store"))


def test_a_row_that_holds_another_image_than_planned_is_not_decoded(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "corpus", [_image(0), _image(2)], "c")
    first, second = (image.image_id for image in corpus.images())
    url, key = corpus.objects.url, corpus.manifest.key
    pixels, failures = pipeline._decode_batch(NULL_OBSERVER, url, key, TEACHER, [(1, second), (0, first)], (64, 96))
    assert pixels.shape == (2, 3, 64, 96)
    assert not failures
    with pytest.raises(CorruptObject, match=f"row 1 holds image {second}, planned was {first}"):
        pipeline._decode_batch(NULL_OBSERVER, url, key, TEACHER, [(0, first), (1, first)], (64, 96))
