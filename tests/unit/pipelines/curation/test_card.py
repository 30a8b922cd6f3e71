"""The card says first what a reader must know first, and its tables hold every count."""

from __future__ import annotations

from typing import Any

from pipelines.curation.card import render_card

_FACTS: dict[str, Any] = {
    "num_images": 3,
    "num_samples": 7,
    "num_rejects": 2,
    "samples": {"refcoco": {"referring": {"train": 4, "val": 3}}},
    "records_in": {"refcoco/refs(unc).p": 9},
    "samples_by_source": {"refcoco/refs(unc).p": 7},
    "rejects_by_reason": {"mask_empty": 1, "text_empty": 1},
    "relabelled_splits": {"refcoco/refs(unc).p": {"testA": "train", "testB": "train"}},
}


def test_relabelled_splits_stand_first() -> None:
    lines = render_card("a" * 64, _FACTS).splitlines()
    assert lines[0] == f"# Corpus {'a' * 12}"
    assert lines[2].startswith("**Splits were given other names.**")
    assert lines[4] == "- `refcoco/refs(unc).p`: `testA` became `train`, `testB` became `train`"


def test_counts() -> None:
    card = render_card("a" * 64, _FACTS | {"relabelled_splits": {}})
    assert "other names" not in card
    assert "7 samples on 3 images; 2 records rejected." in card
    assert "| refcoco | referring | val | 3 |" in card
    assert "| refcoco/refs(unc).p | 9 | 7 | 2 |" in card
    assert "| text_empty | 1 |" in card


def test_no_rejects() -> None:
    card = render_card("a" * 64, _FACTS | {"rejects_by_reason": {}, "num_rejects": 0})
    assert card.endswith("## Rejects\n\nNone.\n")
