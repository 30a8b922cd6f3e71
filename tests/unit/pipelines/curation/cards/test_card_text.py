"""The card says first what a reader must know first, and its tables hold every count."""

from __future__ import annotations

from typing import Any

import huggingface_hub
import pytest
import yaml

from pipelines.curation.cards.licences import licence_head
from pipelines.curation.cards.text import CardContext, render_card
from pipelines.curation.families.base import NOT_STATED, Published
from pipelines.curation.registry import known_kinds, source_config

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
_CONTEXT = CardContext(
    published={"refcoco": Published(url="https://example.org", size="7 records"), "osprey": Published(licence="MIT")},
    is_drawn=False,
    folders=("samples", "images", "rejects"),
    pictures={"refcoco": [("refcoco: histograms", "card/refcoco-histograms.png")]},
)


def _card(**changed: object) -> str:
    return render_card("a" * 64, _FACTS | changed, _CONTEXT)


def _text(card: str) -> list[str]:
    """Lines behind the head."""
    return card.partition("---\n\n")[2].splitlines()


def test_relabelled_splits_stand_first() -> None:
    lines = _text(_card())
    assert lines[0] == f"# Corpus {'a' * 12}"
    assert lines[2].startswith("**Splits were given other names.**")
    assert lines[4] == "- `refcoco/refs(unc).p`: `testA` became `train`, `testB` became `train`"


def test_an_open_leakage_gate_stands_before_everything() -> None:
    lines = _text(_card(leakage_gate="off", leakage={}))
    assert lines[0].startswith("**Training samples may lie on evaluation images of other sets:**")
    assert lines[2] == f"# Corpus {'a' * 12}"
    assert lines[4].startswith("**Splits were given other names.**")


def test_counts() -> None:
    card = _card(relabelled_splits={})
    assert "other names" not in card
    assert "leak" not in card.lower()
    assert "7 samples on 3 images; 2 records rejected." in card
    assert "| refcoco | referring | val | 3 |" in card
    assert "| refcoco/refs(unc).p | 9 | 7 | 2 |" in card
    assert "| text_empty | 1 |" in card
    assert "| refcoco | <https://example.org> | not stated | 7 records |" in card
    assert "| osprey | not stated | MIT | not stated |" in card
    assert "### refcoco\n\n![refcoco: histograms](card/refcoco-histograms.png)\n" in card


def test_no_rejects() -> None:
    assert "## Rejects\n\nNone.\n" in _card(rejects_by_reason={}, num_rejects=0)


@pytest.mark.parametrize(("gate", "told"), [("remove", "were removed"), ("refuse", "would have ended the run")])
def test_leakage_is_counted_by_family(gate: str, told: str) -> None:
    removed = {"osprey": {"samples_removed": 5, "images": 2}, "llava": {"samples_removed": 1, "images": 1}}
    card = _card(leakage_gate=gate, leakage=removed)
    assert told in card
    assert card.index("| llava | 1 | 1 |") < card.index("| osprey | 5 | 2 |")
    assert "No sample was removed." in _card(leakage_gate=gate, leakage={})


def test_the_head_is_what_the_hub_reads() -> None:
    card = _card()
    head = huggingface_hub.DatasetCard(card).data.to_dict()
    assert head == yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "other"
    assert head["task_categories"] == ["image-segmentation"]
    assert head["size_categories"] == ["n<1K"]
    assert head["configs"][0] == {"config_name": "samples", "data_files": "samples/*.parquet", "default": True}


def test_drawn_sources_have_no_publisher() -> None:
    context = CardContext(published={"grefcoco": Published(licence="MIT")}, is_drawn=True, folders=(), pictures={})
    card = render_card("a" * 64, _FACTS, context)
    assert "license_name: drawn-by-sailloft" in card
    assert "Sailloft drew pictures and texts itself, in the layouts of grefcoco" in card
    assert "MIT" not in card


@pytest.mark.parametrize(
    ("licences", "head"),
    [
        (("CC BY 4.0", "CC BY 4.0"), {"license": "cc-by-4.0"}),
        ((NOT_STATED,), {"license": "unknown"}),
        (("CC BY 4.0", NOT_STATED), {"license": "other", "license_name": "those-of-its-sources"}),
        (("CC BY 4.0", "MIT"), {"license": "other", "license_name": "those-of-its-sources"}),
        (("a licence of our own",), {"license": "other", "license_name": "those-of-its-sources"}),
    ],
)
def test_licence_of_several_sources(licences: tuple[str, ...], head: dict[str, str]) -> None:
    published = {str(place): Published(licence=licence) for place, licence in enumerate(licences)}
    assert licence_head(published, is_drawn=False) == head


@pytest.mark.parametrize("kind", known_kinds())
def test_families_say_where_they_come_from(kind: str) -> None:
    published = source_config({"kind": kind}).published
    assert published.url == NOT_STATED or published.url.startswith("https://")
    assert published.licence
    assert published.size
