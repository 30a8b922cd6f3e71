"""What the command line says and does about the removal of images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from jobs.lineage import image_id_of
from jobs.told import Told
from pipelines.forgetting.forget import Forgetting, Survey, forget, survey
from pipelines.lineage.outputs import STAGE_FOLDERS
from pipelines.lineage.sightings import ImageSightings, Role
from pipelines.progress import Progress
from storage.errors import ObjectNotFound
from storage.feature_forgetting import ForgottenFeatures
from storage.forgotten import FORGOTTEN
from storage.keys import Json
from storage.objects import Objects

__all__ = ["describe_forgetting", "forget_images"]

_DIGITS = 16


def describe_forgetting(asked: Sequence[str], workspace: str) -> Told:
    """What the removal of images would change, and what it can't change.

    Args:
        asked: ids of the images, or their files.
        workspace: URL of the workspace.

    Raises:
        UsageError: no image, or a corpus of another version.
        ObjectNotFound: there is no workspace.
    """
    looked = survey(_workspace(workspace), [image_id_of(item) for item in asked])
    lines = [f"{workspace}: nothing is changed on a dry run"]
    lines += [f"corpus {key[:_DIGITS]} would be retired, its successor {new[:_DIGITS]}" for key, new in _sorted(looked)]
    parts = {part.path: part.state for seen in looked.sightings.values() for part in seen.parts}
    lines += [
        f"{path}: {'rows would leave it' if state == 'live' else f'{state}, would be deleted'}"
        for path, state in sorted(parts.items())
    ]
    data: dict[str, Json] = {
        "workspace": workspace,
        "dry_run": True,
        "successors": dict(looked.successors),
        "parts": dict(parts),
        "staying": _staying_json(looked.sightings),
    }
    text = "\n".join([*lines, *(line for seen in looked.sightings.values() for line in _staying(seen))])
    return Told(text, data)


def forget_images(asked: Sequence[str], workspace: str, reason: str, progress: Progress) -> Told:
    """Removes images from a workspace.

    Args:
        asked: ids of the images, or their files.
        workspace: URL of the workspace.
        reason: for the record.
        progress: told of corpora and shards.

    Returns:
        What was done, and what still holds something of them.

    Raises:
        UsageError: no image, or a corpus of another version.
        ObjectNotFound: there is no workspace.
        Locked: somebody else is at it.
    """
    ids = [image_id_of(item) for item in asked]
    done = forget(_workspace(workspace), ids, reason, datetime.now(UTC), progress)
    data: dict[str, Json] = {
        "workspace": workspace,
        "dry_run": False,
        "is_new": dict(done.is_new),
        "successors": dict(done.successors),
        "deleted": list(done.deleted),
        "stores": {
            path: {"num_rows": made.num_rows, "retired": list(made.retired), "removed": list(made.removed)}
            for path, made in done.stores.items()
        },
        "staying": _staying_json(done.sightings),
    }
    return Told("\n".join(_done_lines(done, workspace)), data)


def _workspace(url: str) -> Objects:
    workspace = Objects.open(url)
    if not any(folder in STAGE_FOLDERS for folder in workspace.folders()):
        raise ObjectNotFound(f"workspace {url}: no output of any stage there; give --workspace, as recipes have it")
    return workspace


def _sorted(looked: Survey) -> list[tuple[str, str]]:
    return sorted(looked.successors.items())


def _done_lines(done: Forgetting, workspace: str) -> Iterable[str]:
    for image_id, is_new in done.is_new.items():
        verb = "noted" if is_new else "was noted before"
        yield f"{image_id} {verb}: {workspace}/{FORGOTTEN}/{image_id}.json"
    for key, successor in sorted(done.successors.items()):
        yield f"corpus {key[:_DIGITS]} is retired, its successor is {workspace}/curate/{successor}"
    yield from (f"{path}: what an interrupted run had left of it is deleted" for path in done.deleted)
    yield from _store_lines(done.stores)
    if not (done.successors or done.stores or done.deleted):
        yield "no corpus and no feature part has it"
    for seen in done.sightings.values():
        yield from _staying(seen)
    yield "source files are as they were: delete the picture there; curation leaves it out as long as they have it"


def _store_lines(stores: Mapping[str, ForgottenFeatures]) -> Iterable[str]:
    for path, done in sorted(stores.items()):
        yield (
            f"{path}: {_count(done.num_rows, 'row')} left out of what is live, {_count(len(done.retired), 'part')} "
            f"retired, {_count(len(done.removed), 'part')} deleted"
        )


def _staying(seen: ImageSightings) -> Iterable[str]:
    """What can't be changed, or isn't."""
    trained = [item for item in seen.checkpoints if item.role.is_seen]
    if trained:
        yield (
            f"weights can't forget: {_count(len(trained), 'checkpoint')} saw {seen.image_id[:_DIGITS]}, and nothing "
            "takes that out of them; train others and delete these if they have to go"
        )
        for item in trained:
            base = f" {item.base[:_DIGITS]}" if item.role is Role.BASE and item.base else ""
            yield f"  {item.path}  {'; '.join([f'{item.role}{base}', *item.registered])}"
    examined = [item for item in seen.scores if item.num_predictions]
    if examined:
        yield "predictions on it stay in these scores; delete them if they have to go"
        yield from (f"  {item.path}  {_count(item.num_predictions, 'prediction')}" for item in examined)
    if seen.may_show:
        yield "made of a corpus that had it: reports and benchmarks may show it; delete them if they have to go"
        yield from (f"  {path}  {kind}" for kind, path in seen.may_show)


def _staying_json(sightings: Mapping[str, ImageSightings]) -> Json:
    """The same as plain data, by image: paths of checkpoints, scores, and of what was made of a corpus that had it."""
    return {
        image_id: {
            "checkpoints": [item.path for item in seen.checkpoints if item.role.is_seen],
            "scores": [item.path for item in seen.scores if item.num_predictions],
            "may_show": [path for _, path in seen.may_show],
        }
        for image_id, seen in sightings.items()
    }


def _count(number: int, word: str) -> str:
    """A number of things.

    >>> _count(1, "row"), _count(2, "row")
    ('1 row', '2 rows')
    """
    return f"{number:,} {word}{'' if number == 1 else 's'}"
