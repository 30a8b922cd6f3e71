"""Pictures with captions, as WebDataset shards in the manner of img2dataset: what base models are pre-trained on.

A key of a shard is a record: one picture (`jpg`, `png` or `webp`) and its caption (`txt`). What else img2dataset
writes beside them (`json`) isn't used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from pipelines.curation.families.base import Published, Source, draft_or_reject
from pipelines.curation.records import Draft, RecordError, SourceImage
from pipelines.curation.steps.fields import mapping, sequence, shown, string
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.steps.texts import multi_line, required_text
from pipelines.curation.steps.webdataset import expand_shards
from storage.schema import Reject, RejectReason, Task, Turn

__all__ = ["ImageTextSource"]

_FAMILY = "image_text"
_PICTURES = ("jpg", "jpeg", "png", "webp")
_CAPTION = "txt"


class ImageTextSource(Source):
    """Shards of pictures and captions."""

    # A format rather than a data set: the tool that writes it.
    published: ClassVar[Published] = Published(url="https://github.com/rom1504/img2dataset")

    kind: Literal["image_text"] = "image_text"
    """The family's module."""
    shards: tuple[str, ...] = ("image_text/train.tar",)
    """Shards under the root; `{00000..00099}` stands for a range of numbers, as in WebDataset."""
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
        """One record per key."""
        for name in self.source_files():
            for value in files.rows(name):
                yield self._record(name, mapping(value, "record"))

    def _record(self, name: str, record: dict[str, object]) -> Draft | Reject:
        locator = f"key={record['key']}"

        def build() -> Draft:
            members = [mapping(member, "member") for member in sequence(record, "members")]
            caption = _only(members, (_CAPTION,), RejectReason.TEXT_EMPTY)
            picture = _only(members, _PICTURES, RejectReason.IMAGE_MISSING)
            return Draft(
                family=_FAMILY,
                task=Task.CAPTION,
                split=self.split_name(self.split),
                image=SourceImage(path=name, extent=_extent(picture)),
                turns=(Turn(text="", answer=_caption(caption)),),
                source_file=name,
                locator=locator,
            )

        return draft_or_reject(_FAMILY, name, locator, build)


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
        raise RecordError(RejectReason.FIELD_INVALID, "caption: expected a plain file in the shard, got a link")
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
