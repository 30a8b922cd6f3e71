"""ReasonSeg: a LabelMe file beside each picture, with questions that all mean the same area of it.

`shapes` are polygons with a label: `target`; `ignore`, areas that are no part of the target and count neither way in
evaluation (`Region.ignored`); `flag`, which means nothing. Each text under `text` is one record. `is_sentence` tells
questions from mere phrases, which the schema doesn't, so it isn't read. Some of the files are cp1252, not UTF-8.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal, cast

from pydantic import Field

from pipelines.curation.families.base import Published, Source, draft_or_reject, rejected
from pipelines.curation.records import Draft, DraftRegion, PaintedShapes, RecordError, SourceImage
from pipelines.curation.steps.fields import mapping, sequence, shown, string, within
from pipelines.curation.steps.paths import safe_join
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.steps.texts import required_text, single_line
from storage.errors import SourceError
from storage.schema import Reject, RejectReason, Task, Turn

__all__ = ["ReasonSegSource"]

_FAMILY = "reason_seg"


class ReasonSegSource(Source):
    """Folders of ReasonSeg.

    Files are many and small, so the folder is the source file of its records, and locators name the file in it.
    """

    published: ClassVar[Published] = Published(
        url="https://github.com/dvlab-research/LISA",
        size="1,218 pictures: 239 train, 200 val, 779 test",
    )

    kind: Literal["reason_seg"] = "reason_seg"
    """The family's module."""
    images: str = ""
    """Folder under `image_root` with the same folders as the root; empty: `image_root` itself."""
    folders: dict[str, str] = Field(
        default={split: f"ReasonSeg/{split}" for split in ("train", "val", "test")}, min_length=1
    )
    """Folder of each split, under the root."""

    def source_files(self) -> tuple[str, ...]:
        """None: see `listed_files`."""
        return ()

    def listed_files(self, files: SourceFiles) -> Iterator[str]:
        """The LabelMe files of all folders.

        Raises:
            SourceError: a folder has none.
        """
        for folder in self._by_split().values():
            yield from _labelme_files(files, folder)

    def records(self, files: SourceFiles) -> Iterator[Draft | Reject]:
        """One record per text, and one per file that can't be read."""
        for split, folder in self._by_split().items():
            for name in _labelme_files(files, folder):
                yield from self._file(files, split, folder, name)

    def _by_split(self) -> dict[str, str]:
        return {split: folder.strip("/") for split, folder in sorted(self.folders.items())}

    def _file(self, files: SourceFiles, split: str, folder: str, name: str) -> Iterator[Draft | Reject]:
        # A file system's names needn't be Unicode; what isn't stands escaped, so that reports can be written.
        locator = f"file={name.removeprefix(f'{folder}/').encode(errors='backslashreplace').decode()}"
        try:
            record = mapping(_decoded(files.read(string({"file name": name}, "file name"))), "record")
            texts = sequence(record, "text")
            if not texts:
                raise RecordError(RejectReason.TEXT_EMPTY, "text: expected at least one, got none")
        except RecordError as error:
            yield rejected(_FAMILY, folder, locator, error)
            return
        for place, text in enumerate(texts):
            where = f"{locator}/text[{place}]"
            yield draft_or_reject(
                _FAMILY, folder, where, partial(self._draft, split, folder, name, where, record, text)
            )

    def _draft(
        self, split: str, folder: str, name: str, locator: str, record: dict[str, object], value: object
    ) -> Draft:
        text = single_line(string({"text": value}, "text"))
        return Draft(
            family=_FAMILY,
            task=Task.REASONING,
            split=self.split_name(split),
            image=SourceImage(path=safe_join(self.images, f"{name.removesuffix('.json')}.jpg")),
            regions=(DraftRegion(segmentation=_shapes(record)),),
            turns=(Turn(text=required_text(text, "text"), targets=((0,),)),),
            source_file=folder,
            locator=locator,
        )


def _labelme_files(files: SourceFiles, folder: str) -> list[str]:
    names = [name for name in files.names(folder) if name.endswith(".json")]
    if not names:
        raise SourceError(
            f"{folder}: expected LabelMe files (.json) beside pictures (.jpg) under {files.folder.url}, got none; "
            "unpack the archive there, or name the folder of each split under `folders`"
        )
    return names


def _decoded(data: bytes) -> object:
    try:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252")
        return cast("object", json.loads(text))
    except (ValueError, RecursionError) as error:
        raise RecordError(
            RejectReason.FIELD_INVALID,
            f"file: expected JSON in UTF-8 or cp1252, got {len(data)} bytes that can't be read as it ({error})",
        ) from None


def _shapes(record: dict[str, object]) -> PaintedShapes:
    """The shapes that count, by what they are."""
    found: dict[str, list[tuple[float, ...]]] = {"target": [], "ignore": []}
    for place, value in enumerate(sequence(record, "shapes")):
        with within(f"shapes[{place}]"):
            shape = mapping(value, "shape")
            label = string(shape, "label").strip().lower()
            if label == "flag":
                continue
            kind = "ignore" if "ignore" in label else label
            if kind not in found:
                raise RecordError(
                    RejectReason.FIELD_INVALID, f"label: expected target, ignore or flag, got {shown(shape['label'])}"
                )
            found[kind].append(_polygon(shape))
    if not found["target"]:
        raise RecordError(RejectReason.ANNOTATION_MISSING, "shapes: expected at least one target, got none")
    return PaintedShapes(targets=tuple(found["target"]), ignored=tuple(found["ignore"]))


def _polygon(shape: dict[str, object]) -> tuple[float, ...]:
    points = sequence(shape, "points")
    if len(points) < 3:
        raise RecordError(RejectReason.MASK_INVALID, f"points: expected at least 3, got {len(points)}")
    return tuple(axis for place, point in enumerate(points) for axis in _point(point, place))


def _point(value: object, place: int) -> tuple[float, float]:
    axes = cast("list[object]", value) if isinstance(value, list) else []
    # By exact type: a bool is no coordinate.
    numbers = [axis for axis in axes if type(axis) is int or (type(axis) is float and math.isfinite(axis))]
    if len(axes) != 2 or len(numbers) != 2:
        raise RecordError(
            RejectReason.MASK_INVALID, f"points[{place}]: expected [x, y] of finite numbers, got {shown(value)}"
        )
    return numbers[0], numbers[1]
