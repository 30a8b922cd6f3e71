"""Writes a whole set of scenes: blocks of pictures, then the source files, then the manifest."""

from __future__ import annotations

import logging
from collections import Counter
from typing import cast

from pipelines.progress import Progress
from pipelines.scenes.blocks import Block, PictureFacts, plan_blocks, read_facts, write_block
from pipelines.scenes.captions import caption_shards
from pipelines.scenes.config import ScenesConfig
from pipelines.scenes.sources import source_files
from storage.errors import ManifestConflict
from storage.keys import Json, bytes_key, content_key
from storage.manifest import FileEntry, Manifest, publish, read_manifest
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION

__all__ = ["VERSION", "finish", "finished", "generate", "missing_blocks", "scenes_key"]

VERSION = 2
"""Raised whenever the same configuration gives other bytes."""

_STAGE = "scenes"
_LOG = logging.getLogger(__name__)


def scenes_key(config: ScenesConfig) -> str:
    """The content key of the scenes of a configuration."""
    return content_key(
        {
            "schema_version": SCHEMA_VERSION,
            "stage": _STAGE,
            "version": VERSION,
            "config": cast(Json, config.hashed_fields()),
            "inputs": {},
        }
    )


def generate(config: ScenesConfig, output: Objects, progress: Progress) -> Manifest:
    """Writes the scenes of a configuration in this process.

    Finished blocks of an earlier, interrupted run are kept; an output that is complete is left alone.

    Args:
        config: what to draw.
        output: the folder of this configuration's scenes.
        progress: told about finished pictures.

    Returns:
        The manifest, written last.

    Raises:
        UsageError: the configuration leaves no room for its objects.
        ManifestConflict: other scenes stand at `output`.
    """
    present = finished(config, output)
    if present is not None:
        return present
    blocks = plan_blocks(config)
    total = sum(block.stop - block.start for block in blocks)
    missing = missing_blocks(output, blocks)
    done = total - sum(block.stop - block.start for block in missing)
    for block in missing:
        progress.update(done, total, unit="images")
        write_block(config, output, block)
        done += block.stop - block.start
    progress.update(done, total, unit="images")
    return finish(config, output)


def finished(config: ScenesConfig, output: Objects) -> Manifest | None:
    """The manifest at `output`, or None if the scenes aren't complete.

    Raises:
        ManifestConflict: it is the manifest of something else.
    """
    manifest = read_manifest(output)
    if manifest is not None and manifest.key != scenes_key(config):
        raise ManifestConflict(
            f"{output.url}: expected scenes with key {scenes_key(config)}, found {manifest.kind} with key "
            f"{manifest.key}; write to another folder, or delete this one"
        )
    return manifest


def missing_blocks(output: Objects, blocks: list[Block]) -> list[Block]:
    """The blocks whose facts aren't there yet."""
    present = {info.key for info in output.list("facts")}
    return [block for block in blocks if block.key not in present]


def finish(config: ScenesConfig, output: Objects) -> Manifest:
    """Writes the source files and the manifest, once every block is there."""
    pictures: list[PictureFacts] = []
    entries: list[FileEntry] = []
    for block in plan_blocks(config):
        facts, data = read_facts(output, block)
        pictures.extend(facts["pictures"])
        entries.extend(FileEntry(key, size_bytes, sha256) for key, (size_bytes, sha256) in facts["files"].items())
        entries.append(FileEntry.of(block.key, data, len(facts["pictures"])))
    for key, (data, num_records) in source_files(pictures, config.size_px).items():
        entries.append(_written(output, key, data, num_records))
    if config.captions != "none":
        for shard in caption_shards(pictures, config.captions, config.size_px, config.seed, output):
            entries.append(_written(output, *shard))
    counts = _counts(pictures)
    _LOG.info("scenes: %s", counts)
    manifest = Manifest(
        kind=_STAGE,
        key=scenes_key(config),
        schema_version=SCHEMA_VERSION,
        recipe=cast("dict[str, Json]", config.hashed_fields()),
        inputs={},
        files=tuple(entries),
        facts=counts,
    )
    return publish(output, manifest)


def _written(output: Objects, key: str, data: bytes, num_records: int) -> FileEntry:
    """Writes a file, or finds the same bytes there."""
    if not output.create(key, data) and bytes_key(output.read(key)) != bytes_key(data):
        raise ManifestConflict(f"{output.url}/{key}: other bytes than this configuration gives; delete {output.url}")
    return FileEntry.of(key, data, num_records)


def _counts(pictures: list[PictureFacts]) -> dict[str, Json]:
    kinds = Counter(item["kind"] for picture in pictures for item in picture["expressions"])
    splits = Counter(picture["split"] for picture in pictures)
    return {
        "num_images": dict(sorted(splits.items())),
        "num_objects": sum(len(picture["objects"]) for picture in pictures),
        "num_expressions": dict(sorted(kinds.items())),
        "num_plus_expressions": sum(len(picture["plus_expressions"]) for picture in pictures),
        "num_long_expressions": sum(len(picture["long_expressions"]) for picture in pictures),
        "num_descriptions": sum(len(picture["descriptions"]) for picture in pictures),
        "num_choice_questions": sum(len(picture["questions"]) for picture in pictures),
        "num_visual_text": sum(len(picture["visual_text"]) for picture in pictures),
    }
