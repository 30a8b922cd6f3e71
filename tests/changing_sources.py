"""A folder of sources of five families that changes at random, for corpora that go on from each other."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines.curation.config import CurationConfig
from pipelines.curation.testing import polygon_of, write_coco, write_panoptic

__all__ = ["BOXES", "Lake", "encoded", "smooth_picture"]

_SIDE = 48
BOXES = [[2, 3, 20, 20], [10, 10, 40, 30]]
"""On the pictures, x0, y0, x1, y1 in px."""
_TEXTS = ["the cup", "a cup", "Cup.", "the red cup", "a dog"]


def smooth_picture(seed: int) -> Image.Image:
    """Smooth shapes, as photographs have and noise hasn't."""
    cells = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8))
    return cells.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of its file."""
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def _pictures() -> dict[str, bytes]:
    """Some that look alike, some that are the same bytes under two names, two with one COCO id, one that is damaged."""
    plain = {f"{number}.png": encoded(smooth_picture(number)) for number in range(5)}
    alike = {f"alike{number}.jpg": encoded(smooth_picture(number), "JPEG", quality=60 + number) for number in range(3)}
    worse = {"worse0.jpg": encoded(smooth_picture(0), "JPEG", quality=30)}
    same = {"same0.png": plain["0.png"], "same4.png": plain["4.png"]}
    coco = {f"{name}000000000007.png": encoded(smooth_picture(20 + len(name))) for name in ("", "COCO_train2014_")}
    return {
        **plain,
        **alike,
        **worse,
        **same,
        **coco,
        "bad.png": b"no picture",
        "more.png": encoded(smooth_picture(30)),
    }


class Lake:
    """A folder of sources that changes at random."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.draw = root, random.Random(seed)
        self.pictures = _pictures()
        self.segments: dict[str, bytes] = {}
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
                if self.segments:
                    self._bring_segments(self.draw.choice(sorted(self.segments)))
            elif kind == "mend":
                self.pictures["bad.png"] = encoded(smooth_picture(40))
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
        kind = self.draw.choice(["rows", "rows", "rows", "refs", "panoptic", "reasons", "folder"])
        if kind == "panoptic":
            self._write_panoptic(self.draw.choice(["p1", "p2"]))
        elif kind == "reasons":
            self._write_reasons(self.draw.choice(["r1", "r2"]))
        elif kind == "folder":
            if (self.root / "folder").exists():
                self.sources["folder"] = {"kind": "images", "pictures": ["folder"], "images": ""}
        elif kind == "refs":
            self._write_refs(self.draw.choice(["g1", "g2"]))
        else:
            name = f"rows{self.draw.randint(0, 4)}.jsonl"
            (self.root / name).write_text("\n".join(json.dumps(self._row()) for _ in range(self.draw.randint(0, 9))))
            family = self.draw.choice(["one", "two"])
            self.sources[name] = {"kind": "generic", "rows": [name], "family": family}

    def _row(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "image": self.draw.choice([*self.pictures, "never.png"]),
            "split": self.draw.choice(["train"] * 5 + ["val"]),
        }
        if self.draw.random() < 0.4:
            return row | {"caption": self.draw.choice(_TEXTS)}
        if self.draw.random() < 0.1:
            return row | {"expression": "no mask"}
        box = {"segmentation": {"box_xyxy_px": self.draw.choice([*BOXES, [50, 50, 60, 60]])}}
        return row | {"expression": self.draw.choice(_TEXTS)} | box

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

    def _write_panoptic(self, folder: str) -> None:
        """Segments in PNGs of their own, of which some aren't there yet."""
        names = self.draw.sample(sorted(self.pictures), 3)
        annotations: list[dict[str, object]] = []
        for number in range(len(names)):
            segments = f"{len(self.segments)}.png"  # what a file holds never changes under its name
            write_panoptic(self.root / "tmp.png", {7: (2, 3, 20, 20), 300: (25, 10, 40, 30)}, _SIDE, _SIDE)
            self.segments[segments] = (self.root / "tmp.png").read_bytes()
            if self.draw.random() < 0.7:
                self._bring_segments(segments)
            found = [{"id": 7, "category_id": 1, "iscrowd": 0}, {"id": self.draw.choice([300, 301]), "category_id": 2}]
            annotations.append({"image_id": number, "file_name": segments, "segments_info": found})
        images = [{"id": n, "file_name": name, "height": _SIDE, "width": _SIDE} for n, name in enumerate(names)]
        write_coco(self.root / folder / "panoptic.json", images, annotations)
        self.sources[folder] = {
            "kind": "coco_panoptic",
            "annotations": f"{folder}/panoptic.json",
            "images": "",
            "segments": "segments",
            "split": self.draw.choice(["train", "train", "val"]),
        }

    def _write_reasons(self, folder: str) -> None:
        """LabelMe files beside their pictures, in a folder of which a listing tells what it holds."""
        for path in (self.root / folder).glob("*.json"):
            path.unlink()
        for number in self.draw.sample(range(5), self.draw.randint(1, 3)):
            path = self.root / folder / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            if self.draw.random() < 0.8:
                path.write_bytes(encoded(smooth_picture(number), "JPEG", quality=90))
            points = [[x, y] for x, y in ((2, 3), (20, 3), (20, 20), (2, 20))]
            record = {
                "shapes": [{"label": "target", "points": points}],
                "text": self.draw.sample([*_TEXTS, "..."], 2),
            }
            path.with_suffix(".json").write_text(json.dumps(record))
        split = self.draw.choice(["train", "train", "val"])
        self.sources[folder] = {"kind": "reason_seg", "folders": {split: folder}}

    def _bring_segments(self, name: str) -> None:
        path = self.root / "segments" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.segments[name])
