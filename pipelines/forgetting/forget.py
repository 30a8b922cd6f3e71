"""Takes images out of all corpora and feature stores of a workspace, with a record.

    record      forgotten/<image id>.json, before anything is changed: what the image was in, and why it had to go
    corpora     each that has one of the images gets a successor without it, and is retired once that one is published
    curations   that weren't finished and hold one of them are deleted
    features    rows leave the live parts; every other part that holds one is deleted

Each step looks at what is there, and at all images that the workspace was ever asked to forget. So a run that was
killed is continued by the next one, whatever image that is asked for.

Weights can't forget: checkpoints that were trained on an image are named, in the record too, and stay.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from pipelines.curation.corpus_images import HeldImage, find_in_corpus
from pipelines.curation.successors import check_can_be_succeeded, successor_key, write_successor
from pipelines.lineage.outputs import Kind, Presence, WorkspaceOutputs, read_outputs
from pipelines.lineage.sightings import ImageSightings, find_in_corpora, find_sightings
from pipelines.progress import Progress
from storage.corpus import Corpus
from storage.errors import ObjectNotFound
from storage.feature_forgetting import ForgottenFeatures, forget_features
from storage.forgotten import FORGOTTEN, forgotten_images, note_forgotten
from storage.keys import Json
from storage.locks import exclusive, lock_times
from storage.manifest import FileEntry
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.retirement import RETIRED_NAME, Retirement, delete_all, read_retirement, retire

__all__ = ["Forgetting", "Survey", "forget", "survey"]

_VERSION = 1
_REASON = "images were removed from it on request"
_LOCK_EXPIRES_S = 60.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is of images in a workspace, and what would be done."""

    found: WorkspaceOutputs
    sightings: Mapping[str, ImageSightings]
    """Of each image that is asked for."""
    held: Mapping[str, Mapping[str, HeldImage]]
    """Images that corpora have, by the key of the corpus: those asked for, and all that was to be forgotten before."""

    @property
    def successors(self) -> dict[str, str]:
        """Key of the successor of each corpus that will be retired."""
        return {key: successor_key(key, images) for key, images in self.held.items()}


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What was done."""

    sightings: Mapping[str, ImageSightings]
    """Of each image that was asked for, as it was before."""
    is_new: Mapping[str, bool]
    """Whether its record was written now; otherwise it was there."""
    successors: Mapping[str, str]
    """Key of the successor of each corpus that was retired."""
    deleted: Sequence[str]
    """Paths of unfinished curations, and of statements on features, that were deleted since they told of an image."""
    stores: Mapping[str, ForgottenFeatures]
    """What was done to each store that held one, by its path."""


def survey(workspace: Objects, image_ids: Collection[str]) -> Survey:
    """Looks what there is of images, and what would be done; changes nothing.

    Takes the requests of `read_outputs` and of `find_sightings`, and two per corpus that has an image.

    Args:
        workspace: its prefix.
        image_ids: of the images.

    Raises:
        UsageError: a corpus that has one was written by another version of curation.
        CorruptObject: an output is damaged.
        InfrastructureError: the store can't be reached.
    """
    found = read_outputs(workspace)
    wanted = forgotten_images(workspace).union(image_ids)
    present = find_in_corpora(found, wanted)
    held = {key: images for key, images in present.items() if not _is_retiring(found, key)}
    for key in held:
        check_can_be_succeeded(_corpus(found, key))
    return Survey(found, find_sightings(found, image_ids, present), held)


def forget(
    workspace: Objects, image_ids: Collection[str], reason: str, when: datetime, progress: Progress
) -> Forgetting:
    """Takes images out of a workspace; continues what was killed, and repeating it is fine.

    Args:
        workspace: its prefix.
        image_ids: of the images.
        reason: for the record.
        when: for the record.
        progress: told of corpora and stores.

    Raises:
        UsageError: a corpus that has one was written by another version of curation, or another command replaced a
            part meanwhile.
        Locked: somebody else is at it.
        CorruptObject: an output is damaged.
        InfrastructureError: the store can't be reached.
    """
    with exclusive(workspace.child(FORGOTTEN), "forget", lock_times(_LOCK_EXPIRES_S)):
        looked = survey(workspace, image_ids)
        is_new = {
            image_id: note_forgotten(workspace, image_id, _record(sightings, reason, when))
            for image_id, sightings in looked.sightings.items()
        }
        wanted = forgotten_images(workspace)
        deleted = _finish_retirements(looked.found)
        _retire_corpora(looked, progress)
        deleted += _delete_unfinished(looked.found, wanted)
        stores = _forget_features(looked.found, wanted, progress)
        deleted += _delete_statements(looked.found, wanted)
    return Forgetting(looked.sightings, is_new, looked.successors, deleted, stores)


def _record(sightings: ImageSightings, reason: str, when: datetime) -> dict[str, Json]:
    return {"version": _VERSION, "reason": reason, "when": when.isoformat(timespec="seconds"), **sightings.to_json()}


def _is_retiring(found: WorkspaceOutputs, key: str) -> bool:
    """Whether a run that was killed has already named the successor of a corpus that is still there."""
    return read_retirement(found.objects(found.by_key[key])) is not None


def _corpus(found: WorkspaceOutputs, key: str) -> Corpus:
    return Corpus.open(found.objects(found.by_key[key]))


def _finish_retirements(found: WorkspaceOutputs) -> list[str]:
    """Deletes what a run that was killed has left of corpora that it had retired already."""
    finished: list[str] = []
    for output in found.of_kind(Kind.CORPUS):
        objects = found.objects(output)
        if read_retirement(objects) is not None and delete_all(objects, keep=(RETIRED_NAME,)):
            finished.append(output.path)
    return finished


def _retire_corpora(looked: Survey, progress: Progress) -> None:
    """Puts its successor in the place of each corpus that has one of the images."""
    for done, (key, successor) in enumerate(sorted(looked.successors.items())):
        progress.update(done, len(looked.held), unit="corpora")
        corpus, held = _corpus(looked.found, key), looked.held[key]
        write_successor(corpus, looked.found.workspace.child(f"curate/{successor}"), held)
        _LOG.info("corpus %s is retired, its successor is %s", key, successor)
        retire(corpus.objects, _retirement(corpus, successor, held))
    progress.update(len(looked.held), len(looked.held), unit="corpora")


def _retirement(corpus: Corpus, successor: str, held: Mapping[str, HeldImage]) -> Retirement:
    manifest = corpus.manifest
    return Retirement(
        key=manifest.key,
        successor=successor,
        reason=_REASON,
        removed={image_id: image.samples for image_id, image in sorted(held.items())},
        recipe=manifest.recipe,
        inputs=manifest.inputs,
        parents=list(cast("Sequence[str]", manifest.facts.get("parents", ()))),
    )


def _delete_unfinished(found: WorkspaceOutputs, wanted: Collection[str]) -> list[str]:
    """Deletes curations that weren't finished and have made shards with one of the images.

    Nobody goes on with them: without the image the same recipe gives another address.
    """
    deleted: list[str] = []
    for output in found.of_kind(Kind.CORPUS):
        if output.presence is Presence.UNFINISHED:
            objects = found.objects(output)
            telling = [table for table in _tables_of(objects) if find_in_corpus(*table, wanted)]
            if telling:
                # Those that tell go last, so that what a killed run leaves is found again.
                last = [f"{within.url}/{entry.path}".removeprefix(f"{objects.url}/") for within, (entry,) in telling]
                delete_all(objects, last=last)
                deleted.append(output.path)
    return deleted


def _tables_of(objects: Objects) -> list[tuple[Objects, tuple[FileEntry]]]:
    """Tables of images, samples and looks below a prefix, each with the folder that it is a shard's table of."""
    found: list[tuple[Objects, tuple[FileEntry]]] = []
    for info in objects.list():
        folder, _, name = info.key.rpartition("/")
        within, _, kind = folder.rpartition("/")
        if kind in ("images", "samples", "looks") and name.endswith(".parquet"):
            place = objects.child(within) if within else objects
            found.append((place, (FileEntry(f"{kind}/{name}", info.size_bytes, ""),)))
    return found


def _forget_features(
    found: WorkspaceOutputs, wanted: Collection[str], progress: Progress
) -> dict[str, ForgottenFeatures]:
    done: dict[str, ForgottenFeatures] = {}
    for store in found.of_kind(Kind.STORE):

        def waiting(holders: str) -> None:
            progress.update(0, 0, unit="shards", waiting_for=holders)

        def copied(number: int, total: int) -> None:
            progress.update(number, total, unit="shards")

        forgotten = forget_features(found.objects(store), wanted, waiting, copied)
        if forgotten.retired or forgotten.removed:
            done[store.path] = forgotten
    return done


def _delete_statements(found: WorkspaceOutputs, wanted: Collection[str]) -> list[str]:
    """Deletes statements on features that name an image as one on which the teacher failed.

    They are about corpora that are retired by now.
    """
    deleted: list[str] = []
    for output in found.of_kind(Kind.FEATURES):
        if not output.facts.get("num_rejected") and output.presence is Presence.PRESENT:
            continue
        try:
            rejects = read_table(found.objects(output), "rejects/rejects.parquet", ["locator"])
        except ObjectNotFound:
            continue  # it isn't finished
        if not set(wanted).isdisjoint(cast("list[str]", rejects["locator"].to_pylist())):
            delete_all(found.objects(output))
            deleted.append(output.path)
    return deleted
