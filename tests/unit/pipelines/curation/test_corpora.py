"""From sources to corpus in one process: addresses, images, facts."""

from __future__ import annotations

import gc
import json
import pickle
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pytest

from pipelines.curation import shard_files
from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import VERSION, curate_local, curation_key
from pipelines.curation.testing import polygon_of, write_coco, write_picture
from pipelines.progress import NullProgress
from storage.corpus import Corpus, write_samples
from storage.errors import CorruptObject, SourceError
from storage.manifest import FileEntry, read_manifest, verify_manifest
from storage.objects import Objects
from storage.schema import Sample


def _write(root: Path) -> CurationConfig:
    """Three expressions on two pictures; the second picture lies there under two names."""
    folder = root / "images/train2014"
    write_picture(folder / "COCO_train2014_000000000025.png", seed=1)
    write_picture(folder / "plain.png", seed=2)
    shutil.copy(folder / "plain.png", folder / "COCO_train2014_000000000009.png")
    names = {1: "COCO_train2014_000000000025.png", 2: "plain.png", 3: "COCO_train2014_000000000009.png"}
    write_coco(
        root / "refcoco/instances.json",
        [{"id": n, "file_name": name, "height": 24, "width": 32} for n, name in names.items()],
        [{"id": n, "image_id": n, "category_id": 1, "segmentation": polygon_of((1, 1, 9, 9))} for n in names],
    )
    refs = [
        {
            "ref_id": n,
            "image_id": n,
            "ann_id": n,
            "split": "testA",
            "sentences": [{"sent_id": n, "raw": f"Cup {n}."}],
        }
        for n in names
    ]
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs))
    source = {"kind": "refcoco", "relabel_splits": {"testA": "train"}}
    return CurationConfig.model_validate({"root": str(root), "sources": [source]})


class _Recorder:
    def __init__(self) -> None:
        self.reports: list[tuple[int, int, object]] = []

    def update(self, done: int, total: int, **facts: object) -> None:
        self.reports.append((done, total, facts.get("unit")))


def test_a_picture_under_two_names_is_one_image(tmp_path: Path) -> None:
    recorder = _Recorder()
    output = Objects.open(tmp_path / "out")
    curate_local(_write(tmp_path / "in"), output, recorder)
    corpus = Corpus.open(output)
    images = {image.coco_id: image for image in corpus.images()}
    assert set(images) == {25, 9}
    assert images[9].sources == (
        "images/train2014/COCO_train2014_000000000009.png",
        "images/train2014/plain.png",
    )
    assert images[9].data == (tmp_path / "in/images/train2014/plain.png").read_bytes()
    assert (images[9].media_type, images[9].uri) == ("image/png", None)
    texts = {sample.turns[0].text for sample in corpus.samples() if sample.image_id == images[9].image_id}
    assert texts == {"cup 2", "cup 3"}
    assert recorder.reports == [(1, 1, "parts of sources read"), (3, 3, "pictures read"), (1, 1, "shards")]


def test_facts_and_card_say_what_was_relabelled(tmp_path: Path) -> None:
    output = Objects.open(tmp_path / "out")
    manifest = curate_local(_write(tmp_path / "in"), output, NullProgress())
    assert manifest.kind == "corpus"
    (part,) = cast("list[dict[str, object]]", manifest.facts["parts"])
    assert part.keys() == {"key", "pictures", "records_in"}
    assert dict(manifest.facts) == {
        "num_images": 2,
        "num_samples": 3,
        "num_rejects": 0,
        "samples": {"refcoco": {"referring": {"train": 3}}},
        "rejects_by_reason": {},
        "rejects_by_source": {},
        "records_in": {"refcoco/refs(unc).p": 3},
        "samples_by_source": {"refcoco/refs(unc).p": 3},
        "leakage_gate": "remove",
        "leakage": {},
        "relabelled_splits": {"refcoco/refs(unc).p": {"testA": "train"}},
        "curation_version": VERSION,
        "layer": 0,
        "parents": [],
        "parts": [{"key": part["key"], "pictures": None, "records_in": {"refcoco/refs(unc).p": 3}}],
    }
    assert "`testA` became `train`" in output.read("README.md").decode()
    assert str(tmp_path) not in output.read("manifest.json").decode()
    verify_manifest(output)


def test_the_key_follows_content_not_place(tmp_path: Path) -> None:
    config = _write(tmp_path / "a")
    key = curation_key(config)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert curation_key(config.model_copy(update={"root": str(tmp_path / "b")})) == key
    assert curate_local(config, Objects.open(tmp_path / "out"), NullProgress()).key == key
    write_picture(tmp_path / "b/images/train2014/plain.png", seed=9)
    changed = curation_key(config.model_copy(update={"root": str(tmp_path / "b")}))
    (tmp_path / "b/images/train2014/plain.png").unlink()
    without = curation_key(config.model_copy(update={"root": str(tmp_path / "b")}))
    assert len({key, changed, without}) == 3


def test_inputs_of_an_earlier_stage_stand_for_what_they_hold(tmp_path: Path) -> None:
    config = _write(tmp_path / "in")
    inputs = {"scenes": "0" * 64}
    output = Objects.open(tmp_path / "out")
    manifest = curate_local(config, output, NullProgress(), inputs)
    assert manifest.key == curation_key(config, inputs) != curation_key(config)
    assert dict(manifest.inputs) == inputs
    shutil.rmtree(tmp_path / "in")  # a corpus that is there needs no source
    assert curate_local(config, output, NullProgress(), inputs) == manifest


def test_everything_in_memory(tmp_path: Path) -> None:
    config = _write(tmp_path / "in")
    source = Objects.open(f"memory://{uuid.uuid4().hex}/in")
    for path in (tmp_path / "in").rglob("*.*"):
        source.create(path.relative_to(tmp_path / "in").as_posix(), path.read_bytes())
    output = Objects.open(f"memory://{uuid.uuid4().hex}/out")
    manifest = curate_local(config.model_copy(update={"root": source.url}), output, NullProgress())
    local = Objects.open(tmp_path / "out")
    assert curate_local(config, local, NullProgress()) == manifest
    assert {i.key: output.read(i.key) for i in output.list()} == {i.key: local.read(i.key) for i in local.list()}


def test_images_may_lie_elsewhere(tmp_path: Path) -> None:
    config = _write(tmp_path / "in")
    shutil.move(tmp_path / "in/images/train2014", tmp_path / "pictures")
    source = config.sources[0].model_copy(update={"image_root": str(tmp_path / "pictures"), "images": ""})
    moved = config.model_copy(update={"sources": (source,)})
    manifest = curate_local(moved, Objects.open(tmp_path / "out"), NullProgress())
    assert manifest.facts["num_samples"] == 3


def test_a_lost_row_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that loses the samples of a shard, whatever the reason, publishes nothing."""
    config = _write(tmp_path / "in")
    output = Objects.open(tmp_path / "out")

    def forgetful(objects: Objects, name: str, samples: Iterable[Sample]) -> FileEntry:
        return write_samples(objects, name, list(samples)[1:])

    monkeypatch.setattr(shard_files, "write_samples", forgetful)
    with pytest.raises(CorruptObject, match=r"refs\(unc\)\.p: expected 3 records as samples and rejects, found 2"):
        curate_local(config, output, NullProgress())
    assert read_manifest(output) is None


def test_the_collector_is_as_it_was_after_a_run_and_after_an_error(tmp_path: Path) -> None:
    config = _write(tmp_path / "in")
    before = gc.get_threshold()
    curate_local(config, Objects.open(tmp_path / "out"), NullProgress())
    assert gc.get_threshold() == before
    (tmp_path / "in/refcoco/refs(unc).p").write_bytes(b"no pickle")
    with pytest.raises(SourceError, match="expected a whole pickle"):
        curate_local(config, Objects.open(tmp_path / "again"), NullProgress())
    assert gc.get_threshold() == before


def test_an_image_without_samples_is_left_out(tmp_path: Path) -> None:
    config = _write(tmp_path / "in")
    path = tmp_path / "in/refcoco/instances.json"
    coco = json.loads(path.read_text())
    coco["annotations"][0]["segmentation"] = polygon_of((100, 100, 110, 110))
    path.write_text(json.dumps(coco))
    output = Objects.open(tmp_path / "out")
    manifest = curate_local(config, output, NullProgress())
    assert manifest.facts["num_images"] == 1
    assert manifest.facts["rejects_by_source"] == {"refcoco/refs(unc).p": {"mask_outside_image": 1}}
