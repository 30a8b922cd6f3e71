"""Which outputs of a workspace saw an image: corpora, feature parts, checkpoints, scores, and what may show it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from typing import Any, cast

from pipelines.curation.corpus_images import HeldImage, find_in_corpus
from pipelines.lineage.graph import bases_of
from pipelines.lineage.outputs import Kind, Output, Presence, WorkspaceOutputs
from storage.feature_holdings import PartHolding, find_in_parts
from storage.keys import Json
from storage.manifest import read_manifest
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.retirement import SampleCount, read_retirement

__all__ = ["CheckpointSighting", "CorpusSighting", "ImageSightings", "PartSighting", "Role", "ScoresSighting",
           "find_in_corpora", "find_sightings", "role_of"]  # fmt: skip

_NUM_READERS = 8
_SHOWING = (Kind.REPORT, Kind.BENCHMARK, Kind.CALIBRATION)
"""Kinds that may hold something of an image of the corpus that they were made of, without saying of which."""


class Role(StrEnum):
    """What an image was to a checkpoint."""

    TRAINED = "trained on"
    """Samples of it were in what it was trained on."""
    DISTILLED = "distilled on"
    """It was trained on without a word, by its features."""
    BASE = "by its base"
    """A checkpoint that it began from was trained on it."""
    HELD_OUT = "held out"
    """An evaluation image of its corpus, not trained on."""
    UNUSED = "not used"
    """In its corpus, but in no part of its mixture."""

    @property
    def is_seen(self) -> bool:
        """Whether the weights saw it."""
        return self in (Role.TRAINED, Role.DISTILLED, Role.BASE)


@dataclass(frozen=True, slots=True)
class CorpusSighting:
    """A corpus that has, or had, the image."""

    key: str
    path: str
    presence: Presence
    successor: str | None
    samples: tuple[SampleCount, ...]


@dataclass(frozen=True, slots=True)
class PartSighting:
    """A feature part that has a row of the image."""

    store: str
    part: str
    path: str
    state: str
    status: str
    """Of the row: it has features, or a reject."""


@dataclass(frozen=True, slots=True)
class CheckpointSighting:
    """A checkpoint of a corpus with the image, or of a base that saw it."""

    key: str
    path: str
    role: Role
    base: str | None = None
    """Key of the nearest checkpoint that it began from and that was trained on the image; only for `Role.BASE`."""
    registered: tuple[str, ...] = ()
    """As what registries of students know it."""


@dataclass(frozen=True, slots=True)
class ScoresSighting:
    """Scores of a checkpoint that saw the image, or with predictions on it."""

    key: str
    path: str
    num_predictions: int
    """On the image."""
    checkpoint: str
    role: Role | None
    """What the image was to the checkpoint."""


@dataclass(frozen=True, slots=True)
class ImageSightings:
    """Everything that saw one image."""

    image_id: str
    corpora: tuple[CorpusSighting, ...] = ()
    parts: tuple[PartSighting, ...] = ()
    checkpoints: tuple[CheckpointSighting, ...] = ()
    scores: tuple[ScoresSighting, ...] = ()
    may_show: tuple[tuple[str, str], ...] = ()
    """Kind and path of reports and benchmarks that were made of such a corpus, and of calibrations fitted on it."""

    def to_json(self) -> dict[str, Json]:
        """As plain data."""
        return cast("dict[str, Json]", asdict(self))


def role_of(checkpoint: Output, samples: Collection[SampleCount]) -> Role:
    """What an image of a checkpoint's corpus was to it, by the recipe of its training.

    A run that ended before its first pass through the mixture may not have come to an image that it is said to have
    been trained on.

    Args:
        checkpoint: its recipe says what was trained on.
        samples: of the image, in the corpus.
    """
    training = cast("Mapping[str, Any]", checkpoint.recipe["training"])
    parts = cast("Sequence[Mapping[str, Any]]", training["mixture"])
    in_training = [sample for sample in samples if sample.split in training["splits"]]
    if any(_draws(part, sample) for part in parts for sample in in_training):
        return Role.TRAINED
    if len(in_training) < len(samples):
        return Role.HELD_OUT
    # Without a sample the corpus has no picture to distil on.
    if samples and any(part["images_only"] for part in parts):
        return Role.DISTILLED
    return Role.UNUSED


def _draws(part: Mapping[str, Any], sample: SampleCount) -> bool:
    """Whether a part of a mixture has samples of a kind; see `pipelines.training.mixture.build_mixture`."""
    of_family = not part["families"] or sample.family in part["families"]
    return not part["images_only"] and of_family and (not part["tasks"] or sample.task in part["tasks"])


def find_in_corpora(found: WorkspaceOutputs, image_ids: Collection[str]) -> dict[str, dict[str, HeldImage]]:
    """Images that corpora have something of, by the key of each corpus that has any and isn't retired.

    Args:
        found: the workspace.
        image_ids: what to look for.

    Raises:
        CorruptObject: a table can't be read.
        InfrastructureError: the store can't be reached.
    """
    corpora = [corpus for corpus in found.of_kind(Kind.CORPUS) if corpus.presence is Presence.PRESENT]

    def find(corpus: Output) -> dict[str, HeldImage]:
        objects = found.objects(corpus)
        manifest = read_manifest(objects)
        return {} if manifest is None else find_in_corpus(objects, manifest.files, image_ids)

    with ThreadPoolExecutor(_NUM_READERS) as pool:
        held = dict(zip((corpus.key for corpus in corpora), pool.map(find, corpora), strict=True))
    return {key: images for key, images in held.items() if images}


def find_sightings(
    found: WorkspaceOutputs, image_ids: Collection[str], held: Mapping[str, Mapping[str, HeldImage]] | None = None
) -> dict[str, ImageSightings]:
    """What saw some images, by their ids.

    Beside what `read_outputs` has read: of each corpus what `find_in_corpus` takes, or one request if it was retired;
    of each store what `find_in_parts` takes; of scores whose corpus has one of the images two to three requests per
    file of predictions.

    Args:
        found: the workspace.
        image_ids: which images.
        held: what `find_in_corpora` found of these, or of more; None: it is looked up.

    Raises:
        CorruptObject: a table or a part can't be read.
        InfrastructureError: the store can't be reached.
    """
    ids = sorted(image_ids)
    present = find_in_corpora(found, ids) if held is None else held
    samples_in = {
        **{key: {image_id: image.samples for image_id, image in images.items()} for key, images in present.items()},
        **_removed(found),
    }
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        stores = found.of_kind(Kind.STORE)
        holdings = list(pool.map(lambda store: find_in_parts(found.objects(store), ids), stores))
        with_image = {key for key, images in samples_in.items() if not images.keys().isdisjoint(ids)}
        examined = [output for output in found.of_kind(Kind.SCORES) if output.inputs.get("corpus") in with_image]
        counted = list(pool.map(partial(_num_predictions, found, ids), examined))
    predictions = {output.key: numbers for output, numbers in zip(examined, counted, strict=True)}
    sightings: dict[str, ImageSightings] = {}
    for image_id in ids:
        samples = {key: images[image_id] for key, images in samples_in.items() if image_id in images}
        checkpoints = _checkpoints(found, samples)
        sightings[image_id] = ImageSightings(
            image_id,
            tuple(_corpus_sighting(found.by_key[key], samples[key]) for key in sorted(samples)),
            tuple(_part_sightings(image_id, zip(stores, holdings, strict=True))),
            tuple(checkpoints.values()),
            tuple(_scores(found, image_id, checkpoints, predictions)),
            tuple(_showing(found, samples)),
        )
    return sightings


def _removed(found: WorkspaceOutputs) -> dict[str, Mapping[str, tuple[SampleCount, ...]]]:
    """Samples of the images that retired corpora had, by the key of each corpus."""
    removed: dict[str, Mapping[str, tuple[SampleCount, ...]]] = {}
    for corpus in found.of_kind(Kind.CORPUS):
        note = read_retirement(found.objects(corpus)) if corpus.presence is Presence.RETIRED else None
        if note is not None:
            removed[corpus.key] = {image_id: tuple(samples) for image_id, samples in note.removed.items()}
    return removed


def _corpus_sighting(corpus: Output, samples: tuple[SampleCount, ...]) -> CorpusSighting:
    return CorpusSighting(corpus.key, corpus.path, corpus.presence, corpus.successor, samples)


def _part_sightings(image_id: str, holdings: Iterable[tuple[Output, Sequence[PartHolding]]]) -> Iterable[PartSighting]:
    for store, parts in holdings:
        for part in parts:
            if image_id in part.rows:
                path = f"{store.path}/parts/{part.part}"
                yield PartSighting(store.key, part.part, path, part.state.value, part.rows[image_id])


def _checkpoints(
    found: WorkspaceOutputs, samples: Mapping[str, tuple[SampleCount, ...]]
) -> dict[str, CheckpointSighting]:
    """Checkpoints by key, those that an image got into by their base among them."""
    own: dict[str, Role] = {}
    for checkpoint in found.of_kind(Kind.CHECKPOINT):
        corpus = checkpoint.inputs.get("corpus", "")
        if corpus in samples:
            own[checkpoint.key] = role_of(checkpoint, samples[corpus])
    trained = {key for key, role in own.items() if role.is_seen}
    sightings: dict[str, CheckpointSighting] = {}
    for checkpoint in found.of_kind(Kind.CHECKPOINT):
        role, base = own.get(checkpoint.key), None
        if checkpoint.key not in trained:
            base = next((item.key for item in bases_of(found.by_key, checkpoint) if item.key in trained), None)
            role = role if base is None else Role.BASE
        if role is not None:
            registered = tuple(found.registered.get(checkpoint.key, ()))
            sightings[checkpoint.key] = CheckpointSighting(checkpoint.key, checkpoint.path, role, base, registered)
    return sightings


def _num_predictions(found: WorkspaceOutputs, image_ids: Sequence[str], scores: Output) -> Mapping[str, int]:
    objects = found.objects(scores)
    manifest = read_manifest(objects)
    numbers = dict.fromkeys(image_ids, 0)
    for entry in () if manifest is None else manifest.files:
        if entry.path.startswith("predictions/"):
            for image_id in _column(objects, entry.path):
                if image_id in numbers:
                    numbers[image_id] += 1
    return numbers


def _column(objects: Objects, path: str) -> list[str]:
    return cast("list[str]", read_table(objects, path, ["image_id"])["image_id"].to_pylist())


def _scores(
    found: WorkspaceOutputs,
    image_id: str,
    checkpoints: Mapping[str, CheckpointSighting],
    predictions: Mapping[str, Mapping[str, int]],
) -> Iterable[ScoresSighting]:
    for output in found.of_kind(Kind.SCORES):
        checkpoint = output.inputs.get("checkpoint", "")
        sighting = checkpoints.get(checkpoint)
        number = predictions.get(output.key, {}).get(image_id, 0)
        if number or (sighting is not None and sighting.role.is_seen):
            role = None if sighting is None else sighting.role
            yield ScoresSighting(output.key, output.path, number, checkpoint, role)


def _showing(found: WorkspaceOutputs, corpora: Collection[str]) -> Iterable[tuple[str, str]]:
    for kind in _SHOWING:
        for output in found.of_kind(kind):
            noted = () if output.note is None or kind is not Kind.CALIBRATION else output.note.inputs.values()
            if not set(corpora).isdisjoint([*output.inputs.values(), *noted]):
                yield kind.value, output.path
