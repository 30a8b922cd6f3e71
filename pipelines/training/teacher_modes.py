"""Teachers that run beside the student, where their features aren't all in a store.

    cached   nothing of this: features come from the stores alone
    online   every image goes through the teachers in every step; features are rounded to float16 as `raw16` does
    hybrid   what a store lacks goes through its teacher once, is encoded as the store has it, used as it comes
             back from that, and written back (`pipelines.training.write_back`)

Features are computed, resized and rounded by the functions that `teach` uses, so the three give the same
loss on the same batch: exactly for `raw16`, to the error of coding else. Teachers take images of one
input size at a time, at most `features.batch_size` of them. Which images meet in a forward pass depends here on
the micro-batch, in `teach` on its plan; on some devices that changes the last bits (docs/training.md).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from model.feature_targets import FeatureTargets, join_targets, plain_targets, stack_targets
from model.objective import FeatureGroup, Grid, TrainingBatch
from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.plan import Batch, feature_grid, input_batches
from pipelines.distillation.steps import compute_features, resize_features
from pipelines.training.write_back import StoreToFill, WriteBack
from storage.errors import InfrastructureError, TooManyRejects
from storage.feature_writer import FeatureRow
from teachers.base import Teacher
from teachers.device import default_batch_size
from teachers.registry import TeacherConfig, teacher_card

__all__ = ["TeacherBeside", "TeachersBeside", "teacher_beside"]

logger = logging.getLogger(__name__)

Pictures: TypeAlias = Mapping[str, Tensor]
"""uint8 RGB (height, width, 3) by image id."""

_FLOAT16_OVERFLOWS_AT = 65520.0
"""The first value that rounds to infinity; `raw16` rejects it too."""
_FEW = 64
"""Images of which a single one that fails says nothing about the share of those that do."""


@dataclass(frozen=True, slots=True)
class TeacherBeside:
    """A teacher that training runs, as it travels to each worker."""

    config: TeacherConfig
    features: FeaturesConfig
    fingerprint: str
    """Of the teacher as the driver has it; a worker with other weights or software refuses to go on."""
    store: StoreToFill | None = None
    """What it completes (`hybrid`); None: nothing is stored (`online`)."""


def teacher_beside(config: TeacherConfig, features: FeaturesConfig, store: StoreToFill | None = None) -> TeacherBeside:
    """A teacher with its fingerprint, for which its weights are read.

    Args:
        config: of the teacher.
        features: grid, batch size and tolerated rejects.
        store: which one it completes; None: none.
    """
    return TeacherBeside(config, features, teacher_card(config).fingerprint, store)


class TeachersBeside:
    """All teachers of one training process. A context: at its end, what is still unwritten is written.

    Args:
        teachers: which.
        weights: of the distillation losses by the teacher's kind; a teacher without is not run.
        device: of the student, and so of the teachers.
        part_images: images that a store lacked, after which they are written back as a part.
    """

    def __init__(
        self, teachers: Sequence[TeacherBeside], weights: Mapping[str, float], device: torch.device, part_images: int
    ) -> None:
        self._sources: dict[str, _Source] = {}
        for beside in teachers:
            if weights.get(beside.config.kind):
                network = _Network(beside, device)
                store = beside.store
                self._sources[beside.config.kind] = (
                    _Online(network)
                    if store is None
                    else _Hybrid(network, WriteBack(store, beside.fingerprint, beside.features, part_images))
                )

    def __enter__(self) -> TeachersBeside:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for source in self._sources.values():
            source.close(finish=error is None)

    def complete(self, batch: TrainingBatch) -> TrainingBatch:
        """A batch with the features that it lacks; images on which a teacher fails stay without.

        Raises:
            InfrastructureError: the teacher fails whatever the image, or storage stays out of reach.
            TooManyRejects: it fails on more images than `features.max_reject_share`.
        """
        features, device = dict(batch.features), batch.labels.device
        for kind, source in self._sources.items():
            missing = batch.missing.get(kind, ())
            if missing:
                found = source.targets({image_id: pixels for _, image_id, pixels in missing})
                computed = [(number, found[name].to(device)) for number, name, _ in missing if name in found]
                features[kind] = _with(features.get(kind, {}), computed, batch.inputs.grids)
        return replace(batch, features=features, missing={})

    def write(self) -> None:
        """Begins to write back what was computed since; called where a crash should lose nothing before."""
        for source in self._sources.values():
            source.write()


class _Source(Protocol):
    """Gives what a teacher says of pictures."""

    def targets(self, pictures: Pictures) -> dict[str, FeatureTargets]:
        """Targets of one image each, by its id; those that have none are left out."""
        ...

    def write(self) -> None:
        """Begins to store what isn't stored yet."""
        ...

    def close(self, *, finish: bool) -> None:
        """Ends; what isn't stored yet is, if `finish`."""
        ...


class _Network:
    """A teacher on its device, and how its features are laid on their grid."""

    def __init__(self, beside: TeacherBeside, device: torch.device) -> None:
        config, self._features = beside.config, beside.features
        self._config, self._teacher = config, _built(beside, device)
        batch_size = beside.features.batch_size
        self._batch_size = default_batch_size(config, device.type) if batch_size == "auto" else batch_size
        self._num_computed, self._num_failed = 0, 0

    def rows(self, pictures: Pictures, *, on_device: bool) -> list[tuple[str, Tensor | str]]:
        """Features [channels, rows, columns] of each picture on its stored grid, or why it has none."""
        image_ids = list(pictures)
        sizes = [self._config.input_size(*pictures[image_id].shape[:2]) for image_id in image_ids]
        rows: list[tuple[str, Tensor | str]] = []
        for batch in input_batches(sizes, self._batch_size):
            rows += self._batch([image_ids[position] for position in batch.positions], pictures, batch, on_device)
        self._count(rows)
        return rows

    def _batch(
        self, image_ids: Sequence[str], pictures: Pictures, batch: Batch, on_device: bool
    ) -> list[tuple[str, Tensor | str]]:
        inputs = torch.stack(
            [self._config.preprocess(Image.fromarray(pictures[image_id].numpy())) for image_id in image_ids]
        )
        features, failures = compute_features(self._teacher, inputs, {}, on_device=on_device)
        antialias = self._features.grid_stride_px is not None
        rows: list[tuple[str, Tensor | str]] = []
        for position, image_id in enumerate(image_ids):
            if position in failures:
                rows.append((image_id, failures[position]))
                continue
            height, width = pictures[image_id].shape[:2]
            resized = resize_features(features[position : position + 1], self.grid(height, width), antialias)
            rows.append((image_id, resized[0]))
        return rows

    def grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """(rows, columns) of an image's features."""
        return feature_grid(self._features, self._config, self._config.student_source, height_px, width_px)

    def _count(self, rows: Sequence[tuple[str, Tensor | str]]) -> None:
        self._num_computed += len(rows)
        for image_id, found in rows:
            if isinstance(found, str):
                self.reject(image_id, found)

    def reject(self, image_id: str, reason: str) -> None:
        """Counts an image that can't be used; raises TooManyRejects."""
        self._num_failed += 1
        logger.warning("teacher %s: image %s stays without features: %s", self._config.kind, image_id, reason)
        if self._num_failed > max(1, self._features.max_reject_share * max(self._num_computed, _FEW)):
            raise TooManyRejects(
                f"teacher {self._config.kind}: failed on {self._num_failed} of {self._num_computed} images, allowed "
                f"are {self._features.max_reject_share:.1%}; the last is {image_id}: {reason}; "
                "mend the images and curate again, or raise features.max_reject_share"
            )


class _Online:
    """Computes everything whenever it is asked for."""

    def __init__(self, network: _Network) -> None:
        self._network = network

    def targets(self, pictures: Pictures) -> dict[str, FeatureTargets]:
        """Rounded to float16, on the teacher's device."""
        found: dict[str, FeatureTargets] = {}
        for image_id, features in self._network.rows(pictures, on_device=True):
            if isinstance(features, str):
                continue
            if float(features.abs().max()) >= _FLOAT16_OVERFLOWS_AT:
                self._network.reject(image_id, "a value is beyond float16 (65504)")
                continue
            found[image_id] = plain_targets(features[None].half())
        return found

    def write(self) -> None:
        """Nothing is stored."""

    def close(self, *, finish: bool) -> None:
        """Nothing is left."""


class _Hybrid:
    """Computes what a store lacks, once."""

    def __init__(self, network: _Network, store: WriteBack) -> None:
        self._network, self._store = network, store

    def targets(self, pictures: Pictures) -> dict[str, FeatureTargets]:
        """As they come back from the store's encoding."""
        # Computed in an earlier step, or published since the feed opened the store.
        stored = self._store.known(list(pictures))
        unknown = {image_id: pixels for image_id, pixels in pictures.items() if image_id not in stored}
        for image_id, features in self._network.rows(unknown, on_device=False):
            height, width = pictures[image_id].shape[:2]
            if isinstance(features, str):
                grid = self._network.grid(height, width)
                self._store.add(FeatureRow(image_id, *grid, None, features))
                continue
            row = FeatureRow(image_id, features.shape[1], features.shape[2], features.contiguous().numpy())
            stored[image_id] = self._store.add(row)
            if stored[image_id] is None:
                self._network.reject(image_id, f"{self._store.encoding} can't hold its features")
        return {image_id: stack_targets([row]) for image_id, row in stored.items() if row is not None}

    def write(self) -> None:
        """Begins to write a part of what was computed since the last one."""
        self._store.write()

    def close(self, *, finish: bool) -> None:
        """Waits for parts that are being written."""
        self._store.close(finish=finish)


def _built(beside: TeacherBeside, device: torch.device) -> Teacher:
    teacher = beside.config.build(str(device))
    if teacher.fingerprint != beside.fingerprint:
        raise InfrastructureError(
            f"teacher {beside.config.kind}: expected the fingerprint {beside.fingerprint[:16]} that the driver found, "
            f"got {teacher.fingerprint[:16]} on this node; give all nodes the same checkpoint and software"
        )
    return teacher


def _with(
    known: Mapping[Grid, Sequence[FeatureGroup]],
    computed: Sequence[tuple[int, FeatureTargets]],
    grids: Sequence[Grid],
) -> dict[Grid, Sequence[FeatureGroup]]:
    """Groups with more images in them, as the feed would have made them had a store held all.

    The same groups, in the same order: matrix products over other rows can differ in their last bits.
    """
    groups = dict(known)
    for grid in dict.fromkeys(grids[number] for number, _ in computed):
        pieces = [(number, targets) for number, targets in computed if grids[number] == grid]
        for numbers, targets in known.get(grid, ()):
            pieces += zip(numbers, targets.images(), strict=True)
        alike: dict[tuple[object, ...], list[tuple[int, FeatureTargets]]] = {}
        for number, targets in sorted(pieces, key=lambda piece: piece[0]):
            alike.setdefault(targets.kind, []).append((number, targets))
        groups[grid] = [
            ([number for number, _ in same], join_targets([targets for _, targets in same])) for same in alike.values()
        ]
    return groups
