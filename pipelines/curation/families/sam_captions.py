"""SAM captions: objects of SA-1B pictures, described in detail by a model that was shown their outline.

Its prompts have left words in the captions ("highlighted by a yellow edge"), which say nothing of the picture: they
are taken out (see `prompt_leftovers`). A caption of which nothing is left is a reject.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pipelines.curation.families.base import Source
from pipelines.curation.families.object_captions import object_captions
from pipelines.curation.records import Draft
from pipelines.curation.steps.prompt_leftovers import without_leftovers
from pipelines.curation.steps.source_files import SourceFiles
from storage.schema import Reject

__all__ = ["SamCaptionsSource"]


class SamCaptionsSource(Source):
    """Files of captions of objects."""

    kind: Literal["sam_captions"] = "sam_captions"
    """The family's module."""
    captions: tuple[str, ...] = ("sam_captions/object_caption_data_train_split.json",)
    """Files of captions, under the root."""
    images: str = "images/sam"
    """Folder of the images under `image_root`; empty: `image_root` itself."""
    split: str = "train"
    """Split of all its records; the format has none."""

    def source_files(self) -> tuple[str, ...]:
        """The files of captions."""
        return self.captions

    def records(self, files: SourceFiles) -> Iterator[Draft | Reject]:
        """One record per object."""
        for name in self.captions:
            yield from object_captions(self, self.kind, self.split, files, name, without_leftovers)
