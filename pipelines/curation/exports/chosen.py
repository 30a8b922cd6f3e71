"""What of a corpus is exported: its samples of some splits and families, shard by shard, with their pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from pipelines.curation.corpus_shards import corpus_shards
from pipelines.progress import Progress
from storage.corpus import Corpus
from storage.errors import DataError, UsageError
from storage.schema import ImageRecord, Sample

__all__ = ["Chosen", "ExportCounts", "images_of"]


@dataclass(slots=True)
class ExportCounts:
    """What was exported."""

    images: int = 0
    """Pictures, each once per split that it is exported in."""
    samples: int = 0
    """Samples."""
    without_image: int = 0
    """Samples that belong to the choice but have no picture, which this format has no place for."""
    splits: set[str] = field(default_factory=set[str])
    """Splits that have a sample."""


class Chosen:
    """The samples of a corpus that are exported.

    Args:
        corpus: a published corpus.
        splits: of the samples; None: all.
        families: of the samples; None: all.

    Raises:
        UsageError: a split or a family that the corpus doesn't have; the message lists those it has.
    """

    def __init__(
        self, corpus: Corpus, splits: Collection[str] | None = None, families: Collection[str] | None = None
    ) -> None:
        self.corpus = corpus
        self.splits = splits
        self.families = families
        known = _known(corpus)
        for what, wanted, found in (("split", splits, known[1]), ("family", families, known[0])):
            unknown = sorted(set(wanted or ()) - found)
            if unknown:
                listed = ", ".join(sorted(found))
                raise UsageError(f"{corpus.objects.url}: no sample of {what} {unknown[0]!r}; the corpus has {listed}")

    def shards(self, progress: Progress) -> Iterator[tuple[str, Corpus, dict[str | None, list[Sample]]]]:
        """Name, content and chosen samples by their image of each shard that has any.

        Args:
            progress: told of shards.
        """
        manifest = self.corpus.manifest
        total = sum(entry.path.startswith("samples/") for entry in manifest.files)
        for done, (name, shard) in enumerate(corpus_shards(self.corpus.objects, manifest.files)):
            progress.update(done, total, unit="shards")
            by_image: dict[str | None, list[Sample]] = {}
            for sample in shard.samples(families=self.families, splits=self.splits):
                by_image.setdefault(sample.image_id, []).append(sample)
            if by_image:
                yield name, shard, by_image
        progress.update(total, total, unit="shards")

    def count(self, progress: Progress, *, without_image: bool) -> ExportCounts:
        """What an export would write, without reading a picture.

        Args:
            progress: told of shards.
            without_image: whether the format has a place for samples without a picture.
        """
        counts = ExportCounts()
        for _, _, by_image in self.shards(progress):
            imageless = [] if without_image else by_image.pop(None, [])
            counts.without_image += len(imageless)
            for image_id, samples in by_image.items():
                splits = {sample.split for sample in samples}
                counts.splits |= splits
                counts.images += 0 if image_id is None else len(splits)
                counts.samples += len(samples)
        return counts


def images_of(shard: Corpus, wanted: Collection[str | None]) -> Iterator[ImageRecord]:
    """The wanted images of a shard, a few at a time in memory.

    Raises:
        DataError: the shard doesn't hold one.
    """
    missing = {image_id for image_id in wanted if image_id is not None}
    if not missing:
        return
    for image in shard.images():
        if image.image_id in missing:
            missing.remove(image.image_id)
            yield image
    if missing:
        raise DataError(f"{shard.objects.url}: image {min(missing)} of a sample is not in the sample's shard")


def _known(corpus: Corpus) -> tuple[set[str], set[str]]:
    """Families and splits of all samples: as the manifest counts them, or else as the columns have them."""
    facts = corpus.manifest.facts.get("samples")
    if isinstance(facts, Mapping):
        counts = cast("Mapping[str, Mapping[str, Mapping[str, int]]]", facts)
        return set(counts), {split for tasks in counts.values() for splits in tasks.values() for split in splits}
    families: set[str] = set()
    splits: set[str] = set()
    for _, shard in corpus_shards(corpus.objects, corpus.manifest.files):
        table = shard.sample_table(["family", "split"])
        families.update(cast("list[str]", table["family"].unique().to_pylist()))
        splits.update(cast("list[str]", table["split"].unique().to_pylist()))
    return families, splits
