"""What the command line says about lineage: of an output what it was made of, of an image what saw it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from pipelines.curation.corpus_images import ids_with_prefix
from pipelines.lineage.graph import Branch, Link, find_output, made_of, tree_of, went_into
from pipelines.lineage.outputs import STAGE_FOLDERS, Kind, Output, Presence, WorkspaceOutputs, read_outputs
from pipelines.lineage.sightings import ImageSightings, find_sightings
from storage.errors import ObjectNotFound, UsageError
from storage.forgotten import forgotten_images, is_image_id, read_forgotten
from storage.keys import Json, bytes_key
from storage.manifest import read_manifest
from storage.objects import Objects

__all__ = ["ImageLineage", "OutputLineage", "image_id_of", "lineage_json", "lineage_of"]

_ADDRESS = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class OutputLineage:
    """An output, what it was made of, and what was made of it."""

    found: WorkspaceOutputs
    made_of: Branch
    went_into: Branch

    @property
    def output(self) -> Output:
        """The output itself."""
        output = self.made_of.link.output
        assert output is not None, "a lineage begins at an output"
        return output


@dataclass(frozen=True, slots=True)
class ImageLineage:
    """What saw an image, and the record if it was forgotten."""

    found: WorkspaceOutputs
    sightings: ImageSightings
    record: Mapping[str, Any] | None


def lineage_of(asked: str, workspace: str | None, default_workspace: str = "runs") -> OutputLineage | ImageLineage:
    """Looks up an output or an image.

    Takes the requests that `pipelines.lineage.outputs.read_outputs` tells of, and for an image those of
    `pipelines.lineage.sightings.find_sightings` beside them.

    Args:
        asked: an output's URL or the first digits of its address; an image's id or its first digits, or its file.
        workspace: URL of the workspace; None: the one that the output's URL lies in, or else the next.
        default_workspace: used where nothing else says it.

    Raises:
        UsageError: it can't be told what is asked for.
        ObjectNotFound: the workspace has nothing of that name.
    """
    if Path(asked).is_file():
        return _of_image(_read(workspace or default_workspace), image_id_of(asked))
    if "/" in asked:
        inside, key = _split_url(asked)
        found = _read(workspace or inside)
        if key not in found.by_key:
            raise ObjectNotFound(f"{asked}: no output there; expected one of a stage, with its manifest.json")
        return _of_output(found, found.by_key[key])
    digits = asked.lower()
    if not _ADDRESS.fullmatch(digits):
        raise UsageError(f"lineage of {asked!r}: expected a URL, digits of an address or of an image's id, or a file")
    found = _read(workspace or default_workspace)
    output = find_output(found.by_key, digits)
    return _of_image(found, _full_id(found, digits)) if output is None else _of_output(found, output)


def image_id_of(asked: str) -> str:
    """The id of an image, from itself or from a local file.

    Raises:
        UsageError: neither.
    """
    if is_image_id(asked.lower()):
        return asked.lower()
    path = Path(asked)
    if not path.is_file():
        raise UsageError(f"image {asked!r}: expected an id, the 64 hex digits of its file's SHA-256, or a file")
    return bytes_key(path.read_bytes())


def lineage_json(lineage: OutputLineage | ImageLineage) -> str:
    """A lineage as one JSON object."""
    if isinstance(lineage, ImageLineage):
        value: dict[str, Json] = {**lineage.sightings.to_json(), "forgotten": cast("Json", lineage.record)}
        return json.dumps(value, indent=1)
    behind, ahead = _edges(lineage.made_of), _edges(lineage.went_into)
    known = {key: lineage.found.by_key[key] for _, link in (*behind, *ahead) for key in (link.key,) if link.output}
    outputs = {lineage.output.key: lineage.output, **known}
    value = {
        "key": lineage.output.key,
        "made_of": [{"of": key, "name": link.name, "key": link.key} for key, link in behind],
        "went_into": [{"of": key, "name": link.name, "key": link.key} for key, link in ahead],
        "outputs": {key: _output_json(lineage.found, output) for key, output in sorted(outputs.items())},
    }
    return json.dumps(value, indent=1)


def _read(url: str) -> WorkspaceOutputs:
    found = read_outputs(Objects.open(url))
    if not found.by_key:
        raise ObjectNotFound(f"workspace {url}: no output of any stage there; give --workspace, as recipes have it")
    return found


def _split_url(url: str) -> tuple[str, str]:
    """The workspace that the URL of an output lies in, and the output's key."""
    segments = url.rstrip("/").split("/")
    for place in range(len(segments) - 2, -1, -1):
        if segments[place] in STAGE_FOLDERS and place > 0:
            below = segments[place + 1 :]
            is_nested = len(below) == 3 and segments[place] == "features" and below[1] in ("parts", "corpora")
            if len(below) == 1 or is_nested:
                return "/".join(segments[:place]) or "/", below[-1]
    raise UsageError(
        f"{url}: expected the address of an output, <workspace>/<stage>/<key>, or of a feature store's parts/<key> or "
        f"corpora/<key>; stages are {', '.join(STAGE_FOLDERS)}"
    )


def _full_id(found: WorkspaceOutputs, digits: str) -> str:
    if is_image_id(digits):
        return digits
    ids = {image_id for image_id in forgotten_images(found.workspace) if image_id.startswith(digits)}
    for corpus in found.of_kind(Kind.CORPUS):
        objects = found.objects(corpus)
        manifest = read_manifest(objects) if corpus.presence is Presence.PRESENT else None
        ids |= set() if manifest is None else ids_with_prefix(objects, manifest.files, digits)
    if len(ids) != 1:
        many = f"{len(ids)} images, such as {min(ids)[:16]}; give more digits" if ids else "none"
        raise ObjectNotFound(
            f"{found.workspace.url}: expected an output or an image whose address begins with {digits}, found {many}"
        )
    return ids.pop()


def _of_output(found: WorkspaceOutputs, output: Output) -> OutputLineage:
    forward = went_into(found.by_key)
    return OutputLineage(
        found,
        tree_of(output, lambda item: made_of(found.by_key, item)),
        tree_of(output, lambda item: forward.get(item.key, [])),
    )


def _of_image(found: WorkspaceOutputs, image_id: str) -> ImageLineage:
    sightings = find_sightings(found, [image_id])[image_id]
    return ImageLineage(found, sightings, read_forgotten(found.workspace, image_id))


def _edges(branch: Branch) -> list[tuple[str, Link]]:
    """Key of an output and a link of it, for all of a tree."""
    own = [(branch.link.key, following.link) for following in branch.branches]
    return [*own, *(edge for following in branch.branches for edge in _edges(following))]


def _output_json(found: WorkspaceOutputs, output: Output) -> dict[str, Json]:
    code: Sequence[Json] = [] if output.note is None else [cast("Json", asdict(item)) for item in output.note.code]
    return {
        "kind": output.kind.value,
        "path": output.path,
        "presence": output.presence.value,
        "successor": output.successor,
        "recipe": output.recipe,
        "facts": output.facts,
        "code": code,
        "runs": list(found.runs.get(output.key, ())),
        "registered": list(found.registered.get(output.key, ())),
    }
