"""LLaVA's instruction data: conversations about whole pictures, one JSON list of records.

A record has `conversations` and, where it is about a picture, `image`: a path below the root of all pictures
(`coco/train2017/000000033471.jpg`, `gqa/images/2354786.jpg`, ...). Records without a picture become rejects
(`filtered`): every conversation of the corpus has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pipelines.curation.families.base import Published, Source, draft_or_reject
from pipelines.curation.records import Draft, RecordError, SourceImage
from pipelines.curation.steps.conversations import conversation_turns
from pipelines.curation.steps.fields import mapping, string
from pipelines.curation.steps.images import coco_id_of
from pipelines.curation.steps.paths import safe_join
from pipelines.curation.steps.source_files import SourceFiles
from storage.schema import Reject, RejectReason, Task

__all__ = ["LlavaSource"]

_FAMILY = "llava"


class LlavaSource(Source):
    """Files in the form of LLaVA-665k."""

    published: ClassVar[Published] = Published(
        url="https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
        licence="CC BY 4.0, and OpenAI's terms of use",
        size="665,298 conversations; 1.03 GB",
    )

    kind: Literal["llava"] = "llava"
    """The family's module."""
    images: str = ""
    """Folder of the images under `image_root`, or an archive that holds them; empty: `image_root` itself."""
    conversations: tuple[str, ...] = ("llava/llava_v1_5_mix665k.json",)
    """Files of conversations, under the root."""
    split: str = "train"
    """Split of all its records; the format has none."""

    def source_files(self) -> tuple[str, ...]:
        """The files of conversations."""
        return self.conversations

    def parts(self) -> tuple[Source, ...]:
        """One for each file."""
        return tuple(self.model_copy(update={"conversations": (name,)}) for name in self.conversations)

    def records(self, files: SourceFiles) -> Iterator[Draft | Reject]:
        """One record per conversation."""
        for name in self.conversations:
            for row, value in enumerate(files.rows(name)):
                yield self._record(name, f"row={row}", value)

    def _record(self, name: str, locator: str, value: object) -> Draft | Reject:
        def build() -> Draft:
            record = mapping(value, "record")
            if record.get("image") is None:
                raise RecordError(RejectReason.FILTERED, "image: expected a picture, the conversation has none")
            image = string(record, "image")
            return Draft(
                family=_FAMILY,
                task=Task.CONVERSATION,
                split=self.split_name(self.split),
                image=SourceImage(path=safe_join(self.images, image), coco_id=coco_id_of(image)),
                turns=tuple(conversation_turns(record)),
                source_file=name,
                locator=locator,
            )

        return draft_or_reject(_FAMILY, name, locator, build)
