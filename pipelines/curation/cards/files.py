"""All files of a corpus's card, made in one pass over its shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from pipelines.curation.cards.croissant import croissant_json
from pipelines.curation.cards.histograms import draw_histograms
from pipelines.curation.cards.licences import DRAWN_INPUT, published_by_kind, stated_licences
from pipelines.curation.cards.selection import Candidate, Selection
from pipelines.curation.cards.sheets import draw_sheet
from pipelines.curation.cards.statistics import Statistics
from pipelines.curation.cards.text import CardContext, render_card
from pipelines.curation.corpus_shards import corpus_shards
from pipelines.curation.families.base import Source
from pipelines.curation.naming import file_word
from storage.corpus import table_file_entry
from storage.errors import DataError
from storage.keys import Json
from storage.manifest import FileEntry, write_once
from storage.objects import Objects

__all__ = ["CARD_NAME", "card_files", "write_card"]

CARD_NAME = "README.md"
"""Key of the card's text below the corpus's prefix."""

_STATISTICS = "statistics.parquet"
_CROISSANT = "croissant.json"
_SIZED = ("image_id", "height", "width")


def card_files(
    output: Objects,
    files: Sequence[FileEntry],
    key: str,
    facts: Mapping[str, Json],
    sources: Iterable[Source],
    inputs: Mapping[str, str],
) -> dict[str, bytes]:
    """The files of a card by their keys: text, pictures, statistics, metadata for programs.

    Args:
        output: the corpus's prefix, with all its shards.
        files: what was written there.
        key: content key of the corpus.
        facts: of its manifest.
        sources: that it was made of.
        inputs: of its manifest.

    Returns:
        Bytes that follow from the content of the corpus and of its manifest alone.

    Raises:
        DataError: samples name an image that isn't in their shard.
        CorruptObject: a shard can't be read.
    """
    statistics, selection = Statistics(), Selection()
    for name, shard in corpus_shards(output, files):
        samples = shard.sample_table()
        statistics.add(samples, shard.image_table(_SIZED))
        selection.add(name, samples)
    made: dict[str, bytes] = {}
    pictures: dict[str, list[tuple[str, str]]] = {}
    chosen = {family: selection.of(family) for family in selection.families()}
    images = _read_images(output, files, [candidate for found in chosen.values() for candidate in found])
    totals = _samples_by_family(facts)
    for family, candidates in chosen.items():
        stem = f"card/{file_word(family)}"
        histograms = draw_histograms(statistics, family)
        if histograms is not None:
            made[f"{stem}-histograms.png"] = histograms
            pictures.setdefault(family, []).append((f"{family}: histograms", f"{stem}-histograms.png"))
        title = f"{family}: {len(candidates)} of {totals.get(family, len(candidates)):,} samples"
        made[f"{stem}-samples.png"] = draw_sheet(title, [candidate.sample for candidate in candidates], images)
        pictures.setdefault(family, []).append((title, f"{stem}-samples.png"))
    table = statistics.to_parquet()
    made[_STATISTICS] = table
    published = published_by_kind(sources)
    context = CardContext(
        published=published,
        is_drawn=DRAWN_INPUT in inputs,
        folders=[name for name in ("samples", "images", "rejects") if any(_lies_in(name, entry) for entry in files)],
        pictures=pictures,
    )
    made[CARD_NAME] = render_card(key, facts, context).encode()
    about = f"{facts['num_samples']} samples on {facts['num_images']} images, of {', '.join(chosen) or 'no family'}."
    licences = [] if context.is_drawn else stated_licences(published)
    made[_CROISSANT] = croissant_json(key, about, licences, [*files, FileEntry.of(_STATISTICS, table)])
    return made


def write_card(output: Objects, made: Mapping[str, bytes]) -> tuple[FileEntry, ...]:
    """Writes the files of a card, create-only.

    Returns:
        Their entries for the manifest.

    Raises:
        ManifestConflict: a file of other content stands there.
    """
    entries: list[FileEntry] = []
    for path, data in sorted(made.items()):
        write_once(output, path, data)
        is_table = path.endswith(".parquet")
        entries.append(table_file_entry(output, path) if is_table else FileEntry.of(path, data))
    return tuple(entries)


def _read_images(output: Objects, files: Sequence[FileEntry], candidates: Iterable[Candidate]) -> dict[str, bytes]:
    """Encoded pictures of the candidates by their ids, shard by shard."""
    wanted: dict[str, set[str]] = {}
    for candidate in candidates:
        if candidate.sample.image_id is not None:
            wanted.setdefault(candidate.shard, set()).add(candidate.sample.image_id)
    found: dict[str, bytes] = {}
    for name, shard in corpus_shards(output, files):
        for image in shard.read_images(sorted(wanted[name])) if name in wanted else ():
            if image.data is None:
                raise DataError(f"{output.url}: image {image.image_id}: expected its bytes, the corpus has none")
            found[image.image_id] = image.data
    return found


def _samples_by_family(facts: Mapping[str, Json]) -> dict[str, int]:
    samples = cast("Mapping[str, Mapping[str, Mapping[str, int]]]", facts["samples"])
    return {family: sum(sum(splits.values()) for splits in tasks.values()) for family, tasks in samples.items()}


def _lies_in(folder: str, entry: FileEntry) -> bool:
    return entry.path.startswith(f"{folder}/")
