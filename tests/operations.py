"""Day by day in the life of a student: pictures arrive in a lake, and users' commands make and remake it of them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.progress import NullProgress
from pipelines.scenes.config import ScenesConfig
from pipelines.scenes.generate import generate
from storage.feature_index import Snapshot, read_snapshot
from storage.objects import Objects
from storage.registry import Registry
from storage.run_records import RecordedRun, find_runs, read_run
from tests.local_cluster import JobClient

__all__ = ["DESCRIBING", "RUINED", "STAGES", "Lake", "Operations", "captions", "num_taught", "scenes_of"]

DESCRIBING: dict[str, Any] = {
    "extends": "smoke",
    "scenes": None,
    "teachers": [{"kind": "sam2", "checkpoint": "tiny-sam2", "image_size_px": 64}],
    "student": {"distillation": [{"teacher": "sam2", "num_channels": 64, "source": "patches"}]},
    # A student that has hardly begun says nothing; one of 80 steps says what all descriptions have in common.
    "training": {"num_steps": 1, "checkpoint_every": 1000, "log_every": 20},
    "evaluation": {
        "max_new_tokens": 12,
        "num_resamples": 200,
        "benchmarks": [
            {"kind": "description", "splits": ["val"], "variants": ["standard"], "attribute_words": ["plain"]}
        ],
    },
    "retrain": {
        "decides": {"benchmark": "description", "metric": "attribute_accuracy"},
        "training": {"num_steps": 80, "learning_rate": 1.0e-2},
    },
}
"""A recipe without sources, whose first student is worse than the one that is trained from it."""

RUINED = "retrain.training={num_steps: 2, learning_rate: 1.0, clip_norm: 1.0e+6}"
"""Makes of any champion one that says nothing."""

STAGES = "curate,teach,train,evaluate"
_PICTURES = "images/train2014"


def scenes_of(seed: int, **splits: int) -> ScenesConfig:
    """Scenes of three plain shapes, so many of each split."""
    shown = {"size_px": 64, "min_objects": 3, "max_objects": 3, "textures": ["plain"]}
    return ScenesConfig.model_validate({**shown, "seed": seed, "splits": splits})


def captions(split: str, root: str | None = None) -> dict[str, object]:
    """The source of a split's captions."""
    others = {"mcq": None, "visual_text_res": None}
    return {"kind": "perbench", "root": root, "detailed_caption": _rows_key(split), "split": split, **others}


def _rows_key(split: str) -> str:
    return f"perbench/{split}/detailed_caption.json"


class Lake:
    """A folder in which pictures arrive, each with its row in the file of its split.

    Args:
        url: of the folder.
        splits: pictures of each split that there will ever be.
    """

    def __init__(self, url: str, **splits: int) -> None:
        self.objects = Objects.open(url)
        self._drawn = Objects.open(f"memory://{uuid.uuid4().hex}")
        generate(scenes_of(0, **splits), self._drawn, NullProgress())

    def bring(self, split: str, num_pictures: int) -> None:
        """So many pictures of a split are there from now on, the earlier ones among them."""
        rows = json.loads(self._drawn.read(_rows_key(split)))[:num_pictures]
        assert len(rows) == num_pictures
        for row in rows:
            key = f"{_PICTURES}/{row['image_name']}"
            self.objects.create(key, self._drawn.read(key))
        self.objects.put(_rows_key(split), json.dumps(rows).encode())


class Operations:
    """A recipe on a lake, and those who run it on a cluster.

    Args:
        client: hands in jobs.
        url: of lake and workspace; this process has to have the credentials, too.
        recipe: where the recipe is written.
        changes: sections of the recipe that differ from `DESCRIBING`.
    """

    def __init__(self, client: JobClient, url: str, recipe: Path, changes: Mapping[str, object] | None = None) -> None:
        self.client, self.recipe = client, str(recipe)
        self.workspace = Objects.open(f"{url}/work")
        self.lake_url = f"{url}/lake"
        self.registry = Registry(self.workspace.child("registry/operations"))
        curation = {"root": self.lake_url, "sources": [captions("train"), captions("val")]}
        tree = {"name": "operations", "workspace": self.workspace.url, "curation": curation}
        recipe.write_text(yaml.safe_dump({**DESCRIBING, **tree, **(changes or {})}))

    def submit(self, *arguments: str) -> str:
        """Runs the recipe on the cluster, successfully; gives the job's log."""
        done = self.client.run("submit", self.recipe, *arguments, "--follow")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def snapshot(self) -> Snapshot:
        """What the only feature store holds."""
        (name,) = self.workspace.folders("features")
        found = read_snapshot(self.workspace.child(f"features/{name}"))
        assert found is not None
        return found

    @property
    def features_url(self) -> str:
        """Of the only feature store."""
        (name,) = self.workspace.folders("features")
        return f"{self.workspace.url}/features/{name}"

    def runs(self) -> list[RecordedRun]:
        """Records of all runs, the newest last."""
        found = [read_run(self.workspace, run) for run in find_runs(self.workspace)]
        return [run for run in found if run is not None]


def num_taught(run: RecordedRun) -> float:
    """Images whose features a run computed, by its own count."""
    return sum(
        row["value"]
        for row in run.newest["figures"]
        if row["name"] == "sailloft_images_total" and row.get("outcome") == "taught"
    )
