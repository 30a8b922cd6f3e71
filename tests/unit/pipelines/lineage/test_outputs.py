"""A workspace is read by its stages' first level alone, in a bounded number of requests, whatever lies deeper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest

from pipelines.lineage.outputs import Kind, Presence, read_outputs
from storage.feature_upkeep import compact
from storage.objects import Objects
from storage.registry import REGISTRIES, Registry
from tests.registries import student_facts
from tests.small_workspaces import CODE, STORE, SmallWorkspace


@pytest.fixture
def small(tmp_path: Path) -> SmallWorkspace:
    return SmallWorkspace(Objects.open(f"memory://{tmp_path.name}/workspace"), tmp_path / "sources")


def test_every_stage_is_found_with_what_is_noted_of_it(small: SmallWorkspace, tmp_path: Path) -> None:
    small.rows("a.jsonl", (0, "the cup", "train"), (1, "the dog", "val"))
    corpus = small.curate("a.jsonl")
    features = small.teach(corpus)
    base = small.train(corpus, "base")
    elsewhere = SmallWorkspace(Objects.open(tmp_path / "other"), tmp_path / "sources")
    far = elsewhere.train(corpus, "far", init="s3-like/../nothing")
    near = small.train(corpus, init=f"somewhere/train/{base}")
    tuned = small.train(corpus, init=f"{elsewhere.workspace.url}/train/{far}")
    scores = small.evaluate(corpus, near, [])
    report = small.report(corpus, near)
    small.workspace.create("curate/half/work/read/1.parquet", b"")
    small.workspace.put("runs/mine-0123/record.json", b'{"stages": [{"key": "%s"}]}' % corpus.encode())
    small.workspace.put("runs/torn-0123/record.json", b'{"stages": [')
    found = read_outputs(small.workspace)
    kinds = {output.key: output.kind for output in found.by_key.values() if output.kind is not Kind.PART}
    assert kinds == {
        "half": Kind.CORPUS,
        corpus: Kind.CORPUS,
        STORE: Kind.STORE,
        features: Kind.FEATURES,
        **dict.fromkeys([base, near, tuned, far], Kind.CHECKPOINT),
        scores: Kind.SCORES,
        report: Kind.REPORT,
    }
    (part,) = found.of_kind(Kind.PART)
    assert found.by_key[STORE].inputs == {"part 0": part.key}
    assert found.by_key["half"].presence is Presence.UNFINISHED
    note = found.by_key[near].note
    assert note is not None
    assert note.code == (CODE,)
    assert (found.by_key[near].base, found.by_key[tuned].base) == (base, far)
    assert found.by_key[far].base == "s3-like/../nothing"
    assert found.objects(found.by_key[far]).exists("manifest.json")
    assert found.objects(part).exists("manifest.json")
    assert found.runs == {corpus: ["runs/mine-0123/record.json"]}


def test_registered_checkpoints_are_told(small: SmallWorkspace) -> None:
    registry = Registry(small.workspace.child(f"{REGISTRIES}/mine"))
    for name in ("first", "second", "third"):
        registry.register(student_facts(name))
    registry.promote(1, ["it is the only one"])
    assert read_outputs(small.workspace).registered == {
        "first": ["version 1 of mine, champion"],
        "second": ["version 2 of mine"],
        "third": ["version 3 of mine, challenger"],
    }


def test_parts_that_were_replaced_are_inputs_of_what_replaced_them(small: SmallWorkspace) -> None:
    small.rows("a.jsonl", (0, "the cup", "train"))
    small.teach(small.curate("a.jsonl"))
    small.rows("b.jsonl", (1, "the cup", "train"))
    small.teach(small.curate("a.jsonl", "b.jsonl"))
    before = [part.key for part in read_outputs(small.workspace).of_kind(Kind.PART)]
    compact(small.store)
    (part,) = read_outputs(small.workspace).of_kind(Kind.PART)
    assert sorted(part.inputs.values()) == sorted(before)


def test_requests_follow_the_number_of_outputs_and_not_of_files(
    small: SmallWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: Counter[str] = Counter()
    listed: list[str] = []

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            requests[name] += 1
            if name == "list":
                listed.append(kwargs["prefix"])
            return function(*args, **kwargs)

        return counted

    small.rows("a.jsonl", *((number, "the cup", "train") for number in range(9)))
    corpus = small.curate("a.jsonl")
    small.teach(corpus)
    checkpoint = small.train(corpus)
    small.evaluate(corpus, checkpoint, [])
    for name in ("get", "head", "list", "list_with_delimiter"):
        monkeypatch.setattr(obstore, name, counting(name, getattr(obstore, name)))
    found = read_outputs(small.workspace)
    assert len(found.by_key) == 6  # corpus, store, part, features, checkpoint, scores
    # Manifest and note of four, the store's snapshot, the part's manifest, a look into the one folder below runs/.
    assert requests == {"get": 4 * 2 + 1 + 1 + 1, "list": 1, "list_with_delimiter": 8 + 1 + 1 + 1}
    assert listed == [f"workspace/features/{STORE}/index"]
