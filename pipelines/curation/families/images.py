"""Pictures without a word: folders, archives and single files, for teachers to look at and students to distil from.

Every picture is a record. In folders (with all that lies below them), tar and zip archives a picture is what is named
like one (`jpg`, `jpeg`, `png`, `webp`, `bmp`, `gif`, `tif`, `tiff`, in capitals, too); whatever else lies there
(captions, JSON, `Thumbs.db`, archives in folders) and what is hidden (`.name`, `__MACOSX`) is no record. In a Parquet
file every row is one (see `steps.parquet_archive`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines.curation.families.base import Source, draft_or_reject
from pipelines.curation.records import Draft, SourceImage
from pipelines.curation.steps.archives import is_archive
from pipelines.curation.steps.images import coco_id_of, is_picture
from pipelines.curation.steps.members import Member
from pipelines.curation.steps.paths import safe_join
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.steps.tar_archive import escaped
from pipelines.curation.steps.webdataset import expand_shards
from storage.errors import SourceError
from storage.schema import Reject, Task

__all__ = ["ImagesSource"]

_FAMILY = "images"
_ROOT = "."


class ImagesSource(Source):
    """Pictures alone."""

    kind: Literal["images"] = "images"
    """The family's module."""
    pictures: tuple[str, ...] = Field(default=("images",), min_length=1)
    """Folders, archives (`.tar`, `.zip`, `.parquet`) and single pictures under the root, told apart by their suffix;
    `{00000..00099}` stands for a range of numbers, as in WebDataset, and `.` for the root itself."""
    split: str = "train"
    """Split of all its records."""

    @field_validator("pictures")
    @classmethod
    def _plain(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.strip("/") for name in names)

    @model_validator(mode="after")
    def _pictures_lie_under_the_root(self) -> Self:
        if self.image_root is not None:
            raise ValueError("image_root: expected null, pictures lie under the root; set root alone")
        return self

    def source_files(self) -> tuple[str, ...]:
        """Archives and single pictures; what lies in folders is found when records are asked for."""
        return tuple(name for name in self._entries() if is_archive(name) or is_picture(name))

    def parts(self) -> tuple[Source, ...]:
        """One for each folder, archive or picture."""
        return tuple(self.model_copy(update={"pictures": (name,)}) for name in self._entries())

    def records(self, files: SourceFiles) -> Iterator[Draft | Reject]:
        """One record per picture.

        Raises:
            SourceError: an archive can't be read, or a folder holds no picture.
        """
        for name in self._entries():
            if is_archive(name):
                for member in files.members(name):
                    if name.lower().endswith(".parquet") or is_picture(member.name):
                        yield self._member(name, member)
            elif is_picture(name):
                yield self._file(name, name.rpartition("/")[2], name)
            else:
                yield from self._folder(name, files)

    def _entries(self) -> tuple[str, ...]:
        return tuple(name for pattern in self.pictures for name in expand_shards(pattern))

    def _folder(self, folder: str, files: SourceFiles) -> Iterator[Draft | Reject]:
        is_empty = True
        prefix = "" if folder == _ROOT else f"{folder}/"
        for path in files.names("" if folder == _ROOT else folder):
            locator = path.removeprefix(prefix)
            if is_picture(locator):
                is_empty = False
                yield self._file(folder, escaped(locator), path)
        if is_empty:
            raise SourceError(
                f"{folder}: expected a folder of pictures under {files.folder.url}, found none in it; archives in a "
                "folder aren't opened: name them in `pictures` themselves"
            )

    def _file(self, source_file: str, locator: str, path: str) -> Draft | Reject:
        def build() -> Draft:
            return self._draft(source_file, locator, SourceImage(path=safe_join("", path), coco_id=coco_id_of(path)))

        return draft_or_reject(_FAMILY, source_file, locator, build)

    def _member(self, archive: str, member: Member) -> Draft | Reject:
        def build() -> Draft:
            if member.error is not None:
                raise member.error
            path = safe_join(archive, member.name)
            return self._draft(
                archive, member.locator, SourceImage(path=path, extent=member.extent, coco_id=coco_id_of(path))
            )

        return draft_or_reject(_FAMILY, archive, member.locator, build)

    def _draft(self, source_file: str, locator: str, image: SourceImage) -> Draft:
        return Draft(
            family=_FAMILY,
            task=Task.UNLABELLED,
            split=self.split_name(self.split),
            image=image,
            source_file=source_file,
            locator=locator,
        )
