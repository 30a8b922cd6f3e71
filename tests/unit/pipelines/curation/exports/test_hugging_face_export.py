"""A folder that `datasets` loads, with pictures decoded and samples as the corpus has them."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from pipelines.curation.exports import hugging_face
from pipelines.curation.exports.chosen import Chosen
from pipelines.curation.exports.hugging_face import export_hugging_face
from pipelines.progress import NullProgress
from storage.corpus import Corpus, samples_to_table, write_images, write_samples
from storage.errors import DataError
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, Sample
from tests.small_corpora import all_kinds_of_samples, noise_picture, write_labelled_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Samples of every form on three images."""
    return write_labelled_corpus(Objects.open(tmp_path / "corpus"))


def _export(corpus: Corpus, folder: Path, **chosen: list[str]) -> Path:
    folder.mkdir()
    export_hugging_face(Chosen(corpus, **chosen), folder, NullProgress())
    return folder


def _rows(samples: list[Sample]) -> list[dict[str, Any]]:
    return samples_to_table(samples).drop_columns(["image_id"]).to_pylist()


def test_datasets_loads_pictures_and_samples(corpus: Corpus, tmp_path: Path) -> None:
    folder = _export(corpus, tmp_path / "out")
    loaded: Any = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train", "val"]
    images = {image.image_id: image for image in corpus.images()}
    for split, rows in loaded.items():
        assert isinstance(rows.features["image"], datasets.Image)
        expected = list(corpus.samples(splits=[split]))
        by_image = {row["image_id"]: row for row in rows}
        assert set(by_image) == {sample.image_id for sample in expected}
        for image_id, row in by_image.items():
            assert row["samples"] == _rows([sample for sample in expected if sample.image_id == image_id])
            if image_id is None:
                assert (row["image"], row["height"]) == (None, None)
                continue
            image = images[image_id]
            with Image.open(io.BytesIO(image.data or b"")) as picture:
                assert (np.asarray(row["image"]) == np.asarray(picture)).all()
            assert (row["height"], row["width"], row["sources"]) == (48, 64, list(image.sources))


def test_streaming_and_plain_parquet(corpus: Corpus, tmp_path: Path) -> None:
    folder = _export(corpus, tmp_path / "out", splits=["val"])
    (path,) = (folder / "data").iterdir()
    assert path.name == "val-00000-of-00001.parquet"
    streamed: Any = datasets.load_dataset(str(folder), split="val", streaming=True)
    assert sorted(str(row["image_id"]) for row in streamed) == sorted(
        {str(sample.image_id) for sample in corpus.samples(splits=["val"])}
    )
    # The files alone tell that `image` is a picture, too.
    alone: Any = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(alone.features["image"], datasets.Image)
    for row in pq.read_table(path).to_pylist():
        if row["image"] is not None:
            assert hashlib.sha256(row["image"]["bytes"]).hexdigest() == row["image_id"]
            assert row["image"]["path"].startswith(row["image_id"])


def test_the_head_states_the_features_that_datasets_knows(corpus: Corpus, tmp_path: Path) -> None:
    folder = _export(corpus, tmp_path / "out")
    head = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert head["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "data/train-*.parquet"},
                {"split": "val", "path": "data/val-*.parquet"},
            ],
        }
    ]
    schema = pq.read_schema(next((folder / "data").iterdir()))
    features = datasets.Features.from_arrow_schema(schema)
    assert isinstance(features["image"], datasets.Image)
    assert head["dataset_info"]["features"] == features._to_yaml_list()  # what `push_to_hub` would write


def test_files_are_cut_by_size(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugging_face, "_GROUP_ROWS", 1)
    monkeypatch.setattr(hugging_face, "_FILE_BYTES", 1)
    folder = _export(corpus, tmp_path / "out", families=["refer+"], splits=["train"])
    assert sorted(path.name for path in (folder / "data").iterdir()) == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    loaded: Any = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert Counter(len(row["samples"]) for row in loaded) == {2: 1, 1: 1}


def test_the_same_corpus_gives_the_same_bytes(corpus: Corpus, tmp_path: Path) -> None:
    here, there = (_export(corpus, tmp_path / name) for name in ("here", "there"))
    files = sorted(path.relative_to(here) for path in here.rglob("*") if path.is_file())
    assert [(here / name).read_bytes() for name in files] == [(there / name).read_bytes() for name in files]
    assert len(files) == 3


def test_splits_get_names_that_datasets_takes(tmp_path: Path) -> None:
    image = noise_picture(0, 48, 64)
    sample = all_kinds_of_samples([noise_picture(number, 48, 64) for number in range(3)])[0][0]
    objects = Objects.open(tmp_path / "corpus")
    rows = [replace(sample, split=split, sample_id=split) for split in ("test-A", "test.A")]
    files = (write_images(objects, "0", [image]), write_samples(objects, "0", rows))
    publish(objects, Manifest("corpus", "d" * 64, SCHEMA_VERSION, {}, {}, files))
    corpus = Corpus.open(objects)
    folder = _export(corpus, tmp_path / "out", splits=["test-A"])
    loaded: Any = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["test_A"]
    with pytest.raises(DataError, match=r"splits 'test-A' and 'test\.A': both would be called 'test_A'"):
        _export(corpus, tmp_path / "both")
