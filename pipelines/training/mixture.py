"""The order of training: which conversation stands at which place of which epoch, as pure functions.

A conversation is one image with a few turns. Its content is drawn from a generator that is seeded by
(seed, epoch, place), so any rank can make any row by itself, and the position of a run is one number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.training.config import MixtureEntry, TrainingConfig
from storage.errors import DataError
from storage.schema import Sample

__all__ = ["Mixture", "Place", "RowSource", "build_mixture", "row_generator"]


@dataclass(frozen=True, slots=True)
class RowSource:
    """What one conversation is drawn from: samples of one image and one part of the mixture."""

    image_id: str | None
    samples: tuple[Sample, ...]
    """Single-turn samples that can share a conversation, or one sample with several turns, or none."""
    num_turns: int
    """Turns to draw."""
    repeats: float
    """Conversations per epoch."""
    weights: tuple[float, ...] | None = None
    """Chance of each sample to be drawn, relative to the others; None: all alike."""

    @property
    def family(self) -> str:
        """Family of its samples, by which losses are told apart; where they are of several, all of them: `a_and_b`."""
        return "_and_".join(sorted({sample.family for sample in self.samples})) or IMAGES


IMAGES = "images"
"""What images without samples count as where losses are told apart by family."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in training: the epoch and the row inside it."""

    epoch: int
    row: int


@dataclass(frozen=True, slots=True)
class Mixture:
    """All conversations of an epoch, in no order yet."""

    sources: tuple[RowSource, ...]
    counts: NDArray[np.int64]
    """Whole conversations of each source per epoch."""
    fractions: NDArray[np.float64]
    """Chance of one more."""
    shards: NDArray[np.int64]
    """Of each source, where its image lies in the corpus; -1 for text."""

    @property
    def rows_per_epoch(self) -> float:
        """Conversations of an epoch; of parts that are drawn by chance, as many as are expected."""
        return float(self.counts.sum() + self.fractions.sum())

    def order(self, seed: int, epoch: int, shuffle_shards: int | None = None) -> NDArray[np.int64]:
        """Numbers of the sources in the order of an epoch; depends on (seed, epoch) and on what the corpus holds.

        Args:
            seed: of the run.
            epoch: number of the epoch.
            shuffle_shards: shards of the window that is shuffled within; None: everything.
        """
        rng = np.random.default_rng([seed, epoch, _ORDER])
        extra = rng.random(len(self.sources)) < self.fractions
        counts = self.counts + extra
        numbers = np.repeat(np.arange(len(self.sources)), counts)
        if shuffle_shards is None:
            return rng.permutation(numbers)
        # The rows that repeat an image come with another visit of its shard, so that they don't meet.
        repeat = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
        shards = self.shards[numbers]
        num_shards = int(self.shards.max(initial=0)) + 1
        visits, which = np.unique(repeat * num_shards + shards.clip(0), return_inverse=True)
        # At any time the rows of the window's visits are mixed: each lies at its visit, plus up to a window's length.
        time = rng.permutation(len(visits))[which] + shuffle_shards * rng.random(len(numbers))
        anywhere = rng.random(len(numbers)) * (len(visits) + shuffle_shards - 1)
        return numbers[np.argsort(np.where(shards < 0, anywhere, time), kind="stable")]


_ORDER, _ROW = 0, 1
"""Streams of random numbers that must not meet."""
SHARD_IMAGES = 128
"""Images of the corpus, in its order, that a shuffle takes for one shard: some ten row groups of photographs.

Feature stores keep the same order within each shape, so neighbours lie together there too; their own
shards don't count, since compacting them would change the order of a run.
"""


def row_generator(seed: int, place: Place) -> np.random.Generator:
    """The generator that draws the content of the row at a place."""
    return np.random.default_rng([seed, place.epoch, _ROW, place.row])


def build_mixture(
    samples: Iterable[Sample],
    config: TrainingConfig,
    image_ids: Sequence[str] = (),
    held_out: Collection[str] = frozenset(),
) -> Mixture:
    """Groups samples by image into the parts of the mixture.

    Args:
        samples: samples of the training splits.
        config: names the parts.
        image_ids: all images, in the order of the corpus.
        held_out: images that must not be trained on without samples, since other splits have samples of them.

    Raises:
        DataError: a part of the mixture, or the whole, that has no sample.
    """
    all_samples = list(samples)
    sources: list[RowSource] = []
    for number, entry in enumerate(config.mixture):
        if entry.images_only:
            continue
        chosen = [
            sample
            for sample in all_samples
            if (not entry.families or sample.family in entry.families)
            and (not entry.tasks or sample.task in entry.tasks)
        ]
        if not chosen:
            raise DataError(
                f"training.mixture[{number}]: expected samples of families {list(entry.families) or 'any'} and tasks "
                f"{[str(task) for task in entry.tasks] or 'any'} in splits {list(config.splits)}, found none among "
                f"{len(all_samples)}; curate a source that has them or leave the entry out"
            )
        sources += _group(chosen, entry)
    taken = {source.image_id for source in sources}.union(held_out)
    for number, entry in enumerate(config.mixture):
        if not entry.images_only:
            continue
        rest = [image_id for image_id in image_ids if image_id not in taken]
        if not rest:
            raise DataError(
                f"training.mixture[{number}]: expected images without samples in this mixture, found none among "
                f"{len(image_ids)} of the corpus; leave the entry out"
            )
        sources += [RowSource(image_id, (), 0, entry.repeats) for image_id in sorted(rest)]
    repeats = np.array([source.repeats for source in sources], np.float64)
    counts = np.floor(repeats).astype(np.int64)
    places = {image_id: number // SHARD_IMAGES for number, image_id in enumerate(image_ids)}
    shards = np.array([places.get(source.image_id or "", -1) for source in sources], np.int64)
    return Mixture(tuple(sources), counts, repeats - counts, shards)


def _group(samples: Sequence[Sample], entry: MixtureEntry) -> list[RowSource]:
    by_image: dict[str | None, list[Sample]] = defaultdict(list)
    whole: list[RowSource] = []
    for sample in samples:
        if len(sample.turns) == 1 and sample.image_id is not None:
            by_image[sample.image_id].append(sample)
        else:
            whole.append(RowSource(sample.image_id, (sample,), len(sample.turns), entry.repeats))
    grouped: list[RowSource] = []
    for image_id, group in sorted(by_image.items(), key=lambda item: str(item[0])):
        group.sort(key=lambda sample: sample.sample_id)
        weights = tuple(entry.task_weights.get(sample.task, 1.0) for sample in group)
        grouped.append(
            RowSource(
                image_id,
                tuple(group),
                entry.turns_per_row,
                entry.repeats,
                weights if len(set(weights)) > 1 else None,
            )
        )
    return grouped + sorted(whole, key=lambda source: source.samples[0].sample_id)
