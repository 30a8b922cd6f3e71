"""Pictures with captions in the manner of img2dataset: what base models are pre-trained on.

Of a WebDataset shard (`.tar`) a key is a record: one picture (`jpg`, `png` or `webp`) and its caption (`txt`). Of a
Parquet file a row is one: `key`, `caption`, and `status`, which says whether the picture could be had. The picture
stands in the row (img2dataset's `output_format: parquet`), or, where no column holds pictures, in a folder named like
the file (`output_format: files`). What else img2dataset writes isn't used.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from pipelines.curation.families.base import Published, Source, draft_or_reject
from pipelines.curation.records import Draft, RecordError, SourceImage
from pipelines.curation.steps.fields import mapping, sequence, shown, string
from pipelines.curation.steps.images import is_picture
from pipelines.curation.steps.paths import safe_join
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.steps.texts import multi_line, required_text
from pipelines.curation.steps.webdataset import expand_shards
from storage.errors import SourceError
from storage.schema import Reject, RejectReason, Task, Turn

__all__ = ["ImageTextSource"]

_FAMILY = "image_text"
_PICTURES = ("jpg", "jpeg", "png", "webp")
_CAPTION = "txt"
_COLUMNS = ("key", "caption", "status", "url")
_SUCCESS = "success"


class ImageTextSource(Source):
    """Shards of pictures and captions, as WebDataset or Parquet."""

    # A format rather than a data set: the tool that writes it.
    published: ClassVar[Published] = Published(url="https://github.com/rom1504/img2dataset")

    kind: Literal["image_text"] = "image_text"
    """The family's module."""
    shards: tuple[str, ...] = ("image_text/train.tar",)
    """Shards (`.tar` or `.parquet`) under the root; `{00000..00099}` stands for a range of numbers, as in WebDataset.
    The Parquet files that img2dataset writes beside shards of tar only repeat them: name the shards alone."""
    split: str = "train"
    """Split of all its records; the format has none."""

    @model_validator(mode="after")
    def _pictures_lie_in_the_shards(self) -> Self:
        if self.image_root is not None:
            raise ValueError("image_root: expected null, pictures lie inside the shards; set root alone")
        return self

    def source_files(self) -> tuple[str, ...]:
        """All shards."""
        return tuple(name for pattern in self.shards for name in expand_shards(pattern))

    def parts(self) -> tuple[Source, ...]:
        """One for each shard."""
        return tuple(self.model_copy(update={"shards": (name,)}) for name in self.source_files())

    def records(self, files: SourceFiles) -> Iterator[Draft | Reject]:
        """One record per key or row."""
        for name in self.source_files():
            if name.endswith(".parquet"):
                yield from self._rows(name, files)
                continue
            for value in files.rows(name):
                yield self._record(name, mapping(value, "record"))

    def _rows(self, name: str, files: SourceFiles) -> Iterator[Draft | Reject]:
        """The records of a Parquet file; its pictures stay where they are."""
        beside = None if files.holds_pictures(name) else _pictures_beside(name, files)
        for number, value in enumerate(files.columns(name, *_COLUMNS)):
            locator = f"row={number}"
            build = partial(self._row, name, locator, mapping(value, "row"), beside)
            yield draft_or_reject(_FAMILY, name, locator, build)

    def _row(self, name: str, locator: str, row: dict[str, object], beside: dict[str, str] | None) -> Draft:
        status = row.get("status", _SUCCESS)
        if status != _SUCCESS:
            raise RecordError(
                RejectReason.IMAGE_MISSING,
                f"status: expected {_SUCCESS}, got {shown(status)} ({shown(row.get('url'))})",
            )
        caption = "" if row.get("caption", "") is None else string(row, "caption")
        key = string(row, "key")
        path = safe_join(name, key) if beside is None else beside.get(key)
        if path is None:
            raise RecordError(
                RejectReason.IMAGE_MISSING, f"{name.removesuffix('.parquet')}: holds no picture called {shown(key)}"
            )
        return self._draft(
            name, locator, SourceImage(path=path), required_text(multi_line(caption), "caption", caption)
        )

    def _record(self, name: str, record: dict[str, object]) -> Draft | Reject:
        locator = f"key={record['key']}"

        def build() -> Draft:
            members = [mapping(member, "member") for member in sequence(record, "members")]
            caption = _only(members, (_CAPTION,), RejectReason.TEXT_EMPTY)
            picture = _only(members, _PICTURES, RejectReason.IMAGE_MISSING)
            return self._draft(name, locator, SourceImage(path=name, extent=_extent(picture)), _caption(caption))

        return draft_or_reject(_FAMILY, name, locator, build)

    def _draft(self, name: str, locator: str, image: SourceImage, caption: str) -> Draft:
        return Draft(
            family=_FAMILY,
            task=Task.CAPTION,
            split=self.split_name(self.split),
            image=image,
            turns=(Turn(text="", answer=caption),),
            source_file=name,
            locator=locator,
        )


def _pictures_beside(name: str, files: SourceFiles) -> dict[str, str]:
    """Pictures by their key in the folder that is named like a Parquet file."""
    folder = name.removesuffix(".parquet")
    try:
        paths = [path for path in files.names(folder) if is_picture(path)]
    except SourceError:
        paths = []
    if not paths:
        raise SourceError(
            f"{name}: expected a column of pictures ({', '.join(_PICTURES)}), or pictures in the folder {folder}, got "
            "neither; if they lie in shards of tar, name these in its place"
        )
    return {path.rpartition("/")[2].rpartition(".")[0]: path for path in paths}


def _only(members: list[dict[str, object]], suffixes: tuple[str, ...], absent: RejectReason) -> dict[str, object]:
    """The one member with one of the suffixes."""
    found = [member for member in members if member["suffix"] in suffixes]
    if not found:
        have = ", ".join(sorted(string(member, "suffix") for member in members))
        raise RecordError(absent, f"expected a member .{' or .'.join(suffixes)}, got {shown(have)}")
    if len(found) > 1:
        raise RecordError(RejectReason.FIELD_INVALID, f"expected one .{' or .'.join(suffixes)}, got {len(found)}")
    return found[0]


def _caption(member: dict[str, object]) -> str:
    data = member.get("data")
    if not isinstance(data, bytes):
        raise RecordError(
            RejectReason.FIELD_INVALID, "caption: expected a plain file of less than 16 MiB in the shard, got another"
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise RecordError(RejectReason.FIELD_INVALID, f"caption: expected UTF-8, got {shown(data)}") from error
    return required_text(multi_line(text), "caption", text)


def _extent(member: dict[str, object]) -> tuple[int, int]:
    extent = member.get("extent")
    if not isinstance(extent, tuple):
        raise RecordError(RejectReason.PATH_UNSAFE, "picture: expected a plain file in the shard, got a link")
    offset, size = extent
    return int(offset), int(size)
