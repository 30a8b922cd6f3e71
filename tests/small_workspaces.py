"""Workspaces with outputs of every stage, made in a moment: real corpora and stores, checkpoints without weights."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local, find_target
from pipelines.evaluation.records import predictions_to_table
from pipelines.progress import NullProgress
from pipelines.training.config import TrainingConfig
from storage.codecs import codec_of
from storage.corpus import Corpus, write_rejects
from storage.feature_index import PartDescription, part_objects
from storage.feature_plan import PartPlan, plan_rows
from storage.feature_writer import FeatureRow, publish_part, write_part_metadata, write_shard
from storage.features import FeatureStore
from storage.keys import Json, bytes_key, content_key
from storage.manifest import FileEntry, Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION
from storage.stage_notes import STAGE_NOTES, CodeVersion, StageNote, write_note
from tests.toy_predictions import toy_prediction

__all__ = ["CODE", "STORE", "SmallWorkspace", "encoded_picture"]

CODE = CodeVersion("1.2", "c" * 40, False, "5" * 64)
"""What the notes say."""

STORE = content_key("the store of a small workspace")
"""Key of its feature store."""

_SIDE_PX = 48
_CHANNELS = 6


def encoded_picture(number: int) -> bytes:
    """A PNG of smooth shapes, as photographs have and noise hasn't, that depends on the number alone."""
    cells = Image.fromarray(np.random.default_rng(number).integers(0, 256, (7, 7, 3), np.uint8))
    sink = io.BytesIO()
    cells.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC).save(sink, "PNG")
    return sink.getvalue()


class SmallWorkspace:
    """A workspace and the folder of sources that its corpora are made of.

    Args:
        workspace: its prefix.
        sources: an empty folder.
    """

    def __init__(self, workspace: Objects, sources: Path) -> None:
        self.workspace, self.sources = workspace, sources
        sources.mkdir(parents=True, exist_ok=True)

    def picture(self, number: int) -> str:
        """Brings a picture, and returns its id."""
        (self.sources / f"{number}.png").write_bytes(encoded_picture(number))
        return bytes_key(encoded_picture(number))

    def rows(self, name: str, *rows: tuple[int, str, str]) -> str:
        """Writes a file of rows (picture, expression, split); an empty expression makes a caption."""
        lines: list[dict[str, object]] = []
        for number, text, split in rows:
            self.picture(number)
            box = (
                {"expression": text, "segmentation": {"box_xyxy_px": [2, 3, 20, 20]}} if text else {"caption": "noise"}
            )
            lines.append({"image": f"{number}.png", "split": split, **box})
        (self.sources / name).write_text("\n".join(map(json.dumps, lines)))
        return name

    def config(self, *files: str, parent: str | None = None, **fields: object) -> CurationConfig:
        """What is curated: files of rows, each a source of its own."""
        sources = [{"kind": "generic", "rows": [name], "family": name.removesuffix(".jsonl")} for name in files]
        rows = {"root": str(self.sources), "sources": sources, "images_per_shard": 2, "max_reject_share": 1}
        return CurationConfig.model_validate({**rows, "parent": parent and self.corpus(parent).objects.url, **fields})

    def curate(self, *files: str, parent: str | None = None, **fields: object) -> str:
        """Publishes a corpus of files of rows; returns its key."""
        config = self.config(*files, parent=parent, **fields)
        key = find_target(config).key
        curate_local(config, self.workspace.child(f"curate/{key}"), NullProgress())
        self._note(key)
        return key

    def corpus(self, key: str) -> Corpus:
        """A corpus by its key."""
        return Corpus.open(self.workspace.child(f"curate/{key}"))

    @property
    def store(self) -> Objects:
        """Prefix of the feature store."""
        return self.workspace.child(f"features/{STORE}")

    def teach(self, corpus: str, failing: Sequence[str] = ()) -> str:
        """Adds features of what the store lacks of a corpus, as a part, and the statement; returns the latter's key."""
        known = FeatureStore.open(self.store, absent_ok=True)
        images = self.corpus(corpus).image_table(["image_id"])["image_id"].to_pylist()
        self.write_part([image_id for image_id in images if known.unknown([image_id])[0]], failing)
        key = content_key(["coverage", corpus])
        objects = self.store.child(f"corpora/{key}")
        recipe: dict[str, Json] = {
            "teacher": {"kind": "sam2", "checkpoint": "some", "dtype": "float32"},
            "features": {},
        }
        files = (write_rejects(objects, "rejects", []),)
        inputs, facts = {"corpus": corpus, "store": STORE}, {"num_images": len(images)}
        publish(objects, Manifest("teach", key, SCHEMA_VERSION, recipe, inputs, files, facts))
        self._note(key)
        return key

    def write_part(self, image_ids: Sequence[str], failing: Sequence[str] = (), publishes: bool = True) -> str:
        """Writes a part with features of some images, or one that nobody has finished; returns its key."""
        draw = np.random.default_rng(len(image_ids))
        rows = {
            image_id: FeatureRow(image_id, 3, 4, None, "poison")
            if image_id in failing
            else FeatureRow(image_id, 3, 4, draw.normal(size=(_CHANNELS, 3, 4)).astype(np.float32))
            for image_id in image_ids
        }
        codec = codec_of("int8")
        plan = plan_rows([(row.image_id, 3, 4) for row in rows.values()], _CHANNELS, 1, max_shard_bytes=200)
        key = content_key(["part", *image_ids, publishes])
        part = part_objects(self.store, key)
        description = PartDescription("the fingerprint", codec.encoding, _CHANNELS)
        write_part_metadata(part, plan, description, codec)
        for shard in plan.shards():
            write_shard(part, shard.array, shard.index, [rows[planned.image_id] for planned in shard.rows], codec)
        if publishes:
            self._publish(key, plan, description)
        return key

    def train(self, corpus: str, name: str = "", **training: object) -> str:
        """Publishes a checkpoint that was trained on a corpus, less its weights; returns its key."""
        config = TrainingConfig.model_validate({"num_steps": 4, **training})
        recipe: dict[str, Any] = {"student": {}, "training": config.hashed_fields()}
        inputs = {"corpus": corpus, "features/sam2": content_key(["coverage", corpus])}
        return self._output("train", "checkpoint", [name, config.model_dump(mode="json")], inputs, recipe=recipe)

    def evaluate(self, corpus: str, checkpoint: str, image_ids: Sequence[str]) -> str:
        """Publishes scores with a prediction on each of some images; returns their key."""
        predictions = [toy_prediction(number, image_id=image_id) for number, image_id in enumerate(image_ids)]
        sink = io.BytesIO()
        pq.write_table(predictions_to_table(predictions), sink)
        files = {"predictions/trained-00000.parquet": sink.getvalue()}
        inputs = {"corpus": corpus, "checkpoint": checkpoint}
        return self._output("evaluate", "evaluation", "", inputs, files)

    def report(self, corpus: str, checkpoint: str) -> str:
        """Publishes a page; returns its key."""
        return self._output("report", "report", "", {"curate": corpus, "train": checkpoint}, {"report.html": b"<p>"})

    def contents(self) -> dict[str, bytes]:
        """Every object of the workspace by its key."""
        return {info.key: self.workspace.read(info.key) for info in self.workspace.list()}

    def _publish(self, key: str, plan: PartPlan, description: PartDescription) -> None:
        publish_part(
            self.store, key, plan, description, codec_of("int8"), recipe={}, inputs={"teacher": content_key("teacher")}
        )

    def _output(
        self,
        stage: str,
        kind: str,
        name: object,
        inputs: dict[str, str],
        files: dict[str, bytes] | None = None,
        recipe: dict[str, Json] | None = None,
    ) -> str:
        key = content_key([stage, cast(Json, name), inputs])
        objects = self.workspace.child(f"{stage}/{key}")
        entries = tuple(FileEntry.of(path, data) for path, data in (files or {}).items())
        for path, data in (files or {}).items():
            objects.create(path, data)
        publish(objects, Manifest(kind, key, SCHEMA_VERSION, recipe or {}, inputs, entries))
        self._note(key)
        return key

    def _note(self, key: str) -> None:
        write_note(self.workspace.child(STAGE_NOTES), key, StageNote(1.0, 1, (CODE,)))
