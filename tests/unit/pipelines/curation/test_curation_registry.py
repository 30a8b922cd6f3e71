"""Families are found by kind; configurations refuse what they don't know."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipelines.curation.config import CurationConfig
from pipelines.curation.registry import known_kinds, source_config
from storage.errors import UnknownKind, UsageError


def test_known_kinds() -> None:
    assert known_kinds() == (
        *("coco_panoptic", "gcg", "generic", "grefcoco", "image_text", "images", "llava", "muse", "osprey", "perbench"),
        *("pix2cap", "reason_seg", "refcoco", "region_caption", "sam_captions"),
    )
    for kind in known_kinds():
        source = source_config({"kind": kind})
        assert source.source_files() or kind in ("reason_seg", "images")  # whose files only a listing tells
        assert type(source).__doc__


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(UnknownKind, match=r"unknown dataset family 'vqa'; known: coco_panoptic, .*, refcoco"):
        source_config({"kind": "vqa"})
    with pytest.raises(ValidationError, match="unknown dataset family 'None'; known: coco_panoptic"):
        CurationConfig.model_validate({"sources": [{"root": "a"}]})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "refcoco", "datset": "refcoco+"}, "Extra inputs are not permitted"),
        ({"kind": "refcoco", "split_by": "umd"}, "refcoco was split by unc and google, not by umd"),
        ({"kind": "refcoco", "dataset": "refcocog", "split_by": "unc"}, "refcocog was split by umd and google"),
        ({"kind": "coco_panoptic", "uses": ["boxes"]}, "'instance', 'semantic' or 'category'"),
        ({"kind": "pix2cap", "uses": ["instance"]}, "'segmentation' or 'visual_prompt'"),
        ({"kind": "reason_seg", "folders": {}}, "at least 1 item"),
        ({"kind": "generic", "rows": ["rows.csv"]}, r"rows\.csv: expected a file whose name ends with \.jsonl"),
        ({"kind": "images", "image_root": "/a"}, "image_root: expected null, pictures lie under the root"),
    ],
)
def test_wrong_fields_are_named(source: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        source_config(source)


def test_files_of_the_published_layouts() -> None:
    assert source_config({"kind": "refcoco"}).source_files() == ("refcoco/refs(unc).p", "refcoco/instances.json")
    plus = source_config({"kind": "refcoco", "dataset": "refcocog"})
    assert plus.source_files() == ("refcocog/refs(umd).p", "refcocog/instances.json")
    assert source_config({"kind": "perbench", "mcq": None, "detailed_caption": None}).source_files() == (
        "perbench/val/visual_text_res.json",
    )


def test_only_what_changes_the_corpus_is_hashed() -> None:
    here = CurationConfig.model_validate({"root": "/a", "sources": [{"kind": "refcoco", "image_root": "/b"}]})
    there = CurationConfig.model_validate(
        {"root": "/c", "sources": [{"kind": "refcoco"}], "max_reject_share": 0.1, "num_threads": 2}
    )
    assert here.hashed_fields() == there.hashed_fields()
    other = CurationConfig.model_validate({"sources": [{"kind": "refcoco", "relabel_splits": {"testA": "train"}}]})
    assert other.hashed_fields() != here.hashed_fields()


def test_roots_of_sources_win() -> None:
    config = CurationConfig.model_validate(
        {"root": "/a", "sources": [{"kind": "refcoco"}, {"kind": "osprey", "root": "/b"}]}
    )
    assert [source.root_url for source in config.with_roots().sources] == ["/a", "/b"]
    assert [source.image_root_url for source in config.with_roots().sources] == ["/a", "/b"]
    with pytest.raises(UsageError, match="RefCocoSource has no root"):
        config.model_copy(update={"root": None}).with_roots()


def test_limits() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        CurationConfig(sources=())
    with pytest.raises(ValidationError, match="less than or equal to 89478485"):
        CurationConfig.model_validate({"sources": [{"kind": "refcoco"}], "max_image_px": 10**9})
