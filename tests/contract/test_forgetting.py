"""Removal of an image and lineage on every kind of store: a disk, memory, a real S3 server."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.forgetting.forget import forget
from pipelines.lineage.outputs import Kind, Presence, read_outputs
from pipelines.lineage.sightings import find_sightings
from pipelines.progress import NullProgress
from storage.errors import RetiredCorpus
from storage.features import FeatureStore
from storage.forgotten import FORGOTTEN
from storage.manifest import verify_manifest
from storage.objects import Objects
from storage.retirement import RETIRED_NAME
from tests.small_workspaces import SmallWorkspace


class ForgettingContract:
    """A subclass has a fixture `workspace`: an empty prefix, a new one for each test."""

    def test_an_image_leaves_everything_and_its_lineage_stays(self, workspace: Objects, tmp_path: Path) -> None:
        small = SmallWorkspace(workspace, tmp_path / "sources")
        image_id = small.picture(0)
        small.rows("a.jsonl", (0, "the cup", "train"), (1, "the cup", "train"), (2, "a dog", "val"))
        small.rows("b.jsonl", (0, "a dog", "train"), (3, "the cup", "train"))
        parent = small.curate("a.jsonl")
        child = small.curate("a.jsonl", "b.jsonl", parent=parent)
        small.teach(child)
        checkpoint = small.train(child)
        when = datetime(2026, 1, 2, tzinfo=UTC)
        done = forget(workspace, [image_id], "asked to", when, NullProgress())
        holding = [key for key, data in small.contents().items() if image_id.encode() in data]
        assert sorted(holding) == sorted(
            [f"{FORGOTTEN}/{image_id}.json", *(f"curate/{key}/{RETIRED_NAME}" for key in (parent, child))]
        )
        assert set(done.successors) == {parent, child}
        for key, successor in done.successors.items():
            verify_manifest(workspace.child(f"curate/{successor}"))
            assert image_id not in {sample.image_id for sample in small.corpus(successor).samples()}
            with pytest.raises(RetiredCorpus, match=f"read its successor, {workspace.url}/curate/{successor}"):
                small.corpus(key)
        assert image_id not in FeatureStore.open(small.store)
        FeatureStore.open(small.store).verify()
        found = read_outputs(workspace)
        assert [found.by_key[key].presence for key in (parent, child)] == [Presence.RETIRED] * 2
        assert len(found.of_kind(Kind.CORPUS)) == 4
        seen = find_sightings(found, [image_id])[image_id]
        assert [(item.key, item.role.is_seen) for item in seen.checkpoints] == [(checkpoint, True)]
        before = small.contents()
        assert not forget(workspace, [image_id], "again", when, NullProgress()).successors
        assert small.contents() == before


class TestLocal(ForgettingContract):
    @pytest.fixture
    def workspace(self, tmp_path: Path) -> Objects:
        return Objects.open(tmp_path / "a workspace")


class TestMemory(ForgettingContract):
    @pytest.fixture
    def workspace(self) -> Objects:
        return Objects.open(f"memory://{uuid.uuid4().hex}/work")


class TestS3(ForgettingContract):
    @pytest.fixture
    def workspace(self, s3_bucket: str) -> Objects:
        return Objects.open(f"{s3_bucket}/{uuid.uuid4().hex}/work")
