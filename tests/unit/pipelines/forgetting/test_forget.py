"""Images leave every corpus and every feature part of a workspace, wherever a run was killed, and don't come back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines.curation import corpora
from pipelines.curation.corpora import curate_local, find_target
from pipelines.curation.successors import in_place_of, successor_key
from pipelines.curation.testing import Killed
from pipelines.forgetting.forget import Forgetting, forget, survey
from pipelines.lineage.outputs import read_outputs
from pipelines.lineage.sightings import find_sightings
from pipelines.progress import NullProgress
from storage.corpus import Corpus, write_rejects
from storage.errors import Locked, RetiredCorpus, UsageError
from storage.feature_upkeep import compact
from storage.features import FeatureStore
from storage.forgotten import FORGOTTEN, read_forgotten
from storage.locks import exclusive, lock_times
from storage.manifest import Manifest, publish, verify_manifest
from storage.objects import NewObject, Objects
from storage.retirement import RETIRED_NAME, read_retirement
from storage.schema import SCHEMA_VERSION, Reject, RejectReason
from tests.small_workspaces import SmallWorkspace

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_MUTATIONS = ("create", "put", "delete", "copy")


@pytest.fixture(params=["local", "memory"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> SmallWorkspace:
    url = str(tmp_path / "work") if request.param == "local" else f"memory://{tmp_path.name}/work"
    return SmallWorkspace(Objects.open(url), tmp_path / "sources")


class Flow:
    """A workspace in which an image is nearly everywhere, in every state that something can be in.

    Args:
        small: an empty workspace.
    """

    def __init__(self, small: SmallWorkspace) -> None:
        self.small = small
        self.image_id = small.picture(0)
        small.rows("a.jsonl", (0, "the cup", "train"), (1, "the cup", "train"), (2, "a dog", "val"))
        small.rows("b.jsonl", (0, "a dog", "train"), (3, "the cup", "train"))
        small.rows("c.jsonl", (1, "the cup", "train"))
        self.parent = small.curate("a.jsonl")
        self.child = small.curate("a.jsonl", "b.jsonl", parent=self.parent)
        self.unrelated = small.curate("c.jsonl")
        small.teach(self.parent)
        compact(small.store, forget=["nothing"], max_shard_bytes=100)
        small.write_part([small.picture(9), self.image_id])
        compact(small.store)
        small.teach(self.child)
        self.unfinished = small.write_part([self.image_id, small.picture(8)], publishes=False)
        self.unfinished_curation()
        self.statement()
        self.checkpoint = small.train(self.parent)

    def unfinished_curation(self) -> None:
        """A run of curation that was killed when all shards were made."""
        config = self.small.config("b.jsonl", images_per_shard=1)
        output = self.small.workspace.child(f"curate/{find_target(config).key}")

        def killed(*_: object) -> None:
            raise Killed("killed")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(corpora, "_settle", killed)
            with pytest.raises(Killed, match="killed"):
                curate_local(config, output, NullProgress())
        self.unfinished_curate = output

    def statement(self) -> None:
        """What `teach` states where a teacher has failed on the image."""
        objects = self.small.store.child("corpora/statement")
        row = Reject(
            family="teacher sam2",
            source_file="images",
            locator=self.image_id,
            reason=RejectReason.TEACHER_FAILED,
            detail="it failed",
        )
        files = (write_rejects(objects, "rejects", [row]),)
        inputs = {"corpus": self.parent, "store": "s"}
        publish(objects, Manifest("teach", "statement", SCHEMA_VERSION, {}, inputs, files, {"num_rejected": 1}))

    def forget(self, *image_ids: str) -> Forgetting:
        return forget(self.small.workspace, image_ids or [self.image_id], "request 17", WHEN, NullProgress())

    def where(self, image_id: str | None = None) -> list[str]:
        """Keys of all objects that hold an image's id, less the records that are there for that."""
        word = (image_id or self.image_id).encode()
        return [
            key
            for key, data in self.small.contents().items()
            if word in data and not key.startswith(FORGOTTEN) and not key.endswith(RETIRED_NAME)
        ]


def test_an_image_leaves_everything(small: SmallWorkspace) -> None:
    flow = Flow(small)
    assert {key.partition("/")[0] for key in flow.where()} == {"curate", "features"}
    before = {key: small.corpus(key) for key in (flow.parent, flow.child)}
    kept = {
        key: [sample for sample in corpus.samples() if sample.image_id != flow.image_id]
        for key, corpus in before.items()
    }
    features = FeatureStore.open(small.store)
    others = sorted(set(features) - {flow.image_id})
    values = [array.tolist() for array in features.read(others)]
    done = flow.forget()
    assert flow.where() == []
    assert set(done.successors) == {flow.parent, flow.child}
    for key, successor in done.successors.items():
        assert successor == successor_key(key, [flow.image_id])
        assert list(small.corpus(successor).samples()) == kept[key]
        verify_manifest(small.workspace.child(f"curate/{successor}"))
        with pytest.raises(RetiredCorpus, match=f"read its successor, .*/curate/{successor}"):
            small.corpus(key)
        assert [info.key for info in small.workspace.child(f"curate/{key}").list()] == [RETIRED_NAME]
    assert small.corpus(flow.unrelated).manifest.facts["parents"] == []
    after = FeatureStore.open(small.store)
    after.verify()
    assert sorted(after) == others
    assert [array.tolist() for array in after.read(others)] == values
    assert list(flow.unfinished_curate.list()) == []


def test_the_record_tells_what_it_was_in_and_what_cannot_forget(small: SmallWorkspace) -> None:
    flow = Flow(small)
    done = flow.forget()
    record = read_forgotten(small.workspace, flow.image_id)
    assert record is not None
    assert (record["reason"], record["when"]) == ("request 17", "2026-01-02T03:04:05+00:00")
    assert {item["key"] for item in record["corpora"]} == {flow.parent, flow.child}
    assert {item["state"] for item in record["parts"]} == {"live", "retired", "unfinished"}
    assert [(item["key"], item["role"]) for item in record["checkpoints"]] == [(flow.checkpoint, "trained on")]
    assert done.is_new == {flow.image_id: True}
    assert done.deleted == [f"curate/{flow.unfinished_curate.url.rpartition('/')[2]}", f"features/{_store(small)}"]
    assert small.workspace.exists(f"train/{flow.checkpoint}/manifest.json")
    seen = find_sightings(read_outputs(small.workspace), [flow.image_id])[flow.image_id]
    assert {item.key for item in seen.corpora} == {flow.parent, flow.child}
    assert [item.role.value for item in seen.checkpoints] == ["trained on"]
    assert seen.parts == ()


def _store(small: SmallWorkspace) -> str:
    return f"{small.store.url.rpartition('/')[2]}/corpora/statement"


def test_a_second_removal_changes_nothing(small: SmallWorkspace) -> None:
    flow = Flow(small)
    flow.forget()
    before = small.contents()
    done = flow.forget()
    assert small.contents() == before
    assert (done.is_new, done.successors, done.stores, done.deleted) == ({flow.image_id: False}, {}, {}, [])


def test_a_survey_changes_nothing(small: SmallWorkspace) -> None:
    flow = Flow(small)
    before = small.contents()
    looked = survey(small.workspace, [flow.image_id])
    assert small.contents() == before
    assert looked.successors == flow.forget().successors


def test_it_does_not_come_back(small: SmallWorkspace) -> None:
    flow = Flow(small)
    done = flow.forget()
    folder = small.workspace.child("curate")
    target = in_place_of(find_target(small.config("a.jsonl"), forgotten=[flow.image_id]), folder)
    assert target.key == done.successors[flow.parent]
    small.rows("d.jsonl", (0, "again", "train"), (5, "the cup", "train"))
    parent = done.successors[flow.child]
    config = small.config("a.jsonl", "b.jsonl", "d.jsonl", parent=parent)
    output = small.workspace.child("curate/next")
    curate_local(config, output, NullProgress(), forgotten=[flow.image_id])
    assert flow.where() == []
    reasons = [(row.source_file, row.locator) for row in Corpus.open(output).rejects() if row.reason == "forgotten"]
    assert sorted(reasons) == [("a.jsonl", "row=0"), ("b.jsonl", "row=0"), ("d.jsonl", "row=0")]


def test_an_image_that_nothing_has_gets_a_record_all_the_same(small: SmallWorkspace) -> None:
    flow = Flow(small)
    before = small.contents()
    done = flow.forget("0" * 64)
    assert (done.successors, done.stores, done.deleted) == ({}, {}, [])
    assert small.contents().keys() - before.keys() == {f"{FORGOTTEN}/{'0' * 64}.json"}


def test_one_after_the_other_leads_to_what_both_at_once_do(small: SmallWorkspace, tmp_path: Path) -> None:
    flow = Flow(small)
    late = small.picture(3)
    first = flow.forget()
    second = flow.forget(late)
    assert set(second.successors) == {first.successors[flow.child]}
    assert flow.where() == flow.where(late) == []
    other = Flow(SmallWorkspace(Objects.open(f"memory://{tmp_path.name}-both/work"), tmp_path / "sources"))
    both = other.forget(other.image_id, late)
    at_once = other.small.corpus(both.successors[other.child])
    assert list(small.corpus(second.successors[first.successors[flow.child]]).samples()) == list(at_once.samples())
    note = read_retirement(small.workspace.child(f"curate/{first.successors[flow.child]}"))
    assert note is not None
    assert list(note.removed) == [late]


def test_one_at_a_time(small: SmallWorkspace) -> None:
    flow = Flow(small)
    with (
        exclusive(small.workspace.child(FORGOTTEN), "forget", lock_times(0.2)),
        pytest.raises(Locked, match="expected nobody else at work"),
    ):
        flow.forget()
    assert read_forgotten(small.workspace, flow.image_id) is None


def test_a_corpus_of_another_version_stops_it_before_anything_is_changed(small: SmallWorkspace) -> None:
    flow = Flow(small)
    objects = small.workspace.child(f"curate/{flow.parent}")
    manifest = json.loads(objects.read("manifest.json"))
    objects.put("manifest.json", json.dumps({**manifest, "schema_version": 1}).encode())
    before = small.contents()
    with pytest.raises(UsageError, match=f"curate/{flow.parent}: holds pictures that are to be forgotten, and another"):
        flow.forget()
    lock = {key for key in small.contents() if "/leases/" in key}
    assert {key: data for key, data in small.contents().items() if key not in lock} == before


# Kills


@contextmanager
def killed_at(step: int) -> Iterator[list[str]]:
    """Ends the process, so to speak, before its n-th change of a store; what it does then changes nothing either."""
    done: list[str] = []

    def dying(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def change(self: object, *args: Any, **kwargs: Any) -> Any:
            if len(done) == step:
                raise Killed(f"killed at {name}")
            done.append(name)
            return function(self, *args, **kwargs)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for name in _MUTATIONS:
            patch.setattr(Objects, name, dying(name, getattr(Objects, name)))
        patch.setattr(NewObject, "finish", dying("finish", NewObject.finish))
        yield done


def restored(small: SmallWorkspace, contents: dict[str, bytes]) -> None:
    """Makes a workspace what it was, without the notes of processes that have ended."""
    folder = small.workspace.local_path
    if folder is not None:
        shutil.rmtree(folder)
    for info in list(small.workspace.list()):
        small.workspace.delete(info.key)
    for key, data in contents.items():
        small.workspace.create(key, data)


def without_leases(small: SmallWorkspace) -> dict[str, bytes]:
    return {key: data for key, data in small.contents().items() if "/leases/" not in key}


def drawn(*arguments: object) -> bytes:
    """In place of a picture of the card, which takes most of the time: what it would be drawn of."""
    return repr(arguments[-1] if isinstance(arguments[-1], str) else sorted(arguments[-1])).encode()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "first", "stride"), [("local", 3, 9), *(("memory", first, 4) for first in range(4))])
def test_killed_at_every_step_it_is_continued_to_the_same_result(
    kind: str, first: int, stride: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.curation.cards.files.draw_sheet", drawn)
    monkeypatch.setattr("pipelines.curation.cards.files.draw_histograms", drawn)
    url = str(tmp_path / "work") if kind == "local" else f"memory://{tmp_path.name}/work"
    small = SmallWorkspace(Objects.open(url), tmp_path / "sources")
    flow = Flow(small)
    before = without_leases(small)
    with killed_at(10**9) as steps:
        flow.forget()
    expected, num_steps = without_leases(small), len(steps)
    assert num_steps > 60
    for step in range(first, num_steps, stride):
        restored(small, before)
        with killed_at(step), pytest.raises(Killed, match="killed at"):
            flow.forget()
        for key in [info.key for info in small.workspace.list() if "/leases/" in info.key]:
            small.workspace.delete(key)  # a process that has ended holds none
        successor = small.workspace.child(f"curate/{successor_key(flow.parent, [flow.image_id])}")
        old = small.workspace.child(f"curate/{flow.parent}")
        assert old.exists("manifest.json") or successor.exists("manifest.json"), f"step {step}: there is a corpus"
        flow.forget()
        assert without_leases(small) == expected, f"step {step}"
