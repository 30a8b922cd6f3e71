"""Curation on Ray Data writes what the local one writes, and continues where an earlier run stopped."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from pipelines.curation import pipeline
from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local, curate_with
from pipelines.curation.testing import Killed, KilledAfter
from pipelines.progress import NullProgress
from pipelines.scenes import ScenesConfig
from pipelines.scenes.config import SplitSizes
from pipelines.scenes.generate import generate
from storage.errors import SourceError
from storage.objects import Objects

_SOURCES = ({"kind": "refcoco"}, {"kind": "grefcoco"}, {"kind": "osprey"})


def _config(root: str) -> CurationConfig:
    scenes = ScenesConfig(size_px=64, splits=SplitSizes(train=10, val=2))
    generate(scenes, Objects.open(root), NullProgress())
    return CurationConfig.model_validate({"root": root, "sources": _SOURCES, "images_per_shard": 3})


def _bytes_of(objects: Objects) -> dict[str, bytes]:
    return {info.key: objects.read(info.key) for info in objects.list()}


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_ray_writes_the_same_bytes(tmp_path: Path) -> None:
    config = _config(str(tmp_path / "in"))
    local, on_ray = Objects.open(tmp_path / "local"), Objects.open(tmp_path / "ray")
    manifest = curate_local(config, local, NullProgress())
    with pytest.raises(Killed):  # what an earlier run left
        curate_with(KilledAfter(5), config, on_ray, NullProgress())
    reports: list[tuple[int, int]] = []

    class Recorder:
        def update(self, done: int, total: int, **facts: object) -> None:
            reports.append((done, total))

    assert pipeline.curate(config, on_ray, Recorder()) == manifest
    assert _bytes_of(on_ray) == _bytes_of(local)
    assert reports[:3] == [(1, 3), (2, 3), (3, 3)]
    assert reports[3] == (12, 12)
    assert reports[4:] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert pipeline.curate(config, on_ray, NullProgress()) == manifest


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("num_sources", [1, 2])
def test_an_error_of_a_task_is_our_own(tmp_path: Path, num_sources: int) -> None:
    config = CurationConfig.model_validate({"root": str(tmp_path), "sources": [{"kind": "refcoco"}] * num_sources})
    with pytest.raises(SourceError, match=r"^refcoco/refs\(unc\)\.p: absent; expected"):
        pipeline.curate(config, Objects.open(tmp_path / "out"), NullProgress())


def test_memory_stays_in_this_process(tmp_path: Path) -> None:
    config = _config(str(tmp_path / "in"))
    output = Objects.open(f"memory://{uuid.uuid4().hex}/out")
    assert pipeline.curate(config, output, NullProgress()).facts["num_images"] == 12


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_ray_goes_on_from_a_parent_with_the_same_bytes(tmp_path: Path) -> None:
    whole = _config(str(tmp_path / "in"))
    parent = whole.model_copy(update={"sources": whole.sources[:2]})
    curate_local(parent, Objects.open(tmp_path / "parent"), NullProgress())
    config = whole.model_copy(update={"parent": str(tmp_path / "parent")})
    local, on_ray = Objects.open(tmp_path / "local"), Objects.open(tmp_path / "ray")
    manifest = curate_local(config, local, NullProgress())
    assert manifest.facts["parents"]
    assert pipeline.curate(config, on_ray, NullProgress()) == manifest
    assert _bytes_of(on_ray) == _bytes_of(local)
