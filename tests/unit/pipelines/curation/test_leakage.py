"""The gate: no training sample on an evaluation picture, by whatever name, size or compression it is known."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.curation import corpora
from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.curation.judging import Verdicts
from pipelines.curation.testing import polygon_of, write_coco
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.errors import LeakingCorpus, SourceError
from storage.manifest import read_manifest
from storage.objects import Objects
from storage.schema import RejectReason

_CUP = polygon_of((3, 3, 20, 20))


def _picture(seed: int, side: int = 96) -> Image.Image:
    """Smooth shapes, as photographs have and noise hasn't."""
    draw = np.random.default_rng(seed)
    cells = Image.fromarray(draw.integers(0, 256, (7, 7, 3), np.uint8))
    return cells.resize((side, side), Image.Resampling.BICUBIC)


def _write(root: Path, folder: str, pictures: dict[str, bytes], splits: dict[str, str], side: int = 96) -> None:
    """A gRefCOCO source: one expression per picture, in the split that is named for it."""
    (root / "images/train2014").mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        (root / "images/train2014" / name).write_bytes(data)
    ids = {name: number for number, name in enumerate(pictures, start=1)}
    write_coco(
        root / folder / "instances.json",
        [{"id": n, "file_name": name, "height": side, "width": side} for name, n in ids.items()],
        [{"id": n, "image_id": n, "category_id": 1, "segmentation": _CUP} for n in ids.values()],
    )
    refs = [
        {
            "ref_id": n,
            "image_id": n,
            "ann_id": [n],
            "split": splits[name],
            "sentences": [{"sent_id": n, "raw": f"{folder} {n}"}],
        }
        for name, n in ids.items()
    ]
    (root / folder / "grefs(unc).json").write_text(json.dumps(refs))


def _bytes(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def _config(root: Path, *folders: str, **leakage: object) -> CurationConfig:
    sources = [{"kind": "grefcoco", "folder": folder} for folder in folders]
    return CurationConfig.model_validate({"root": str(root), "sources": sources, "leakage": leakage})


def _curate(config: CurationConfig, output: Path) -> Corpus:
    curate_local(config, Objects.open(output), NullProgress())
    return Corpus.open(Objects.open(output))


def _two_sets(root: Path) -> None:
    """`b` evaluates on what `a` trains on: the same bytes, the same COCO id, the same looks; one picture is free."""
    first, second, third, free = (_picture(seed) for seed in range(4))
    _write(
        root,
        "a",
        {
            "same.png": _bytes(first),
            "COCO_train2014_000000000007.png": _bytes(second),
            "looks.png": _bytes(third),
            "free.png": _bytes(free),
        },
        dict.fromkeys(["same.png", "COCO_train2014_000000000007.png", "looks.png", "free.png"], "train"),
    )
    _write(
        root,
        "b",
        {
            "copy.png": _bytes(first),
            "000000000007.png": _bytes(_picture(9)),
            "looks.jpg": _bytes(third, "JPEG", quality=60),
        },
        {"copy.png": "val", "000000000007.png": "testA", "looks.jpg": "testB"},
    )


def test_training_samples_on_evaluation_pictures_are_taken_out(tmp_path: Path) -> None:
    _two_sets(tmp_path / "in")
    corpus = _curate(_config(tmp_path / "in", "a", "b"), tmp_path / "out")
    assert {(sample.split, sample.turns[0].text) for sample in corpus.samples()} == {
        ("train", "a 4"),
        ("val", "b 1"),
        ("testA", "b 2"),
        ("testB", "b 3"),
    }
    details = {reject.locator: reject.detail for reject in corpus.rejects()}
    assert {reject.reason for reject in corpus.rejects()} == {RejectReason.LEAKAGE}
    assert details["ref_id=1/sent_id=1"] == "evaluation image of grefcoco val"
    assert details["ref_id=2/sent_id=2"] == "COCO id 7 is an evaluation image of grefcoco testA"
    assert "of 64 bits differ), an evaluation image of grefcoco testB" in details["ref_id=3/sent_id=3"]
    assert corpus.manifest.facts["leakage"] == {"grefcoco": {"samples_removed": 3, "images": 3}}
    assert corpus.manifest.facts["num_images"] == 4  # pictures that nobody needs any more are gone


@pytest.mark.parametrize("images_per_shard", [1, 3])
def test_shards_make_no_difference(tmp_path: Path, images_per_shard: int) -> None:
    _two_sets(tmp_path / "in")
    config = _config(tmp_path / "in", "a", "b")
    whole = _curate(config, tmp_path / "whole")
    cut = _curate(config.model_copy(update={"images_per_shard": images_per_shard}), tmp_path / "cut")
    assert {sample.sample_id for sample in cut.samples()} == {sample.sample_id for sample in whole.samples()}
    assert set(map(repr, cut.rejects())) == set(map(repr, whole.rejects()))


def test_a_gate_that_refuses_publishes_nothing_and_exits_with_3(tmp_path: Path) -> None:
    _two_sets(tmp_path / "in")
    with pytest.raises(LeakingCorpus, match=r"^3 pictures are trained on and evaluated on, such as .*gate=remove") as c:
        _curate(_config(tmp_path / "in", "a", "b", gate="refuse"), tmp_path / "out")
    assert c.value.exit_code == 3
    assert read_manifest(Objects.open(tmp_path / "out")) is None
    assert _curate(_config(tmp_path / "in", "a", gate="refuse"), tmp_path / "a").manifest.facts["num_samples"] == 4


def test_an_open_gate_keeps_all_and_says_so(tmp_path: Path) -> None:
    _two_sets(tmp_path / "in")
    corpus = _curate(_config(tmp_path / "in", "a", "b", gate="off"), tmp_path / "out")
    assert corpus.manifest.facts["num_samples"] == 7
    assert corpus.manifest.facts["leakage_gate"] == "off"


def test_what_is_about_to_be_published_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the verdicts are lost, whatever the reason, the corpus isn't published."""
    _two_sets(tmp_path / "in")
    monkeypatch.setattr(corpora, "judge", lambda *_: Verdicts({}, {}))
    with pytest.raises(LeakingCorpus, match=r"2 pictures are trained on and evaluated on.*isn't published"):
        _curate(_config(tmp_path / "in", "a", "b"), tmp_path / "out")
    assert read_manifest(Objects.open(tmp_path / "out")) is None


def test_lists_of_evaluation_ids(tmp_path: Path) -> None:
    _two_sets(tmp_path / "in")
    (tmp_path / "in/ids.json").write_text(json.dumps({"refcocog_umd_test": [3, 7], "other": []}))
    corpus = _curate(_config(tmp_path / "in", "a", evaluation_ids=["ids.json"]), tmp_path / "out")
    (reject,) = corpus.rejects()
    assert reject.detail == "COCO id 7 is an evaluation image of refcocog_umd_test"
    (tmp_path / "in/ids.json").write_text(json.dumps([8]))
    other = _curate(_config(tmp_path / "in", "a", evaluation_ids=["ids.json"]), tmp_path / "other")
    assert not list(other.rejects())
    assert other.manifest.key != corpus.manifest.key
    for bad in ("{", '{"a": 3}', '["7"]', "[true]"):
        (tmp_path / "in/ids.json").write_text(bad)
        with pytest.raises(SourceError, match=r"^ids\.json: expected .*COCO ids"):
            _curate(_config(tmp_path / "in", "a", evaluation_ids=["ids.json"]), tmp_path / "bad")


def test_held_out_pictures_change_sides_in_every_source(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(30)]
    for folder in ("a", "b"):
        _write(
            tmp_path / "in",
            folder,
            {n: _bytes(_picture(i)) for i, n in enumerate(names)},
            dict.fromkeys(names, "train"),
        )
    config = _config(tmp_path / "in", "a", "b")
    held = tuple(source.model_copy(update={"held_out_share": 0.3}) for source in config.sources)
    corpus = _curate(config.model_copy(update={"sources": held}), tmp_path / "out")
    assert not list(corpus.rejects())
    by_split: dict[str, set[str]] = {"train": set(), "val": set()}
    for sample in corpus.samples():
        by_split[sample.split].add(str(sample.image_id))
    assert not by_split["train"] & by_split["val"]
    assert 3 <= len(by_split["val"]) <= 16
    # Held out by one source alone, they can't be trained on by the other.
    one = _curate(config.model_copy(update={"sources": (held[0], config.sources[1])}), tmp_path / "one")
    assert {str(sample.image_id) for sample in one.samples(splits=("val",))} == by_split["val"]
    assert Counter(reject.reason for reject in one.rejects()) == {RejectReason.LEAKAGE: len(by_split["val"])}


def test_photographs_are_found_again_after_what_happens_to_them(shared_data: Path, tmp_path: Path) -> None:
    """150 real photographs against copies of them (smaller, recompressed, converted): all found, no other."""
    from pipelines.curation.steps.images import probe
    from pipelines.curation.steps.look_alikes import look_alikes

    paths = sorted((shared_data / "data/coco2017").glob("*2017/*.jpg")) + sorted(
        (shared_data / "data/refer_seg/images").rglob("*.jpg")
    )
    unique = {path.read_bytes(): path for path in paths}
    originals = [probe(data, 10**8, path.name) for data, path in unique.items()]
    copies = []
    for data in unique:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        half = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
        for changed in (_bytes(half, "JPEG", quality=75), _bytes(image, "JPEG", quality=40), _bytes(image, "WEBP")):
            copies.append(probe(changed, 10**8, "copy"))
    config = CurationConfig.model_validate({"sources": [{"kind": "grefcoco"}]}).leakage
    columns = [
        (
            np.array([item.difference_hash for item in side], np.int64).view(np.uint64),
            np.stack([np.frombuffer(item.thumbnail, np.uint8) for item in side]),
        )
        for side in (copies, originals)
    ]
    pairs = look_alikes(
        columns[0][0], columns[1][0], columns[0][1], columns[1][1], config.max_hash_distance, config.max_look_difference
    )
    found = {(row, other) for row, other, _ in pairs}
    assert len(originals) > 140
    right = {(row, row // 3) for row in range(len(copies))}
    assert len(right & found) / len(right) >= 0.99
    same_photograph = found - right
    assert not same_photograph, [sorted(same_photograph)[:5]]
