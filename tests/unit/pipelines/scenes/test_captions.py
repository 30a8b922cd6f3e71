from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from pipelines.curation.steps.webdataset import iterate_shard
from pipelines.progress import NullProgress
from pipelines.scenes import ScenesConfig, captions
from pipelines.scenes.blocks import PictureFacts, image_key, plan_blocks, read_facts
from pipelines.scenes.captions import caption_of, caption_shards
from pipelines.scenes.chance import Chance
from pipelines.scenes.config import SplitSizes
from pipelines.scenes.generate import generate
from storage.manifest import verify_manifest
from storage.objects import Objects

CONFIG = ScenesConfig(size_px=64, splits=SplitSizes(train=5, val=2), captions="pictures")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    output = Objects.open(tmp_path_factory.mktemp("captions"))
    generate(CONFIG, output, NullProgress())
    return output


def _pictures(scenes: Objects) -> list[PictureFacts]:
    return [picture for block in plan_blocks(CONFIG) for picture in read_facts(scenes, block)[0]["pictures"]]


def test_a_caption_names_every_object_with_all_its_looks(scenes: Objects) -> None:
    for picture in _pictures(scenes):
        phrases = caption_of(picture, 64, Chance("a", picture["image_id"])).split(", ")
        said = sorted(sorted(set(phrase.split()) & _looks(picture)) for phrase in phrases)
        there = [[item["size"], item["colour"], item["shape"], item["texture"]] for item in picture["objects"]]
        assert said == sorted(sorted(set(words) - {"plain"}) for words in there)


def _looks(picture: PictureFacts) -> set[str]:
    names = ("size", "colour", "shape", "texture")
    return {item[name] for item in picture["objects"] for name in names} - {"plain"}


def test_order_is_of_chance_and_repeats_itself(scenes: Objects) -> None:
    picture = _pictures(scenes)[0]
    texts = [caption_of(picture, 64, Chance("seed", number)) for number in range(20)]
    assert texts == [caption_of(picture, 64, Chance("seed", number)) for number in range(20)]
    assert len(set(texts)) > 10


def test_shards_hold_the_pictures_themselves(scenes: Objects) -> None:
    for split, count in (("train", 5), ("val", 2)):
        data = scenes.read(f"image_text/{split}/00000.tar")
        assert len(list(iterate_shard(io.BytesIO(data), split))) == count
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            names = archive.getnames()
            assert len(names) == 3 * count
            for name in names[::3]:
                key = name.removesuffix(".png")
                picture, text, facts = (archive.extractfile(f"{key}.{suffix}") for suffix in ("png", "txt", "json"))
                assert picture is not None
                assert text is not None
                assert facts is not None
                assert picture.read() == scenes.read(image_key(int(key)))
                assert json.loads(facts.read())["caption"] == text.read().decode()


def test_objects_are_cut_out_with_their_own_caption(scenes: Objects) -> None:
    pictures = _pictures(scenes)[:1]
    ((key, data, count),) = caption_shards(pictures, "objects", 64, 0, scenes)
    assert (key, count) == ("image_text/train/00000.tar", len(pictures[0]["objects"]))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for number, item in enumerate(pictures[0]["objects"]):
            stem = f"{pictures[0]['image_id']:015d}_{number:02d}"
            picture, text = archive.extractfile(f"{stem}.png"), archive.extractfile(f"{stem}.txt")
            assert picture is not None
            assert text is not None
            words = {item["size"], item["colour"], item["shape"], item["texture"]} - {"plain"}
            assert set(text.read().decode().split()) == words
            left, top, width, height = item["bbox"]
            with Image.open(picture) as cut, Image.open(io.BytesIO(_whole(scenes, pictures[0]))) as whole:
                box = (max(left - 4, 0), max(top - 4, 0), min(left + width + 4, 64), min(top + height + 4, 64))
                assert cut.tobytes() == whole.crop(box).tobytes()


def _whole(scenes: Objects, picture: PictureFacts) -> bytes:
    return scenes.read(image_key(picture["image_id"]))


def test_many_pictures_are_divided(scenes: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "_RECORDS_PER_SHARD", 2)
    shards = [(key, count) for key, _, count in caption_shards(_pictures(scenes), "pictures", 64, 0, scenes)]
    assert shards == [
        ("image_text/train/00000.tar", 2),
        ("image_text/train/00001.tar", 2),
        ("image_text/train/00002.tar", 1),
        ("image_text/val/00000.tar", 2),
    ]


def test_captions_are_written_only_where_they_are_asked_for(tmp_path: Path, scenes: Objects) -> None:
    plain = Objects.open(tmp_path)
    manifest = generate(CONFIG.model_copy(update={"captions": "none"}), plain, NullProgress())
    assert not list(plain.list("image_text"))
    with_captions = verify_manifest(scenes)
    assert {entry.path for entry in with_captions.files} - {entry.path for entry in manifest.files} == {
        "image_text/train/00000.tar",
        "image_text/val/00000.tar",
    }
