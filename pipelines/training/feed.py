"""From the corpus and the feature stores to the batches of a step, as `pipelines.training.planning` plans them."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.feature_targets import stack_targets
from model.objective import FeatureGroup, TrainingBatch, training_batch
from model.packing import collate, collate_packed
from model.processor import EncodedRow, Processor
from pipelines.training.config import TrainingConfig
from pipelines.training.mixture import Mixture, Place, RowSource, build_mixture
from pipelines.training.planning import PlannedRow, StepPlanner
from pipelines.training.rows import Conversation, target_masks
from storage.corpus import Corpus
from storage.errors import DataError
from storage.features import FeatureStore, ReadSeconds, StackedMemory
from storage.pictures import open_picture
from storage.schema import ImageRecord
from storage.stored_features import StoredFeature

__all__ = ["StepBatches", "TrainingFeed", "corpus_mixture"]

_FEATURES_AT_ONCE = 64
"""Features of one read: as many are in flight together."""


@dataclass(frozen=True, slots=True)
class StepBatches:
    """What one rank trains on in one optimiser step."""

    step: int
    micro_batches: tuple[TrainingBatch, ...]
    bins: tuple[int, ...]
    """Number of each micro-batch within the step, over all ranks; the same for any number of ranks."""
    sample_ids: tuple[tuple[str, ...], ...]
    """Samples of each conversation, in their order; none where an image stands alone."""
    families: tuple[tuple[str, ...], ...]
    """Per micro-batch the family of each conversation."""
    num_tokens: int
    """Without padding."""
    seconds: Mapping[str, float]
    """What making them took: `storage` (bytes of images and features fetched), `decode` (into pixels and
    integers), `encode` (drawn, tokenised, packed)."""


class TrainingFeed:
    """Makes the batches of one rank. Safe to use from several threads.

    Args:
        corpus: where samples and images are read.
        features: feature store of each teacher.
        processor: the student's.
        config: mixture, splits, batch sizes and seed.
        rank: number of this worker.
        world_size: number of workers.
    """

    def __init__(
        self,
        corpus: Corpus,
        features: Mapping[str, FeatureStore],
        processor: Processor,
        config: TrainingConfig,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._corpus, self._features, self._processor, self._config = corpus, features, processor, config
        self._rank, self._world_size = rank, world_size
        mixture, sizes_px = corpus_mixture(corpus, config)
        self._planner = StepPlanner(mixture, sizes_px, processor, config)

    def batches(self, first_step: int) -> Iterator[StepBatches]:
        """Batches of this rank, step after step, from a position on."""
        step = first_step
        while True:
            yield self.step_batches(step)
            step += 1

    def step_batches(self, step: int) -> StepBatches:
        """Batches of this rank in one optimiser step; depends on nothing but what the feed was made of."""
        clock = _Clock()
        with clock.measure("encode"):
            bins = self._planner.bins(step, self._rank, self._world_size)
        drafts = self._drafts([group.rows for group in bins], clock)
        self._add_features(drafts, clock)
        with clock.measure("encode"):
            packed = self._config.micro_batch_tokens is not None
            micro_batches = tuple(self._finished(draft, packed=packed) for draft in drafts)
        return StepBatches(
            step=step,
            micro_batches=micro_batches,
            bins=tuple(group.number for group in bins),
            sample_ids=tuple(row.conversation.sample_ids for group in bins for row in group.rows),
            families=tuple(tuple(row.source.family for row in group.rows) for group in bins),
            num_tokens=sum(len(row.input_ids) for draft in drafts for row in draft.rows),
            seconds=dict(clock.seconds),
        )

    def batch(self, places: Sequence[Place]) -> TrainingBatch:
        """The batch of conversations at some places, each in a row of its own."""
        clock = _Clock()
        drafts = self._drafts([[self._planner.row(place) for place in places]], clock)
        self._add_features(drafts, clock)
        return self._finished(drafts[0], packed=False)

    def place(self, row: int) -> Place:
        """Epoch and place of a row in the endless line."""
        return self._planner.place(row)

    def source(self, place: Place) -> RowSource:
        """What the row at a place is drawn from."""
        return self._planner.source(place)

    def conversation(self, place: Place) -> tuple[Conversation, NDArray[np.uint8] | None]:
        """The conversation at a place, with its image as uint8 RGB (height, width, 3)."""
        row = self._planner.row(place)
        image_id = row.source.image_id
        image = None if image_id is None else _decoded(self._corpus.image(image_id), row.conversation.size_px)
        return row.conversation, image

    def _drafts(self, groups: Sequence[Sequence[PlannedRow]], clock: _Clock) -> list[_Draft]:
        """Batches without features; the images of all of them are fetched together."""
        image_ids = {row.source.image_id for rows in groups for row in rows}
        wanted = sorted(image_id for image_id in image_ids if image_id is not None)
        with clock.measure("storage"):
            records = dict(zip(wanted, self._corpus.read_images(wanted), strict=True))
        branched, carried = self._config.turns == "branched", self._config.teacher_mode != "cached"
        drafts: list[_Draft] = []
        for rows in groups:
            draft = _Draft()
            drafts.append(draft)
            with clock.measure("decode"):
                all_masks = target_masks([row.conversation for row in rows])
            for row, masks in zip(rows, all_masks, strict=True):
                talk, image_id = row.conversation, row.source.image_id
                with clock.measure("decode"):
                    image = None if image_id is None else _decoded(records[image_id], talk.size_px)
                    prompts = talk.visual_prompts
                with clock.measure("encode"):
                    draft.rows.append(self._processor.encode(image, talk.turns, prompts, branched=branched))
                if image_id is not None and image is not None:
                    draft.image_ids.append(image_id)
                    draft.masks.append(torch.from_numpy(masks))
                    if carried:
                        draft.images.append(torch.from_numpy(image.copy()))  # of PIL: not writable
        return drafts

    def _add_features(self, drafts: Sequence[_Draft], clock: _Clock) -> None:
        """Reads the features of many images at a time, and notes which images a teacher has yet to see."""
        mode = self._config.teacher_mode
        teachers = (
            [head.teacher for head in self._processor.config.distillation] if mode != "cached" else self._features
        )
        for teacher in teachers:
            store = self._features.get(teacher) if mode != "online" else None
            for window in _windows(drafts):
                self._read_features(teacher, store, window, clock)
            if mode != "cached":
                for draft in drafts:
                    known = {
                        number for groups in draft.features[teacher].values() for own, _ in groups for number in own
                    }
                    draft.missing[teacher] = [
                        (number, image_id, image)
                        for number, (image_id, image) in enumerate(zip(draft.image_ids, draft.images, strict=True))
                        if number not in known
                    ]

    def _read_features(self, teacher: str, store: FeatureStore | None, drafts: Sequence[_Draft], clock: _Clock) -> None:
        image_ids = [image_id for draft in drafts for image_id in draft.image_ids]
        absent = set(image_ids if store is None else store.missing(image_ids))
        known = [image_id for image_id in image_ids if image_id not in absent]
        groups = _alike(drafts, absent, [] if store is None else store.extents(known))
        memory = StackedMemory([group.positions for group in groups])
        stored: list[StoredFeature] = []
        if store is not None and known:
            seconds, started_s = ReadSeconds(), time.perf_counter()
            stored = store.read_stored(known, memory=memory, seconds=seconds)
            clock.divide(time.perf_counter() - started_s, seconds)
        with clock.measure("decode"):
            for draft in drafts:
                draft.features[teacher] = {}
            for number, group in enumerate(groups):
                own = [stored[position] for position in group.positions]
                targets = stack_targets(own, memory.stacked(number, own))
                group.draft.features[teacher].setdefault(group.grid, []).append((group.images, targets))

    def _finished(self, draft: _Draft, *, packed: bool) -> TrainingBatch:
        end_of_text = self._processor.tokenizer.end_of_text
        inputs, labels = collate_packed([draft.rows], end_of_text) if packed else collate(draft.rows, end_of_text)
        seg = self._processor.tokenizer.seg
        return training_batch(inputs, labels, draft.masks, draft.features, seg, draft.missing)


@dataclass(slots=True)
class _Draft:
    """A batch in the making; images are numbered as they come."""

    rows: list[EncodedRow] = field(default_factory=list)
    image_ids: list[str] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    features: dict[str, dict[tuple[int, int], list[FeatureGroup]]] = field(default_factory=dict)
    missing: dict[str, list[tuple[int, str, Tensor]]] = field(default_factory=dict)

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Rows and columns of patches of each image."""
        return [grid for row in self.rows for grid in row.grids]


class _Clock:
    """Seconds by what they went into."""

    def __init__(self) -> None:
        self.seconds = {"storage": 0.0, "decode": 0.0, "encode": 0.0}

    @contextmanager
    def measure(self, name: str) -> Generator[None]:
        """Counts what happens within."""
        started_s = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started_s

    def divide(self, wall_s: float, read: ReadSeconds) -> None:
        """Divides the time of a read by what its threads did in it."""
        share = read.storage / max(read.storage + read.decode, 1e-9)
        self.seconds["storage"] += share * wall_s
        self.seconds["decode"] += (1 - share) * wall_s


def _windows(drafts: Sequence[_Draft]) -> Iterator[list[_Draft]]:
    """Neighbouring batches with enough images for one read together."""
    window: list[_Draft] = []
    for draft in drafts:
        window.append(draft)
        if sum(len(each.image_ids) for each in window) >= _FEATURES_AT_ONCE:
            yield window
            window = []
    if window:
        yield window


@dataclass(frozen=True, slots=True)
class _Alike:
    """Images of a batch whose features can be stacked."""

    draft: _Draft
    grid: tuple[int, int]
    """Of the student, in patches."""
    images: list[int] = field(default_factory=list)
    """Their numbers in the batch."""
    positions: list[int] = field(default_factory=list)
    """Where their features stand in what is read."""


def _alike(drafts: Sequence[_Draft], absent: Collection[str], extents: Sequence[tuple[int, int]]) -> list[_Alike]:
    """Images with features by batch, student grid and extent; extents are those of the images that aren't absent."""
    groups: dict[tuple[object, ...], _Alike] = {}
    position = 0
    for place, draft in enumerate(drafts):
        for number, (image_id, grid) in enumerate(zip(draft.image_ids, draft.grids, strict=True)):
            if image_id in absent:
                continue
            group = groups.setdefault((place, grid, extents[position]), _Alike(draft, grid))
            group.images.append(number)
            group.positions.append(position)
            position += 1
    return list(groups.values())


def _decoded(record: ImageRecord, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    if record.data is None:
        raise DataError(
            f"image {record.image_id}: expected its bytes in the corpus, got the URI {record.uri!r} alone; curate it "
            "with its bytes"
        )
    with open_picture(record.data) as image:
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape[:2] != size_px:
        raise DataError(
            f"image {record.image_id}: expected {size_px[0]} x {size_px[1]} px, as the corpus says, got "
            f"{pixels.shape[0]} x {pixels.shape[1]}; curate it again"
        )
    return pixels


def _alone(config: TrainingConfig) -> bool:
    """Whether images without samples are trained on."""
    return any(entry.images_only for entry in config.mixture)


def corpus_mixture(corpus: Corpus, config: TrainingConfig) -> tuple[Mixture, dict[str, tuple[int, int]]]:
    """The mixture of a corpus, and (height, width) in px of each of its images; no picture is read."""
    images = corpus.image_table(["image_id", "height", "width"])
    image_ids, heights, widths = (images[name].to_pylist() for name in images.column_names)
    held_out = _held_out(corpus, config) if _alone(config) else ()
    mixture = build_mixture(corpus.samples(splits=config.splits), config, image_ids, held_out)
    return mixture, dict(zip(image_ids, zip(heights, widths, strict=True), strict=True))


def _held_out(corpus: Corpus, config: TrainingConfig) -> set[str]:
    """Images that a split has samples of which isn't trained on."""
    samples = corpus.sample_table(["image_id", "split"])
    pairs = zip(samples["image_id"].to_pylist(), samples["split"].to_pylist(), strict=True)
    return {image_id for image_id, split in pairs if split not in config.splits and image_id is not None}
