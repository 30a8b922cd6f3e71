"""Export as COCO JSON: one file per split, with masks as compressed RLE, beside the pictures as files.

    annotations/<split>.json          images, annotations, categories
    images/<shard>/<image id>.jpg     the pictures; `file_name` is the path below `images/`

An annotation is one mask of one category on one image, and lists all expressions that mean it or point at it; an image
lists those that mean no mask.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol, TypeAlias

from pipelines.curation.exports.chosen import Chosen, ExportCounts, images_of
from pipelines.curation.exports.readme import export_readme
from pipelines.curation.naming import file_word, picture_name
from pipelines.progress import Progress
from storage.errors import DataError
from storage.keys import Json
from storage.masks import area_px, box_xyxy_px
from storage.schema import ImageRecord, Region, Sample, Turn, VisualPrompt

__all__ = ["UNNAMED", "CocoLayout", "export_coco", "export_coco_as"]

_Entry: TypeAlias = dict[str, Json]
_REGION = re.compile(r"<region(\d+)>")

UNNAMED = "unnamed"
"""Category of masks that their source gives none."""

_LAYOUT = """\
COCO JSON: `annotations/<split>.json`, with `file_name` below `images/`. Masks are compressed RLE, `bbox` is x, y, width
and height. Equal masks of one category are one annotation. Category ids follow no other data set.

Each annotation lists under `expressions` what means it (`role` is `target`) or points at it (`prompt`), each image what
means no mask (`picture`; `no_target` where nothing on the picture fits). An expression has `text`, an `answer` and
`options` if there are any, `annotation_ids` of all masks that it means together or, for prompts, in the order of their
`<regionN>` (null: a prompt without mask, which then stands under `prompts`), and `family`, `task`, `sample_id` and the
number of its `turn`."""


class CocoLayout(Protocol):
    """Where the files of an export lie, and how expressions stand in them."""

    about: str
    """How the files are to be read, in Markdown."""

    def labels(self, folder: Path, split: str) -> Path:
        """The JSON file of a split."""
        ...

    def pictures(self, folder: Path, split: str) -> Path:
        """The folder that `file_name` of a split's pictures lies below; splits may share one."""
        ...

    def annotation(self, entry: _Entry) -> _Entry:
        """An annotation as it is written, given all its expressions."""
        ...


class _Plain:
    """One folder of annotations, one of pictures; expressions whole."""

    about = _LAYOUT

    def labels(self, folder: Path, split: str) -> Path:
        return folder / "annotations" / f"{file_word(split)}.json"

    def pictures(self, folder: Path, split: str) -> Path:
        return folder / "images"

    def annotation(self, entry: _Entry) -> _Entry:
        return entry


def export_coco(chosen: Chosen, folder: Path, progress: Progress) -> ExportCounts:
    """Writes the export into an empty folder; arguments and errors as of `export_coco_as`."""
    return export_coco_as(_Plain(), chosen, folder, progress)


def export_coco_as(layout: CocoLayout, chosen: Chosen, folder: Path, progress: Progress) -> ExportCounts:
    """Writes an export in COCO's JSON into an empty folder.

    Args:
        layout: where its files lie.
        chosen: what is exported.
        folder: that is there.
        progress: told of shards.

    Raises:
        DataError: a sample's image isn't in its shard, or two splits would share a file.
    """
    counts = ExportCounts()
    files: dict[str, _SplitFile] = {}
    categories: dict[str, int] = {}
    num_images = num_annotations = 0
    try:
        for name, shard, by_image in chosen.shards(progress):
            counts.without_image += len(by_image.pop(None, ()))
            for image in images_of(shard, by_image):
                num_images += 1
                for split, samples in _by_split(by_image[image.image_id]).items():
                    if split not in files:
                        files[split] = _SplitFile(layout.labels(folder, split), split, chosen.corpus.manifest.key)
                    file_name = _write_picture(layout.pictures(folder, split), name, image)
                    described = _Described(num_images, num_annotations + 1, categories)
                    described.add(samples)
                    num_annotations += len(described.annotations)
                    files[split].add(
                        _image_entry(num_images, file_name, image, described),
                        [layout.annotation(entry) for entry in described.annotations],
                    )
                    counts.images += 1
                    counts.samples += len(samples)
        for split in files.values():
            split.finish(categories)
    finally:
        for split in files.values():
            split.close()
    counts.splits = set(files)
    (folder / "README.md").write_text(export_readme(chosen, {}, layout.about), encoding="utf-8")
    return counts


class _SplitFile:
    """The JSON file of one split, whose two lists grow side by side in files of their own."""

    def __init__(self, path: Path, split: str, key: str) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.with_suffix(".images").exists():
            raise DataError(f"split {split!r}: another split has the same file name; export one at a time")
        self._info: _Entry = {"description": f"corpus {key}, split {split}"}
        self._lists: list[IO[str]] = [
            self._path.with_suffix(suffix).open("w+", encoding="utf-8") for suffix in (".images", ".annotations")
        ]
        self._is_empty = [True, True]

    def add(self, image: _Entry, annotations: Sequence[_Entry]) -> None:
        """Adds an image and what is on it."""
        for place, entries in enumerate(([image], annotations)):
            for entry in entries:
                self._lists[place].write(("" if self._is_empty[place] else ",\n") + _dumps(entry))
                self._is_empty[place] = False

    def finish(self, categories: Mapping[str, int]) -> None:
        """Puts the file together."""
        with self._path.open("w", encoding="utf-8") as file:
            file.write(f'{{"info": {_dumps(self._info)},\n"licenses": []')
            for name, entries in zip(("images", "annotations"), self._lists, strict=True):
                file.write(f',\n"{name}": [\n')
                entries.seek(0)
                shutil.copyfileobj(entries, file)
                file.write("\n]")
            listed: list[Json] = [{"id": number, "name": name} for name, number in categories.items()]
            file.write(f',\n"categories": {_dumps(listed)}}}\n')

    def close(self) -> None:
        """Removes the lists."""
        for entries in self._lists:
            entries.close()
            Path(entries.name).unlink()


class _Described:
    """Annotations of one image in one split, and what of its expressions means none."""

    def __init__(self, image_id: int, first_id: int, categories: dict[str, int]) -> None:
        self.annotations: list[_Entry] = []
        self.unmasked: list[Json] = []
        self._image_id, self._first_id, self._categories = image_id, first_id, categories
        self._places: dict[tuple[bytes, str], int] = {}
        self._expressions: list[list[Json]] = []

    def add(self, samples: Sequence[Sample]) -> None:
        """Adds all samples of the image."""
        for sample in samples:
            places = [self._place(region) for region in sample.regions]
            for number, turn in enumerate(sample.turns):
                self._add_turn(sample, number, turn, places)

    def _add_turn(self, sample: Sample, number: int, turn: Turn, places: Sequence[int]) -> None:
        head: _Entry = {"text": turn.text}
        if turn.answer is not None:
            head["answer"] = turn.answer
        if turn.options:
            head["options"] = list(turn.options)
        prompts = [None if prompt.region is None else places[prompt.region] for prompt in sample.prompts]
        if None in prompts:
            head["prompts"] = [_prompt_entry(prompt) for prompt in sample.prompts]
        tail: _Entry = {"family": sample.family, "task": sample.task.value}
        tail |= {"sample_id": sample.sample_id, "turn": number}
        for target in turn.targets:
            meant = [places[region] for region in target]
            self._list(meant, {**head, "role": "target", "annotation_ids": self._ids(meant), **tail})
        pointed = [prompts[place] for place in _named_prompts(turn, len(prompts))]
        meant = [place for place in pointed if place is not None]
        self._list(meant, {**head, "role": "prompt", "annotation_ids": self._ids(prompts), **tail})
        if not meant and not any(turn.targets):
            role = "prompt" if prompts else "no_target" if turn.targets else "picture"
            self.unmasked.append({**head, "role": role, **tail})

    def _place(self, region: Region) -> int:
        """The place of a region's annotation, which is made if it is the first of that mask and category."""
        category = region.category or UNNAMED
        key = (region.mask.counts, category)
        if key not in self._places:
            self._places[key] = len(self.annotations)
            x0, y0, x1, y1 = box_xyxy_px(region.mask) or (0, 0, 0, 0)
            expressions: list[Json] = []
            self._expressions.append(expressions)
            self.annotations.append(
                {
                    "id": self._first_id + len(self.annotations),
                    "image_id": self._image_id,
                    "category_id": self._categories.setdefault(category, len(self._categories) + 1),
                    "segmentation": {
                        "size": [region.mask.height, region.mask.width],
                        "counts": region.mask.counts.decode("ascii"),
                    },
                    "area": area_px(region.mask),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": 0,
                    "expressions": expressions,
                }
            )
        return self._places[key]

    def _list(self, places: Sequence[int], expression: _Entry) -> None:
        for place in dict.fromkeys(places):
            self._expressions[place].append(expression)

    def _ids(self, places: Sequence[int | None]) -> list[Json]:
        return [None if place is None else self._first_id + place for place in places]


def _prompt_entry(prompt: VisualPrompt) -> _Entry:
    box = prompt.box_xyxy_px
    return {
        "kind": prompt.kind.value,
        "box_xyxy_px": None if box is None else list(box),
        "points_xy_px": [list(point) for point in prompt.points_xy_px],
    }


def _named_prompts(turn: Turn, num_prompts: int) -> list[int]:
    """Places of the prompts that a turn names by `<regionN>`; all of them if it names none."""
    numbers = [int(number) for number in _REGION.findall(f"{turn.text} {turn.answer or ''}")]
    named = [number - 1 for number in dict.fromkeys(numbers) if 1 <= number <= num_prompts]
    return named or list(range(num_prompts))


def _image_entry(number: int, file_name: str | None, image: ImageRecord, described: _Described) -> _Entry:
    place: _Entry = (
        {"file_name": file_name} if file_name is not None else {"file_name": image.uri, "coco_url": image.uri}
    )
    known: _Entry = {} if image.coco_id is None else {"coco_id": image.coco_id}
    return {
        "id": number,
        **place,
        "height": image.height,
        "width": image.width,
        **known,
        "corpus_image_id": image.image_id,
        "expressions": described.unmasked,
    }


def _write_picture(folder: Path, shard: str, image: ImageRecord) -> str | None:
    """Writes a picture and returns its path below the folder; None if it lies elsewhere."""
    if image.data is None:
        return None
    path = f"{shard}/{picture_name(image)}"
    (folder / shard).mkdir(parents=True, exist_ok=True)
    if not (folder / path).exists():  # of another split
        (folder / path).write_bytes(image.data)
    return path


def _by_split(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.split, []).append(sample)
    return found


def _dumps(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)
