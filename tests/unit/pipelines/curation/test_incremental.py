"""A corpus that goes on from a parent has the rows of one that is made anew, and does work for what is new alone."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.curation import corpora
from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local, curate_with
from pipelines.curation.testing import Backwards, Killed, KilledAfter, polygon_of, write_coco
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.manifest import Manifest, verify_manifest
from storage.objects import Objects
from storage.schema import ImageRecord

_SIDE = 48
_BOXES = [[2, 3, 20, 20], [10, 10, 40, 30]]
_TEXTS = ["the cup", "a cup", "Cup.", "the red cup", "a dog"]
_OWN_FACTS = {"layer", "parents", "since_parent", "parts"}


def _picture(seed: int) -> Image.Image:
    """Smooth shapes, as photographs have and noise hasn't."""
    cells = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8))
    return cells.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)


def _encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def _pictures() -> dict[str, bytes]:
    """Some that look alike, some that are the same bytes under two names, two with one COCO id, one that is damaged."""
    plain = {f"{number}.png": _encoded(_picture(number)) for number in range(5)}
    alike = {f"alike{number}.jpg": _encoded(_picture(number), "JPEG", quality=60 + number) for number in range(3)}
    worse = {"worse0.jpg": _encoded(_picture(0), "JPEG", quality=30)}
    same = {"same0.png": plain["0.png"], "same4.png": plain["4.png"]}
    coco = {f"{name}000000000007.png": _encoded(_picture(20 + len(name))) for name in ("", "COCO_train2014_")}
    return {**plain, **alike, **worse, **same, **coco, "bad.png": b"no picture", "more.png": _encoded(_picture(30))}


class Lake:
    """A folder of sources that changes at random."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.draw = root, random.Random(seed)
        self.pictures = _pictures()
        self.sources: dict[str, dict[str, object]] = {}
        for name in self.draw.sample(sorted(self.pictures), 11):
            self._bring(name)
        for _ in range(4):
            self._write()

    def change(self) -> None:
        """One to three changes."""
        for _ in range(self.draw.randint(1, 3)):
            kind = self.draw.choice(["write", "write", "write", "drop", "bring", "mend"])
            if kind == "write":
                self._write()
            elif kind == "drop" and len(self.sources) > 2:
                del self.sources[self.draw.choice(sorted(self.sources))]
            elif kind == "bring":
                self._bring(self.draw.choice(sorted(self.pictures)))
            elif kind == "mend":
                self.pictures["bad.png"] = _encoded(_picture(40))
                self._bring("bad.png")

    def config(self, parent: Path | None = None) -> CurationConfig:
        order = self.draw.sample(sorted(self.sources), len(self.sources))
        rows = {"root": str(self.root), "sources": [self.sources[name] for name in order], "max_reject_share": 1}
        shards = {"images_per_shard": self.draw.choice([2, 3, 512])}
        return CurationConfig.model_validate({**rows, **shards, "parent": None if parent is None else str(parent)})

    def _bring(self, name: str) -> None:
        for folder in ("", "folder/") if name.startswith(("1", "alike")) else ("",):
            path = self.root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.pictures[name])

    def _write(self) -> None:
        """A source that is new, or another one in the place of an old one."""
        kind = self.draw.choice(["rows", "rows", "rows", "refs", "folder"])
        if kind == "folder":
            if (self.root / "folder").exists():
                self.sources["folder"] = {"kind": "images", "pictures": ["folder"], "images": ""}
        elif kind == "refs":
            self._write_refs(self.draw.choice(["g1", "g2"]))
        else:
            name = f"rows{self.draw.randint(0, 4)}.jsonl"
            (self.root / name).write_text("\n".join(json.dumps(self._row()) for _ in range(self.draw.randint(0, 9))))
            family = self.draw.choice(["one", "two"])
            self.sources[name] = {"kind": "generic", "rows": [name], "family": family}

    def _row(self) -> dict[str, object]:
        image = {
            "image": self.draw.choice([*self.pictures, "never.png"]),
            "split": self.draw.choice(["train"] * 5 + ["val"]),
        }
        if self.draw.random() < 0.4:
            return image | {"caption": self.draw.choice(_TEXTS)}
        if self.draw.random() < 0.1:
            return image | {"expression": "no mask"}
        box = {"segmentation": {"box_xyxy_px": self.draw.choice([*_BOXES, [50, 50, 60, 60]])}}
        return image | {"expression": self.draw.choice(_TEXTS)} | box

    def _write_refs(self, folder: str) -> None:
        names = self.draw.sample(sorted(self.pictures), 4)
        write_coco(
            self.root / folder / "instances.json",
            [{"id": n, "file_name": name, "height": _SIDE, "width": _SIDE} for n, name in enumerate(names)],
            [
                {"id": n, "image_id": n, "category_id": 1, "segmentation": polygon_of((2, 3, 20, 20))}
                for n in range(len(names))
            ],
        )
        refs = [
            {
                "ref_id": n,
                "image_id": n,
                "ann_id": [n],
                "split": self.draw.choice(["train", "train", "train", "testA"]),
                "sentences": [{"sent_id": 2 * n + k, "raw": self.draw.choice(_TEXTS)} for k in range(2)],
            }
            for n in range(len(names))
        ]
        (self.root / folder / "grefs(unc).json").write_text(json.dumps(refs))
        self.sources[folder] = {"kind": "grefcoco", "folder": folder, "images": ""}


def _content(output: Path) -> dict[str, object]:
    """All that doesn't depend on how a corpus came about."""
    corpus = Corpus.open(Objects.open(output))
    verify_manifest(corpus.objects)
    facts = {name: value for name, value in corpus.manifest.facts.items() if name not in _OWN_FACTS}
    images = sorted(corpus.images(), key=_image_id)
    assert len({image.image_id for image in images}) == len(images)
    return {
        "facts": facts,
        "samples": Counter(corpus.samples()),
        "images": images,
        "rejects": Counter(corpus.rejects()),
        "parts": sorted(json.dumps(part, sort_keys=True) for part in corpus.manifest.facts["parts"]),  # type: ignore[union-attr]
    }


def _image_id(image: ImageRecord) -> str:
    return image.image_id


@pytest.fixture(autouse=True)
def _no_pictures_in_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards follow from rows and facts, and drawing them takes most of the time."""
    monkeypatch.setattr(corpora, "card_files", lambda *arguments: {})


def _curate(config: CurationConfig, output: Path) -> Manifest:
    return curate_local(config, Objects.open(output), NullProgress())


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_changes_gives_the_rows_of_a_fresh_run(tmp_path: Path, seed: int) -> None:
    lake = Lake(tmp_path / "lake", seed)
    parent = tmp_path / "0"
    manifest = _curate(lake.config(), parent)
    for number in range(1, 5):
        lake.change()
        config, output = lake.config(parent), tmp_path / f"{number}"
        found = _curate(config, output)
        _curate(config.model_copy(update={"parent": None}), tmp_path / f"fresh{number}")
        if found.key == manifest.key:
            assert not [path for path in output.rglob("*") if path.is_file()]
            continue
        assert _content(output) == _content(tmp_path / f"fresh{number}")
        if found.facts["parents"]:
            assert found.facts["parents"] == [manifest.key, *manifest.facts["parents"]]  # type: ignore[misc]
        manifest, parent = found, output
