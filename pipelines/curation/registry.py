"""Dataset families by their kind: a family is one module and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias, get_args

from pydantic import Field, TypeAdapter

from pipelines.curation.families.coco_panoptic import CocoPanopticSource
from pipelines.curation.families.gcg import GcgSource
from pipelines.curation.families.generic import GenericSource
from pipelines.curation.families.grefcoco import GRefCocoSource
from pipelines.curation.families.image_text import ImageTextSource
from pipelines.curation.families.images import ImagesSource
from pipelines.curation.families.llava import LlavaSource
from pipelines.curation.families.muse import MuseSource
from pipelines.curation.families.osprey import OspreySource
from pipelines.curation.families.perbench import PerBenchSource
from pipelines.curation.families.pix2cap import Pix2CapSource
from pipelines.curation.families.reason_seg import ReasonSegSource
from pipelines.curation.families.refcoco import RefCocoSource
from pipelines.curation.families.region_caption import RegionCaptionSource
from pipelines.curation.families.sam_captions import SamCaptionsSource
from storage.errors import UnknownKind

__all__ = ["SourceConfig", "check_kind", "known_kinds", "source_config"]

SourceUnion: TypeAlias = (
    CocoPanopticSource  # COCO panoptic: instance, semantic and category use
    | GcgSource  # grounded captions: RefCOCOg, GranDf, OpenPsg, Flickr
    | GRefCocoSource  # gRefCOCO
    | GenericSource  # users' own data (docs/own-data.md)
    | ImageTextSource  # pictures with captions in WebDataset shards or Parquet
    | ImagesSource  # pictures alone: folders, archives, single files
    | LlavaSource  # LLaVA-665k: conversations about whole pictures
    | MuseSource  # MUSE: questions that are answered with several masks
    | OspreySource  # Osprey-724k: detail descriptions and conversations
    | PerBenchSource  # PerBench: detailed caption, multiple choice, visual-text referring
    | Pix2CapSource  # Pix2Cap: panoptic segments with descriptions
    | ReasonSegSource  # ReasonSeg: implicit questions, LabelMe files
    | RefCocoSource  # RefCOCO, RefCOCO+, RefCOCOg
    | RegionCaptionSource  # captions of RefCOCOg's regions
    | SamCaptionsSource  # captions of objects in SA-1B pictures
)
SourceConfig = Annotated[SourceUnion, Field(discriminator="kind")]
"""A source of any known family; `kind` decides which."""

_ADAPTER: TypeAdapter[SourceUnion] = TypeAdapter(SourceConfig)


def known_kinds() -> tuple[str, ...]:
    """Kinds that a recipe can name, sorted."""
    return tuple(sorted(source.model_fields["kind"].default for source in get_args(SourceUnion)))


def check_kind(value: object) -> None:
    """Checks the `kind` of a source that is still a mapping.

    Raises:
        UnknownKind: the registry doesn't know it; the message lists those it knows.
    """
    if isinstance(value, Mapping) and value.get("kind") not in known_kinds():
        raise UnknownKind("dataset family", str(value.get("kind")), known_kinds())


def source_config(value: Mapping[str, object]) -> SourceUnion:
    """The source that a mapping describes.

    Raises:
        UnknownKind: of no known family.
        ValidationError: a field that the family doesn't know, or a wrong value.
    """
    check_kind(value)
    return _ADAPTER.validate_python(value)
