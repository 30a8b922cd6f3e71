"""A workspace as `sailloft view` shows one: a corpus of drawn pictures, their features, trainings and runs."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.training.notes import METRICS, VALIDATION, training_logs
from storage.codecs import codec_of
from storage.corpus import write_images, write_rejects, write_samples
from storage.feature_index import PartDescription, part_objects
from storage.feature_plan import plan_rows
from storage.feature_writer import FeatureRow, publish_part, write_part_metadata, write_shard
from storage.keys import Json, content_key
from storage.manifest import FileEntry, Manifest, publish
from storage.objects import Objects
from storage.run_records import RunFolder
from storage.schema import SCHEMA_VERSION, ImageRecord
from storage.stage_notes import STAGE_NOTES, CodeVersion, StageNote, write_note
from tests.object_corpora import HEIGHT_PX, WIDTH_PX, drawn_picture

__all__ = ["DONE", "FAILED", "KILLED", "NUM_IMAGES", "NUM_STEPS", "ViewedWorkspace", "write_viewed_workspace"]

NUM_IMAGES = 30
NUM_STEPS = 200
DONE, FAILED, KILLED = (f"demo-20260501T12{minute:02d}00000-aaaaaa" for minute in (0, 10, 20))
"""Ids of the runs."""

_CELL_PX = 8
_CHANNELS = 8
_CODE = CodeVersion("1.2", "c" * 40, False, "5" * 64)
_TIME = "2026-05-01T12:{minute:02d}:{second:02d}.000+00:00"


@dataclass(frozen=True, slots=True)
class ViewedWorkspace:
    """Keys of what was written; the store lies at `features/<store>`, its statement at `corpora/<coverage>` below."""

    corpus: str
    store: str
    coverage: str
    checkpoints: tuple[str, ...]
    scores: str
    report: str
    image_ids: tuple[str, ...]
    rejected: str
    """Id of the picture without features."""

    @property
    def coverage_path(self) -> str:
        """Of the statement, below the workspace."""
        return f"features/{self.store}/corpora/{self.coverage}"


def write_viewed_workspace(workspace: Objects) -> ViewedWorkspace:
    """Publishes all of it.

    Args:
        workspace: an empty prefix.
    """
    images = [drawn_picture(number) for number in range(NUM_IMAGES)]
    rejected = images[-1].image_id
    corpus = _write_corpus(workspace, images)
    store = content_key("the store")
    _write_features(workspace.child(f"features/{store}"), images, rejected)
    coverage = _write_coverage(workspace, store, corpus)
    inputs = {"corpus": corpus, "features/sam2": coverage}
    checkpoints = tuple(_write_checkpoint(workspace, rate, inputs) for rate in (1.0, 2.5))
    score: dict[str, Json] = {
        "benchmark": "referring",
        "variant": "standard",
        "family": None,
        "task": None,
        "split": None,
        "metric": "cIoU",
        "value": 0.4321,
    }
    scores = _publish(
        workspace, "evaluate", "evaluation", {"corpus": corpus, "checkpoint": checkpoints[0]}, {"scores": [score]}
    )
    page = {"report.html": b"<!doctype html><title>Report</title><style>p{color:red}</style><p>All is told.</p>"}
    report = _publish(workspace, "report", "report", {"curate": corpus, "train": checkpoints[0]}, files=page)
    stages = {
        "curate": f"curate/{corpus}",
        "teach sam2": f"features/{store}/corpora/{coverage}",
        "train": f"train/{checkpoints[0]}",
        "evaluate": f"evaluate/{scores}",
        "report": f"report/{report}",
    }
    _write_run(workspace, DONE, stages, exit_code=0)
    _write_run(workspace, FAILED, dict(list(stages.items())[:2]), exit_code=4)
    _write_run(workspace, KILLED, dict(list(stages.items())[:3]), exit_code=None)
    ids = tuple(image.image_id for image in images)
    return ViewedWorkspace(corpus, store, coverage, checkpoints, scores, report, ids, rejected)


def _write_corpus(workspace: Objects, images: Sequence[ImageRecord]) -> str:
    key = content_key("the corpus")
    objects = workspace.child(f"curate/{key}")
    files = (write_images(objects, "00000", images), write_samples(objects, "00000", []))
    facts: dict[str, Json] = {"num_samples": 0, "num_images": len(images), "num_rejects": 0, "leakage_gate": "remove"}
    publish(objects, Manifest("corpus", key, SCHEMA_VERSION, {}, {}, files, facts))
    _note(workspace, key)
    return key


def _write_features(store: Objects, images: Sequence[ImageRecord], rejected: str) -> None:
    """Two parts: the second has a third of the images, and the one that fails."""
    codec = codec_of("int8")
    description = PartDescription("f" * 64, codec.encoding, _CHANNELS, {"policy": "native", "stride": _CELL_PX})
    height, width = HEIGHT_PX // _CELL_PX, WIDTH_PX // _CELL_PX
    for number, some in enumerate((images[: -NUM_IMAGES // 3], images[-NUM_IMAGES // 3 :])):
        plan = plan_rows([(image.image_id, height, width) for image in some], _CHANNELS, 1, max_shard_bytes=20_000)
        rows = {
            image.image_id: FeatureRow(image.image_id, height, width, None, "the teacher gave NaN")
            if image.image_id == rejected
            else FeatureRow(image.image_id, height, width, _features(image))
            for image in some
        }
        part = part_objects(store, key := content_key(["part", number]))
        write_part_metadata(part, plan, description, codec)
        for shard in plan.shards():
            write_shard(part, shard.array, shard.index, [rows[row.image_id] for row in shard.rows], codec)
        publish_part(store, key, plan, description, codec, recipe={}, inputs={"teacher": "f" * 64})


def _features(image: ImageRecord) -> NDArray[np.float32]:
    """Colours of the picture's blocks, mixed to more channels."""
    with Image.open(io.BytesIO(image.data or b"")) as picture:
        small = picture.convert("RGB").resize((WIDTH_PX // _CELL_PX, HEIGHT_PX // _CELL_PX), Image.Resampling.BOX)
    mixing = np.random.default_rng(0).normal(size=(_CHANNELS, 3))
    return np.einsum("kc,hwc->khw", mixing, np.asarray(small, float) / 255).astype(np.float32)


def _write_coverage(workspace: Objects, store: str, corpus: str) -> str:
    key = content_key(["coverage", corpus])
    objects = workspace.child(f"features/{store}/corpora/{key}")
    recipe: dict[str, Json] = {
        "teacher": {"kind": "sam2", "checkpoint": "sam2-hiera-tiny", "dtype": "float32"},
        "features": {"splits": ["train", "val"], "grid": "native"},
    }
    facts: dict[str, Json] = {"num_images": NUM_IMAGES - 1, "num_rejected": 1}
    inputs = {"corpus": corpus, "store": store}
    files = (write_rejects(objects, "rejects", []),)
    publish(objects, Manifest("teach", key, SCHEMA_VERSION, recipe, inputs, files, facts))
    _note(workspace, key)
    return key


def _write_checkpoint(workspace: Objects, rate: float, inputs: Mapping[str, str]) -> str:
    """A checkpoint less its weights: metrics of a training that learns at this rate."""
    draw = np.random.default_rng(round(10 * rate))
    rows: list[dict[str, float]] = []
    for step in range(1, NUM_STEPS + 1):
        left = math.exp(-rate * step / 80)
        terms = {"text": 2 * left, "mask_bce": left, "mask_dice": 0.2 + 0.8 * left, "distillation/sam2": 1.5 * left}
        terms = {name: value + 0.05 * float(draw.random()) for name, value in terms.items()}
        schedule = {"learning_rate": 1e-3 * rate * (1 - step / NUM_STEPS), "gradient_norm": 1 + left}
        rows.append({"step": step, "loss": sum(terms.values()), **terms, **schedule, "tokens": 512})
    validation = [{"step": step, "cIoU": 0.6 * (1 - math.exp(-rate * step / 80))} for step in range(20, 201, 20)]
    recipe: dict[str, Json] = {"training": {"num_steps": NUM_STEPS, "rate": rate}}
    facts: dict[str, Json] = {"num_steps": NUM_STEPS, "num_parameters": 1_234_567}
    key = _publish(workspace, "train", "checkpoint", inputs, facts, recipe, {METRICS: _lines(rows)})
    training_logs(workspace, key).create(VALIDATION, _lines(validation))
    return key


def _publish(
    workspace: Objects,
    stage: str,
    kind: str,
    inputs: Mapping[str, str],
    facts: Mapping[str, Json] | None = None,
    recipe: Mapping[str, Json] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> str:
    key = content_key([stage, dict(inputs), dict(recipe or {})])
    objects = workspace.child(f"{stage}/{key}")
    for path, data in (files or {}).items():
        objects.create(path, data)
    entries = tuple(FileEntry.of(path, data) for path, data in (files or {}).items())
    publish(objects, Manifest(kind, key, SCHEMA_VERSION, recipe or {}, inputs, entries, facts or {}))
    _note(workspace, key)
    return key


def _write_run(workspace: Objects, run: str, stages: Mapping[str, str], exit_code: int | None) -> None:
    """A run that began these stages one after the other; one that failed or was killed did so in the last."""
    minute = int(run[16:18])
    folder = RunFolder(workspace, run)
    code: dict[str, Json] = {"version": "1.2", "commit": None, "changed": None, "sources": "5" * 64}
    versions: dict[str, Json] = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0"}
    here: dict[str, Json] = {"node": "head", "processor": "EPYC", "num_cpus": 2, "memory_gib": 23.5}
    recipe: dict[str, Json] = {"name": "demo", "workspace": "<script>alert(1)</script>"}
    start: dict[str, Json] = {"recipe": recipe, "code": code, "versions": versions, "machine": here, "environment": {}}
    folder.write_start({**start, "time": _TIME.format(minute=minute, second=0)})
    events: list[Json] = []
    told: list[Json] = []
    for number, (name, path) in enumerate(stages.items()):
        url = f"{workspace.url}/{path}"
        time = _TIME.format(minute=minute, second=1 + 5 * number)
        events.append({"time": time, "kind": "stage_began", "stage": name, "url": url})
        stopped = exit_code != 0 and number == len(stages) - 1
        if not stopped:
            seconds = float(2 + number)
            events.append({"kind": "stage_ended", "stage": name, "state": "ran", "seconds": seconds})
            key = path.rpartition("/")[2]
            told.append({"name": name, "key": key, "url": url, "state": "ran", "seconds": seconds, "num_starts": 1})
        elif exit_code is not None:
            events.append({"kind": "stage_failed", "stage": name, "seconds": 1.5})
    events += [{"kind": "log", "level": "warning", "stage": "train", "message": "slow <b>step</b>"}] * 3
    costs: Json = {
        "wall_s": 40.0,
        "cpu_s": 1800.0,
        "accelerator_s": 0.0,
        "requests": {"reading": 1234, "writing": 56},
        "read_bytes": 2_500_000_000,
        "written_bytes": 4_000_000,
        "usd": {"accelerators": 4.0, "cpus": 0.0, "requests": 0.1, "total": 4.1},
    }
    totals: dict[str, Json] = {"figures": [], "costs": costs}
    time = _TIME.format(minute=minute, second=40)
    folder.write_piece({"time": time, "events": events, **totals})
    if exit_code is not None:
        error: Json = {"class": "InfrastructureError", "message": "bucket <gone>"} if exit_code else None
        end: dict[str, Json] = {"time": time, "seconds": 40.0, "exit_code": exit_code, "error": error}
        folder.write_end({**end, "stages": told, "lines_lost": 0, **totals})


def _lines(rows: Sequence[Mapping[str, float]]) -> bytes:
    return "".join(json.dumps(dict(row)) + "\n" for row in rows).encode()


def _note(workspace: Objects, key: str) -> None:
    write_note(workspace.child(STAGE_NOTES), key, StageNote(12.5, 1, (_CODE,)))
