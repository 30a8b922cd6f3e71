"""The stage on Ray writes what the local one writes, and continues where an earlier run stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.progress import NullProgress
from pipelines.scenes import ScenesConfig, generate, pipeline
from pipelines.scenes.blocks import plan_blocks, write_block
from pipelines.scenes.config import SplitSizes
from storage.errors import UsageError
from storage.objects import Objects

_CONFIG = ScenesConfig(size_px=64, splits=SplitSizes(train=104, val=2))


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_ray_writes_the_same_bytes(tmp_path: Path) -> None:
    on_ray, local = Objects.open(tmp_path / "ray"), Objects.open(tmp_path / "local")
    write_block(_CONFIG, on_ray, plan_blocks(_CONFIG)[1])  # what an earlier run left
    reports: list[tuple[int, int]] = []

    class Recorder:
        def update(self, done: int, total: int, **facts: object) -> None:
            reports.append((done, total))

    manifest = pipeline.generate(_CONFIG, on_ray, Recorder())
    assert manifest == generate.generate(_CONFIG, local, NullProgress())
    assert {info.key: on_ray.read(info.key) for info in on_ray.list()} == {
        info.key: local.read(info.key) for info in local.list()
    }
    assert reports[0] == (4, 106)
    assert reports[-1] == (106, 106)
    assert pipeline.generate(_CONFIG, on_ray, Recorder()) == manifest


def test_memory_is_refused() -> None:
    with pytest.raises(UsageError, match="workers can't reach this process's memory"):
        pipeline.generate(_CONFIG, Objects.open("memory://scenes-ray"), NullProgress())
