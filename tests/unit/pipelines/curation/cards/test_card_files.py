"""The card as files: listed, repeatable, and read by the programs that they are meant for."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import datasets
import mlcroissant
import pytest

from pipelines.curation.cards import CARD_NAME, card_files, write_card
from pipelines.curation.registry import source_config
from storage.corpus import Corpus
from storage.errors import DataError, ManifestConflict
from storage.manifest import FileEntry
from storage.objects import Objects
from storage.schema import Task
from tests.small_corpora import write_labelled_corpus

# All three are of libraries below mlcroissant or within it, and of nothing that we could call otherwise.
pytestmark = [
    pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index is deprecated"),
]

_SOURCES = [source_config({"kind": "refcoco"}), source_config({"kind": "osprey"})]


def _made(corpus: Corpus) -> dict[str, bytes]:
    manifest = corpus.manifest
    return card_files(corpus.objects, manifest.files, manifest.key, manifest.facts, _SOURCES, manifest.inputs)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """A corpus with its card."""
    corpus = write_labelled_corpus(Objects.open(tmp_path / "corpus"))
    write_card(corpus.objects, _made(corpus))
    return corpus


def test_every_file_is_there_and_the_same_again(corpus: Corpus) -> None:
    made = _made(corpus)
    assert sorted(made) == [
        CARD_NAME,
        *(f"card/{name}.png" for name in ("pointed-histograms", "pointed-samples")),
        *(f"card/refer-2b-{name}.png" for name in ("histograms", "samples")),
        *(f"card/{name}.png" for name in ("told-histograms", "told-samples")),
        "croissant.json",
        "statistics.parquet",
    ]
    card = made[CARD_NAME].decode()
    assert "![refer+: 4 of 4 samples](card/refer-2b-samples.png)" in card
    elsewhere = write_labelled_corpus(Objects.open(f"memory://{uuid.uuid4().hex}"))
    assert _made(elsewhere) == made


def test_entries_describe_what_was_written(corpus: Corpus) -> None:
    made = _made(corpus)
    entries = write_card(corpus.objects, made)
    assert [(entry.path, entry.size_bytes) for entry in entries] == [(path, len(made[path])) for path in sorted(made)]
    assert [entry.path for entry in entries if entry.rows is not None] == ["statistics.parquet"]
    for entry in entries:
        assert hashlib.sha256(corpus.objects.read(entry.path)).hexdigest() == entry.sha256
    with pytest.raises(ManifestConflict, match=r"README\.md: a file of other content stands there"):
        write_card(corpus.objects, {CARD_NAME: b"other"})


def test_the_gate_reaches_the_card_and_drawn_pictures_have_no_licence(corpus: Corpus) -> None:
    manifest = corpus.manifest
    facts = {**manifest.facts, "leakage_gate": "off", "leakage": {}}
    made = card_files(corpus.objects, manifest.files, manifest.key, facts, _SOURCES, {"scenes": "0"})
    card = made[CARD_NAME].decode()
    assert card.partition("---\n\n")[2].startswith("**Training samples may lie on evaluation images")
    assert "Sailloft drew pictures and texts itself" in card
    assert "license" not in json.loads(made["croissant.json"])


def test_an_image_without_bytes_is_an_error(corpus: Corpus) -> None:
    entries = [entry for entry in corpus.manifest.files if not entry.path.startswith("images/")]
    with pytest.raises(DataError, match=r"image \w+: a sample lies on it, but it is not in the sample's shard"):
        card_files(corpus.objects, entries, "0", corpus.manifest.facts, _SOURCES, {})


def test_a_corpus_of_nothing_has_a_card(tmp_path: Path) -> None:
    facts: dict[str, Any] = {
        **{f"num_{what}": 0 for what in ("images", "samples", "rejects")},
        **{
            what: {}
            for what in ("samples", "records_in", "samples_by_source", "rejects_by_reason", "relabelled_splits")
        },
    }
    made = card_files(Objects.open(tmp_path), [], "0" * 64, facts, [], {})
    assert sorted(made) == [CARD_NAME, "croissant.json", "statistics.parquet"]
    assert "0 samples on 0 images" in made[CARD_NAME].decode()
    mlcroissant.Dataset(jsonld=json.loads(made["croissant.json"]))


def test_croissant_is_valid_and_names_every_file(corpus: Corpus) -> None:
    value = json.loads(corpus.objects.read("croissant.json"))
    metadata = mlcroissant.Dataset(jsonld=value).metadata
    assert not metadata.ctx.issues.errors
    assert metadata.to_json()["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    statistics = FileEntry.of("statistics.parquet", corpus.objects.read("statistics.parquet"))
    expected = {entry.path: entry.sha256 for entry in (*corpus.manifest.files, statistics)}
    assert {file.content_url: file.sha256 for file in metadata.file_objects} == expected
    assert {record_set.id for record_set in metadata.record_sets} == {"samples", "images", "rejects", "statistics"}
    assert value["license"] == ["CC BY-NC 4.0"]


def test_croissant_loads_records_with_what_is_nested(corpus: Corpus) -> None:
    dataset = mlcroissant.Dataset(jsonld=f"{corpus.objects.local_path}/croissant.json")
    loaded = {record["samples/sample_id"].decode(): record for record in dataset.records("samples")}
    samples = list(corpus.samples())
    assert set(loaded) == {sample.sample_id for sample in samples}
    for sample in samples:
        record = loaded[sample.sample_id]
        assert record["samples/image_id"] == (sample.image_id and sample.image_id.encode())
        assert [
            (region["samples/regions/mask_counts"], region["samples/regions/category"])
            for region in record["samples/regions"]
        ] == [(region.mask.counts, region.category and region.category.encode()) for region in sample.regions]
        assert [turn["samples/turns/text"].decode() for turn in record["samples/turns"]] == [
            turn.text for turn in sample.turns
        ]
        assert [turn["samples/turns/targets"] for turn in record["samples/turns"]] == [
            [list(target) for target in turn.targets] for turn in sample.turns
        ]
        boxes = [prompt["samples/prompts/box_xyxy_px"] for prompt in record["samples/prompts"]]
        assert [box and tuple(box) for box in boxes] == [prompt.box_xyxy_px for prompt in sample.prompts]
        points = [prompt["samples/prompts/points_xy_px"] for prompt in record["samples/prompts"]]
        assert [[tuple(point) for point in own] for own in points] == [list(p.points_xy_px) for p in sample.prompts]
    pictures = {record["images/image_id"].decode(): record["images/data"] for record in dataset.records("images")}
    assert {name: picture.size for name, picture in pictures.items()} == {
        image.image_id: (image.width, image.height) for image in corpus.images()
    }
    (reject,) = dataset.records("rejects")
    assert reject["rejects/reason"] == b"text_empty"
    counts = [record["statistics/count"] for record in dataset.records("statistics")]
    assert sum(counts) > len(counts) > 0


def test_the_card_makes_the_corpus_a_dataset_of_the_hub(corpus: Corpus, tmp_path: Path) -> None:
    def load(name: str) -> Any:
        return datasets.load_dataset(
            str(corpus.objects.local_path), name, split="train", cache_dir=str(tmp_path / "cache")
        )

    assert sorted(load("samples")["sample_id"]) == sorted(sample.sample_id for sample in corpus.samples())
    assert load("images").num_rows == 3
    assert load("rejects")["reason"] == ["text_empty"]
    assert Task.CAPTION in load("samples")["task"]
