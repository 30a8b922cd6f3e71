"""A benchmark in the making on a real S3 server: interrupted drafts go on, reviewers share a log, exports are whole."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest

from jobs.benchmarks import describe_benchmark, export_reviewed
from pipelines.benchmark_building.build import build_drafts
from pipelines.benchmark_building.captioners.base import DraftRequest
from pipelines.benchmark_building.captioners.template import TemplateCaptioner
from pipelines.benchmark_building.drafts import Drafts
from pipelines.benchmark_building.records import Texts
from pipelines.benchmark_building.review.decisions import Verdict, standing
from pipelines.benchmark_building.review.log import DecisionLog
from pipelines.benchmark_building.review.outcomes import State, outcomes
from pipelines.benchmark_building.settings import BuildConfig
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.errors import InfrastructureError, ObjectNotFound
from storage.manifest import verify_manifest
from storage.objects import Objects
from tests.object_corpora import write_object_corpus

_CONFIG = BuildConfig(num_per_task=3, num_threads=1)


class _Failing:
    """The template, until the endpoint is gone."""

    is_concurrent = False

    def __init__(self, fail_after: int | None = None) -> None:
        self.num_asked, self._fail_after = 0, fail_after

    def draft(self, request: DraftRequest) -> Texts:
        if self.num_asked == self._fail_after:
            raise InfrastructureError("the endpoint is gone")
        self.num_asked += 1
        return TemplateCaptioner().draft(request)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write_object_corpus(Objects.open(tmp_path / "corpus"))


@pytest.fixture
def place(s3_bucket: str) -> str:
    return f"{s3_bucket}/{uuid.uuid4().hex}/drafts"


def test_interrupted_drafts_go_on_and_equal_local_ones(corpus: Corpus, place: str, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="the endpoint is gone"):
        build_drafts(corpus, _CONFIG, Objects.open(place), captioner=_Failing(fail_after=4))
    with pytest.raises(ObjectNotFound, match="expected drafts, make them with"):
        Drafts.open(Objects.open(place))
    rest, whole = _Failing(), _Failing()
    drafts = build_drafts(corpus, _CONFIG, Objects.open(place), captioner=rest)
    local = build_drafts(corpus, _CONFIG, Objects.open(tmp_path / "local"), captioner=whole)
    assert rest.num_asked == whole.num_asked - 4, "what was answered isn't asked again"
    assert verify_manifest(drafts.objects) == local.manifest
    assert drafts.items == local.items
    assert all(drafts.picture(item) == local.picture(item) for item in drafts.items)


def test_several_servers_keep_every_decision_and_the_next_one_finds_them(corpus: Corpus, place: str) -> None:
    drafts = build_drafts(corpus, _CONFIG, Objects.open(place), captioner=_Failing())
    items = drafts.to_review
    # Ada has two windows open, each with a server of its own: they want the same numbers.
    logs = {name: DecisionLog(Objects.open(place)) for name in ("Ada here", "Ada there", "Bo")}

    def review(name: str, chosen: slice) -> None:
        for item in items[chosen]:
            logs[name].decide(name.split()[0], item.item_id, Verdict.ACCEPTED, item.texts)

    work = {"Ada here": slice(0, None, 2), "Ada there": slice(1, None, 2), "Bo": slice(None)}
    threads = [threading.Thread(target=review, args=arguments) for arguments in work.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logs["Bo"].undo("Bo") is not None
    logs["Bo"].decide("Bo", items[-1].item_id, Verdict.REJECTED, reason="blurred")

    later = DecisionLog(Objects.open(place))
    later.refresh()
    ada, bo = (sorted(own, key=lambda decision: decision.number) for _, own in sorted(later.by_reviewer().items()))
    assert [decision.number for decision in ada] == list(range(len(items)))
    assert {decision.item_id for decision in ada} == {item.item_id for item in items}
    assert len(bo) == len(items) + 2, "an undone decision stays in the log"
    assert standing(bo)[items[-1].item_id].reason == "blurred"
    found = outcomes(later.by_reviewer(), [item.item_id for item in items], 2)
    assert [found[item.item_id].state for item in items] == [State.ACCEPTED] * (len(items) - 1) + [State.DISPUTED]


def test_what_was_reviewed_there_is_shown_and_exported(corpus: Corpus, place: str, tmp_path: Path) -> None:
    drafts = build_drafts(corpus, _CONFIG, Objects.open(place), captioner=_Failing())
    log = DecisionLog(drafts.objects)
    for name in ("Ada", "Bo"):
        for item in drafts.to_review:
            log.decide(name, item.item_id, Verdict.ACCEPTED, item.texts)
    assert f"  accepted  {len(drafts.to_review):>6}" in describe_benchmark(place, 2).splitlines()
    shown = export_reviewed(place, tmp_path / "benchmark", 500, 2, NullProgress()).text
    assert "3 detailed_caption, 3 mcq, 3 visual_text_res" in shown
    pictures = {item.image_name for item in drafts.to_review}
    assert {path.name for path in (tmp_path / "benchmark/images").rglob("*.png")} == pictures
