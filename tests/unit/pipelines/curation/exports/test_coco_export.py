"""COCO JSON that pycocotools loads, with the masks that the corpus holds and every expression."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from pipelines.curation.exports.chosen import Chosen
from pipelines.curation.exports.coco import UNNAMED, export_coco
from pipelines.progress import NullProgress
from storage.corpus import Corpus, write_images, write_samples
from storage.errors import DataError, UsageError
from storage.manifest import Manifest, publish
from storage.masks import decode_mask
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, Sample
from tests.small_corpora import all_kinds_of_samples, noise_picture, write_labelled_corpus

# pycocotools' decoder triggers it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Samples of every form on three images."""
    return write_labelled_corpus(Objects.open(tmp_path / "corpus"))


def _export(corpus: Corpus, folder: Path, **chosen: list[str]) -> dict[str, COCO]:
    folder.mkdir()
    export_coco(Chosen(corpus, **chosen), folder, NullProgress())
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells how long it took
        return {path.stem: COCO(str(path)) for path in sorted((folder / "annotations").iterdir())}


def _expressions(coco: COCO, role: str) -> Counter[tuple[str, str]]:
    """(category, text) of the expressions of every annotation."""
    return Counter(
        (coco.cats[row["category_id"]]["name"], expression["text"])
        for row in coco.anns.values()
        for expression in row["expressions"]
        if expression["role"] == role
    )


def test_masks_and_boxes_round_trip_exactly(corpus: Corpus, tmp_path: Path) -> None:
    found = _export(corpus, tmp_path / "out")
    assert list(found) == ["train", "val"]
    for split, coco in found.items():
        expected: dict[str, set[tuple[bytes, str]]] = {}
        for sample in corpus.samples(splits=[split]):
            for region in sample.regions:
                assert sample.image_id is not None
                bitmap = decode_mask(region.mask)
                expected.setdefault(sample.image_id, set()).add((bitmap.tobytes(), region.category or UNNAMED))
        exported: dict[str, set[tuple[bytes, str]]] = {}
        for row in coco.anns.values():
            bitmap = coco.annToMask(row).astype(np.bool_)
            rows, columns = bitmap.nonzero()
            width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
            assert row["bbox"] == [columns.min(), rows.min(), width, height]
            assert row["area"] == bitmap.sum()
            image = coco.imgs[row["image_id"]]
            name = coco.cats[row["category_id"]]["name"]
            exported.setdefault(image["corpus_image_id"], set()).add((np.ascontiguousarray(bitmap).tobytes(), name))
        assert exported == expected
        # Equal masks of one category are one annotation.
        assert sum(map(len, exported.values())) == len(coco.anns)


def test_expressions_stand_where_they_belong(corpus: Corpus, tmp_path: Path) -> None:
    found = _export(corpus, tmp_path / "out")
    train, val = found["train"], found["val"]
    assert _expressions(train, "target") == {("cup", "the small cup"): 1, ("cup", "a cup"): 1}
    both = {("cup", "both of them"): 1, ("dog", "both of them"): 1}
    seg = {("cup", "what is beside <region1>?"): 1, ("dog", "what is beside <region1>?"): 1}
    assert _expressions(val, "target") == both | seg
    assert _expressions(val, "prompt") == {("cup", "what is beside <region1>?"): 1}
    assert _expressions(train, "prompt") == {
        (UNNAMED, "<region1>"): 1,
        ("cup", "compare <region1> with <region2>"): 1,
        ("dog", "compare <region1> with <region2>"): 1,
        ("dog", "and <region2>?"): 1,
    }
    (union,) = [
        expression
        for row in val.anns.values()
        for expression in row["expressions"]
        if expression["text"] == "both of them" and val.cats[row["category_id"]]["name"] == "dog"
    ]
    assert sorted(val.cats[val.anns[number]["category_id"]]["name"] for number in union["annotation_ids"]) == [
        "cup",
        "dog",
    ]
    unmasked = [expression for image in val.imgs.values() for expression in image["expressions"]]
    assert Counter(expression["role"] for expression in unmasked) == {"picture": 1, "prompt": 3}
    (caption,) = [expression for expression in unmasked if expression["role"] == "picture"]
    assert (caption["text"], caption["answer"], caption["task"]) == ("", "noise everywhere", "caption")
    (choice,) = [expression for expression in unmasked if expression["task"] == "multiple_choice"]
    assert choice["options"] == ["cup", "dog"]
    assert choice["prompts"] == [{"kind": "box", "box_xyxy_px": [2.5, 3.0, 30.0, 20.0], "points_xy_px": []}]
    (nothing,) = [expression for image in train.imgs.values() for expression in image["expressions"]]
    assert (nothing["role"], nothing["text"]) == ("no_target", "the third dog")


def test_pictures_lie_beside_it_byte_by_byte(corpus: Corpus, tmp_path: Path) -> None:
    found = _export(corpus, tmp_path / "out")
    data = {image.image_id: image.data for image in corpus.images()}
    images: list[dict[str, Any]] = [image for coco in found.values() for image in coco.imgs.values()]
    for image in images:
        assert (tmp_path / "out/images" / image["file_name"]).read_bytes() == data[image["corpus_image_id"]]
        assert (image["height"], image["width"]) == (48, 64)
    assert {Path(image["file_name"]).suffix for image in images} == {".png", ".jpg"}
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 3 + 2 + 1  # pictures, splits, README.md


def test_a_choice_of_splits_and_families(corpus: Corpus, tmp_path: Path) -> None:
    found = _export(corpus, tmp_path / "out", splits=["val"], families=["pointed", "told"])
    assert list(found) == ["val"]
    assert len(found["val"].imgs) == 1
    readme = (tmp_path / "out/README.md").read_text()
    assert "Only splits `val`." in readme
    assert "Only families `pointed`, `told`." in readme
    with pytest.raises(UsageError, match="no sample of split 'test'; the corpus has train, val"):
        Chosen(corpus, splits=["test"])
    with pytest.raises(UsageError, match=r"no sample of family 'refcoco'; the corpus has pointed, refer\+, told"):
        Chosen(corpus, families=["told", "refcoco"])


def test_samples_without_a_picture_are_counted(corpus: Corpus, tmp_path: Path) -> None:
    counts = export_coco(Chosen(corpus), tmp_path, NullProgress())
    assert (counts.images, counts.samples, counts.without_image, counts.splits) == (4, 11, 1, {"train", "val"})


def test_the_same_corpus_gives_the_same_bytes(corpus: Corpus, tmp_path: Path) -> None:
    def files(name: str) -> dict[str, bytes]:
        _export(corpus, tmp_path / name)
        return {
            path.relative_to(tmp_path / name).as_posix(): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }

    assert files("here") == files("there")


def _corpus_of(tmp_path: Path, samples: list[Sample], **facts: Any) -> Corpus:
    objects = Objects.open(tmp_path / "corpus")
    images = [noise_picture(number, 48, 64) for number in range(3)]
    files = (write_images(objects, "0", images[:1]), write_samples(objects, "0", samples))
    publish(objects, Manifest("corpus", "d" * 64, SCHEMA_VERSION, {}, {}, files, facts))
    return Corpus.open(objects)


def test_awkward_splits_and_a_picture_elsewhere(tmp_path: Path) -> None:
    images = [noise_picture(number, 48, 64) for number in range(3)]
    sample = all_kinds_of_samples(images)[0][0]
    corpus = _corpus_of(tmp_path, [replace(sample, split="../up"), replace(sample, split="a b.c", family="ü")])
    found = _export(corpus, tmp_path / "out")
    assert list(found) == ["-2e.-2fup", "a-20b.c"]
    text = next(iter(found["a-20b.c"].anns.values()))["expressions"][0]
    assert text["family"] == "ü"
    lost = _corpus_of(tmp_path / "lost", [replace(sample, image_id=images[2].image_id)])
    with pytest.raises(DataError, match=f"image {images[2].image_id} of a sample is not in the sample's shard"):
        export_coco(Chosen(lost), tmp_path, NullProgress())


def test_warnings_of_the_corpus_stand_in_the_readme(tmp_path: Path) -> None:
    images = [noise_picture(number, 48, 64) for number in range(3)]
    relabelled = {"a.json": {"testA": "train"}}
    corpus = _corpus_of(tmp_path, all_kinds_of_samples(images)[0][:1], leakage_gate="off", relabelled_splits=relabelled)
    _export(corpus, tmp_path / "out")
    lines = (tmp_path / "out/README.md").read_text().splitlines()
    assert lines[0].startswith("**Training samples may lie on evaluation images of other sets:**")
    assert lines[2] == f"# Export of corpus {'d' * 12}"
    assert lines[4].startswith("**Splits were given other names.**")
    assert json.loads((tmp_path / "out/annotations/train.json").read_text())["info"]["description"].startswith(
        "corpus d"
    )
