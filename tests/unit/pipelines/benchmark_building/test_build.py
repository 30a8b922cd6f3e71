"""From a corpus to drafts: enough that pass, the rest with reasons, and nothing asked twice."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.benchmark_building.build import build_drafts, build_key, image_name
from pipelines.benchmark_building.captioners.base import DraftError, DraftRequest
from pipelines.benchmark_building.captioners.template import TemplateCaptioner
from pipelines.benchmark_building.drafts import ITEMS_NAME, KIND, Drafts
from pipelines.benchmark_building.records import BenchmarkTask, Code, Texts
from pipelines.benchmark_building.settings import BuildConfig
from storage.corpus import Corpus
from storage.errors import CorruptObject, DataError, InfrastructureError, ObjectNotFound
from storage.manifest import Manifest, publish, verify_manifest
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION
from tests.object_corpora import drawn_picture
from tests.small_corpora import write_corpus


class Scripted:
    """The template, but for some of its answers; counts what it is asked."""

    is_concurrent = True

    def __init__(self, fail_after: int | None = None, answer: str = "template") -> None:
        self.num_asked = 0
        self._fail_after, self._answer = fail_after, answer
        self._lock = threading.Lock()

    def draft(self, request: DraftRequest) -> Texts:
        with self._lock:
            self.num_asked += 1
            if self._fail_after is not None and self.num_asked > self._fail_after:
                raise InfrastructureError("the endpoint is gone")
        if self._answer == "nothing":
            raise DraftError("reply: expected one JSON object, got 'no'")
        if self._answer == "same":
            return Texts(caption="There is something here that looks quite like many other things do, more or less.")
        return TemplateCaptioner().draft(request)


def test_drafts_are_as_many_as_asked_for_and_whole(drafts: Drafts) -> None:
    assert Counter(item.task for item in drafts.to_review) == dict.fromkeys(BenchmarkTask, 4)
    manifest = verify_manifest(drafts.objects)
    assert manifest.kind == KIND
    assert manifest.facts["captioner"] == "template, version 1"
    assert manifest.facts["passing"] == {task.value: 4 for task in BenchmarkTask}
    num_objected = len(drafts.items) - len(drafts.to_review)
    assert sum(manifest.facts["objected"].values()) == num_objected  # type: ignore[union-attr]
    for item in drafts.items:
        assert drafts.picture(item).startswith(b"\x89PNG")
        assert len(item.prompts) + len(item.targets) + len(item.others) == 4
        assert drafts.item(item.item_id) is item


def test_a_second_build_asks_nobody(corpus: Corpus, drafts: Drafts) -> None:
    captioner = Scripted()
    again = build_drafts(corpus, BuildConfig(num_per_task=4), drafts.objects, captioner=captioner)
    assert captioner.num_asked == 0
    assert again.items == drafts.items


@pytest.mark.parametrize("num_threads", [1, 3])
def test_threads_change_nothing(corpus: Corpus, drafts: Drafts, tmp_path: Path, num_threads: int) -> None:
    config = BuildConfig(num_per_task=4, num_threads=num_threads)
    other = build_drafts(corpus, config, Objects.open(tmp_path / "other"))
    assert other.objects.read(ITEMS_NAME) == drafts.objects.read(ITEMS_NAME)
    assert other.manifest == drafts.manifest


def test_an_interrupted_build_continues_with_what_was_answered(corpus: Corpus, drafts: Drafts, tmp_path: Path) -> None:
    config, output = BuildConfig(num_per_task=4, num_threads=1), Objects.open(tmp_path / "again")
    with pytest.raises(InfrastructureError, match="the endpoint is gone"):
        build_drafts(corpus, config, output, captioner=Scripted(fail_after=5))
    with pytest.raises(ObjectNotFound, match="expected drafts, make them with"):
        Drafts.open(output)
    captioner = Scripted()
    found = build_drafts(corpus, config, output, captioner=captioner)
    assert captioner.num_asked == len(drafts.items) - 5
    assert found.items == drafts.items


def test_drafts_that_fail_are_kept_with_the_reason(corpus: Corpus, tmp_path: Path) -> None:
    config = BuildConfig(num_per_task=2, tasks=(BenchmarkTask.DETAILED_CAPTION,))
    found = build_drafts(corpus, config, Objects.open(tmp_path / "failed"), captioner=Scripted(answer="nothing"))
    assert found.to_review == ()
    assert len(found.items) == 8 * 4  # every candidate was tried
    assert {finding.code for item in found.items for finding in item.findings} == {Code.DRAFT_FAILED}
    assert found.manifest.facts["findings"] == {"draft_failed": 32}
    assert found.items[0].findings[0].detail == "reply: expected one JSON object, got 'no'"


def test_two_regions_of_a_picture_with_one_caption(corpus: Corpus, tmp_path: Path) -> None:
    config = BuildConfig(num_per_task=10, tasks=(BenchmarkTask.DETAILED_CAPTION,))
    found = build_drafts(corpus, config, Objects.open(tmp_path / "same"), captioner=Scripted(answer="same"))
    assert len({item.image_id for item in found.to_review}) == len(found.to_review) == 8
    assert found.manifest.facts["findings"] == {"not_unique": 24}


def test_a_picture_is_not_used_too_often(corpus: Corpus, tmp_path: Path) -> None:
    found = build_drafts(corpus, BuildConfig(max_items_per_picture=2), Objects.open(tmp_path / "few"))
    assert set(Counter(item.image_id for item in found.to_review).values()) == {2}


def test_the_address_follows_from_what_changes_drafts() -> None:
    key = build_key(BuildConfig(), "c")
    assert build_key(BuildConfig(num_threads=9), "c") == key
    assert len({key, build_key(BuildConfig(), "d"), build_key(BuildConfig(seed=1), "c")}) == 3


def test_names_of_pictures() -> None:
    record = drawn_picture(0)
    assert image_name(record) == f"{record.image_id[:24]}.png"
    known = replace(record, coco_id=25, media_type="image/jpeg")
    assert image_name(known) == "000000000025.jpg"
    assert image_name(known, {25}) == f"{record.image_id[:24]}.jpg"


def test_a_corpus_with_nothing_to_ask_about(corpus: Corpus, tmp_path: Path) -> None:
    bare = write_corpus(Objects.open(tmp_path / "bare"), [drawn_picture(0)], "b" * 64)
    with pytest.raises(DataError, match="expected pictures with masks of objects, found none in families of any name"):
        build_drafts(bare, BuildConfig(), Objects.open(tmp_path / "x"))
    with pytest.raises(DataError, match=r"found none in families \('absent',\)"):
        build_drafts(corpus, BuildConfig(families=("absent",)), Objects.open(tmp_path / "y"))
    with pytest.raises(DataError, match=r"expected regions of 40.0% to 50% of their picture, found none in 8 pictures"):
        build_drafts(corpus, BuildConfig(min_area_share=0.4), Objects.open(tmp_path / "z"))


def test_drafts_of_another_kind_or_damaged(drafts: Drafts, tmp_path: Path) -> None:
    other = Objects.open(tmp_path / "other")
    publish(other, Manifest("corpus", "c", SCHEMA_VERSION, {}, {}, ()))
    with pytest.raises(CorruptObject, match=r"expected drafts of a benchmark \(benchmark_drafts\), found corpus"):
        Drafts.open(other)
    first, *rest = drafts.objects.read(ITEMS_NAME).splitlines()
    row = json.loads(first)
    row["task"] = "poem"
    drafts.objects.put(ITEMS_NAME, b"\n".join([json.dumps(row).encode(), *rest]))
    with pytest.raises(CorruptObject, match=r"items.jsonl: line 1: task: Input should be 'detailed_caption', 'mcq' or"):
        Drafts.open(drafts.objects)
