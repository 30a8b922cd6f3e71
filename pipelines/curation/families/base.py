"""What every dataset family shares: where its files lie, how its splits are called, how it yields records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from pipelines.curation.records import Draft, RecordError
from pipelines.curation.steps.source_files import SourceFiles
from storage.errors import UsageError
from storage.recipe import RecipeModel
from storage.schema import Reject

__all__ = ["NOT_STATED", "Published", "Source", "draft_or_reject", "rejected"]

NOT_STATED = "not stated"
"""What a card says of a licence or a size that a publisher is silent about."""


@dataclass(frozen=True, slots=True)
class Published:
    """What is publicly known of a family's files; a corpus's card shows it."""

    url: str = NOT_STATED
    """Where they are published."""
    licence: str = NOT_STATED
    """Licence of the annotations, as their publisher states it; pictures have licences of their own."""
    size: str = NOT_STATED
    """How much it is, in records, pictures or bytes."""


class Source(RecipeModel, ABC):
    """A source of one family: a folder with files of its format.

    What a root holds is hashed, not where it lies: the same files elsewhere give the same corpus.
    Each family adds its `kind`, by which the registry and recipes know it, and what is `published` of it.
    """

    published: ClassVar[Published] = Published()
    """Where the family comes from and under which licence."""

    root: str | None = Field(default=None, json_schema_extra={"hashed": False})
    """URL of the folder that the source's files are relative to; null: the root of the whole curation."""
    image_root: str | None = Field(default=None, json_schema_extra={"hashed": False})
    """URL of the folder that `images` is relative to; null: the source's root."""
    images: str = "images/train2014"
    """Folder of the images under `image_root`, or an archive that holds them; empty: `image_root` itself."""
    relabel_splits: dict[str, str] = Field(default_factory=dict[str, str])
    """Splits that are given another name, such as `testA: train`; the corpus's card says so."""

    held_out_share: float = Field(default=0, ge=0, lt=1)
    """Share of the pictures whose training samples go to `held_out_split`, for data that comes without one."""
    held_out_split: str = "val"
    """Split of what is held out."""

    @abstractmethod
    def source_files(self) -> tuple[str, ...]:
        """Names, under the root, of the files that records come from or refer to."""

    def listed_files(self, files: SourceFiles) -> Iterator[str]:
        """Names, under the root, of further files that records come from, which only a listing of folders tells.

        Args:
            files: lists the folders.
        """
        yield from ()

    @abstractmethod
    def records(self, files: SourceFiles) -> Iterator[Draft | Reject]:
        """Every record of the files, exactly once, as a draft or as a reject.

        Args:
            files: gives the records of each of `source_files()`.

        Raises:
            SourceError: a file is absent, damaged, or as a whole of another format.
        """

    def parts(self) -> tuple[Source, ...]:
        """The source as sources of which each is read by itself: those whose files aren't joined give one for each."""
        return (self,)

    @property
    def root_url(self) -> str:
        """The root, which by now must be known.

        Raises:
            UsageError: neither the source nor the curation names one.
        """
        if self.root is None:
            raise UsageError(f"curation.sources: {type(self).__name__} has no root; set curation.root or its own root")
        return self.root

    @property
    def image_root_url(self) -> str:
        """URL of the folder that `images` is relative to."""
        return self.root_url if self.image_root is None else self.image_root

    def split_name(self, word: str) -> str:
        """The split that records of the source's split `word` go to."""
        return self.relabel_splits.get(word, word)


def rejected(family: str, source_file: str, locator: str, error: RecordError) -> Reject:
    """The reject of a record that gives no draft."""
    return Reject(family=family, source_file=source_file, locator=locator, reason=error.reason, detail=error.detail)


def draft_or_reject(family: str, source_file: str, locator: str, build: Callable[[], Draft]) -> Draft | Reject:
    """The draft that `build` makes, or the reject of the RecordError that it raises."""
    try:
        return build()
    except RecordError as error:
        return rejected(family, source_file, locator, error)
