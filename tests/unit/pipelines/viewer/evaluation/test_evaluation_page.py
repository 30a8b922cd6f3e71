"""The pages of one evaluation and of two: order, search, figures, pictures; and what they refuse."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pipelines.evaluation.records import Prediction
from pipelines.viewer.application import create_application
from pipelines.viewer.evaluation.page import EvaluationPage
from pipelines.viewer.evaluation.tables import PredictionFiles
from pipelines.viewer.pages import PageOptions, open_page
from storage.corpus import Corpus
from storage.errors import DataError, UsageError
from storage.manifest import Manifest, publish, read_manifest
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION
from tests.many_samples import write_many_samples
from tests.object_corpora import OBJECTS, WIDTH_PX
from tests.toy_evaluations import iou_of_shift, shifted_predictions, write_evaluation
from tests.toy_predictions import toy_prediction

_PORT = 8400
_NUM = 60
_EVIL = "<script>document.title='evil'</script>"
_BETTER, _WORSE = 3, 7


def _second_shift(number: int) -> int:
    """B finds the third question's object whole and the seventh one's hardly; else it answers as A."""
    return {_BETTER: 0, _WORSE: 20}.get(number, 8)


class Workspace:
    """A corpus and two evaluations where a run puts them."""

    def __init__(self, folder: Path) -> None:
        key = "c0" * 32
        self.root = folder
        self.corpus: Corpus = write_many_samples(Objects.open(folder / "curate" / key), _NUM, 5)
        self.first_rows = shifted_predictions(self.corpus, lambda number: 8)
        self.first = write_evaluation(Objects.open(folder / "evaluate" / "a"), self.first_rows, key)
        rows = shifted_predictions(self.corpus, _second_shift)
        self.second = write_evaluation(Objects.open(folder / "evaluate" / "b"), rows[::-1], key)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("workspace"))


def _client(page: EvaluationPage) -> TestClient:
    client = TestClient(create_application(page, "token", _PORT), base_url=f"http://127.0.0.1:{_PORT}")
    client.get("/?token=token")
    return client


def _opened(url: str, **options: str) -> TestClient:
    page = open_page(url, PageOptions(**options))
    assert isinstance(page, EvaluationPage)
    return _client(page)


@pytest.fixture(scope="module")
def both(workspace: Workspace) -> TestClient:
    return _opened(workspace.first.url, against=workspace.second.url)


@pytest.fixture(scope="module")
def one(workspace: Workspace) -> TestClient:
    return _opened(workspace.first.url)


def _numbers(html: str) -> list[int]:
    """Of the questions that are listed, as their words end."""
    return [int(number) for number in re.findall(r"<h2><a [^>]*>[^<]*number (\d+)</a>", html)]


def _num(html: str) -> int:
    found = re.search(r'id="num">([\d,]+)', html)
    assert found is not None
    return int(found[1].replace(",", ""))


def test_biggest_gains_then_losses_of_the_second_come_first(both: TestClient) -> None:
    html = both.get("/evaluation/").text
    assert _num(html) == _NUM  # the controls are none
    assert _numbers(html)[0] == _BETTER
    assert "B is better on 1, worse on 1, equal on 58" in html
    assert f"{1 - iou_of_shift(_BETTER, 8):+.2f}" in html
    assert _numbers(both.get("/evaluation/?order=losses").text)[0] == _WORSE
    assert set(_numbers(both.get("/evaluation/?order=apart").text)[:2]) == {_BETTER, _WORSE}
    sums = [iou_of_shift(number, 8) + iou_of_shift(number, _second_shift(number)) for number in range(_NUM)]
    assert sums[_numbers(both.get("/evaluation/?order=worst").text)[0]] == min(sums)
    assert _numbers(both.get("/evaluation/?order=nonsense").text)[0] == _BETTER


def test_means_are_those_of_what_is_found(both: TestClient) -> None:
    html = both.get("/evaluation/?words=red+cup").text
    meant = [number for number in range(_NUM) if number % 4 == 0]
    assert sorted(_numbers(html)) == meant
    mean = np.mean([iou_of_shift(number, 8) for number in meant])
    assert f"A {mean:.3f}, B {mean:.3f}. B is better on 0, worse on 0, equal on 15" in html


@pytest.mark.parametrize(
    ("query", "num"),
    [
        ("benchmark=referring", 30),
        ("family=refcoco", 20),
        ("split=val", 6),
        ("task=referring", 60),
        ("words=nobody", 0),
    ],
)
def test_filters(both: TestClient, query: str, num: int) -> None:
    assert _num(both.get(f"/evaluation/?{query}").text) == num


def test_pages_show_every_question_once_and_keep_their_order(both: TestClient) -> None:
    found: list[int] = []
    address: str | None = "/evaluation/?order=losses"
    while address is not None:
        html = both.get(address).text
        found += _numbers(html)
        following = re.search(r'rel="next" href="([^"]+)"', html)
        address = following[1].replace("&amp;", "&") if following else None
    assert (len(found), sorted(found), found[0]) == (_NUM, list(range(_NUM)), _WORSE)
    assert "There are no more pages" in both.get("/evaluation/?page=77").text


def test_one_evaluation_by_score_and_certainty(one: TestClient, workspace: Workspace) -> None:
    by_score = sorted(range(_NUM), key=lambda number: iou_of_shift(number, 8))
    worst, best = (_numbers(one.get(f"/evaluation/?order={order}").text) for order in ("worst", "best"))
    assert iou_of_shift(worst[0], 8) == iou_of_shift(by_score[0], 8)
    assert iou_of_shift(best[0], 8) == iou_of_shift(by_score[-1], 8)
    assert _numbers(one.get("/evaluation/?order=unsure").text)[:3] == [0, 50, 1]
    assert "B is better" not in one.get("/evaluation/").text


def test_an_answer_without_masks_is_least_certain_last(tmp_path: Path) -> None:
    rows = [toy_prediction(0), toy_prediction(1, mask_scores=(0.9, 0.4)), toy_prediction(2, mask_scores=(0.5,))]
    named = [replace(row, expression=f"number {place}") for place, row in enumerate(rows)]
    html = _opened(write_evaluation(Objects.open(tmp_path), named, "c").url).get("/evaluation/?order=unsure").text
    assert _numbers(html) == [1, 2, 0]
    assert 'id="without"' in html  # no corpus lies beside it


def _pixels(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def _row_of(client: TestClient, number: int) -> str:
    html = client.get(f'/evaluation/?words="number+{number}"').text
    found = re.search(rf'href="/evaluation/rows/(\d+)[^"]*">[^<]*number {number}<', html)
    assert found is not None
    return found[1]


def test_pictures_show_truth_and_each_answer(both: TestClient) -> None:
    row = _row_of(both, _BETTER)
    asked, truth, first, second = (
        _pixels(both.get(f"/evaluation/rows/{row}/small/{what}.jpg").content)
        for what in ("asked", "truth", "first", "second")
    )
    x0, y0, x1, y1 = OBJECTS[_BETTER][1]
    scale = asked.shape[1] / WIDTH_PX
    inside = np.zeros(asked.shape[:2], bool)
    margin = round(4 * scale)
    inside[
        round(y0 * scale) + margin : round(y1 * scale) - margin, round(x0 * scale) + margin : round(x1 * scale) - margin
    ] = True
    lit = [(np.abs(shown - asked).max(axis=-1) < 30)[inside].mean() for shown in (truth, first, second)]
    assert lit[0] > 0.98
    assert lit[2] > 0.98  # B found it whole
    assert 0.8 < lit[1] < 0.97  # A lies 8 px to the right of its 120
    assert np.abs(truth - asked)[~inside].mean() > 20  # the rest is darkened
    large = _pixels(both.get(f"/evaluation/rows/{row}/large/second.jpg").content)
    assert large.shape[0] > second.shape[0]


def test_one_question_whole(both: TestClient) -> None:
    html = both.get(f"/evaluation/rows/{_row_of(both, _WORSE)}?order=losses&page=2").text
    assert "It is [SEG], 20 px to the right." in html
    assert "It is [SEG], 8 px to the right." in html
    assert 'href="/evaluation/?order=losses&amp;page=2" id="back"' in html


@pytest.mark.parametrize(
    "address", ["rows/9999", "rows/0/huge/truth.jpg", "rows/0/small/third.jpg", "rows/9999/small/truth.jpg"]
)
def test_what_is_not_there(both: TestClient, one: TestClient, address: str) -> None:
    assert both.get(f"/evaluation/{address}").status_code == 404
    assert one.get("/evaluation/rows/0/small/second.jpg").status_code == 404


def test_words_of_data_are_text(workspace: Workspace, tmp_path: Path) -> None:
    rows = [replace(row, expression=_EVIL, question=_EVIL, answer=_EVIL) for row in workspace.first_rows[:3]]
    evaluation = write_evaluation(Objects.open(tmp_path), rows, "c0" * 32)
    client = _opened(evaluation.url, corpus=workspace.corpus.objects.url)
    for address in ("/evaluation/", "/evaluation/rows/0"):
        html = client.get(address).text
        assert _EVIL not in html
        assert "&lt;script&gt;" in html
    assert client.get("/evaluation/rows/0/small/truth.jpg").status_code == 200


def test_answers_in_words_and_absent_targets(workspace: Workspace, tmp_path: Path) -> None:
    row = workspace.first_rows[0]
    words = replace(
        row, num_targets=0, masks=(), mask_scores=(), truth_text="a red cup", answer="a cup", prompts=row.masks
    )
    absent = replace(row, sample_id="s", no_target=True, predicted_no_target=True, score=1.0, expression="a unicorn")
    evaluation = write_evaluation(Objects.open(tmp_path), [words, absent], "c0" * 32)
    client = _opened(evaluation.url, corpus=workspace.corpus.objects.url)
    html = client.get("/evaluation/").text
    assert "a red cup" in html
    assert "pointed at" in html
    assert "right: no target" in html
    assert client.get("/evaluation/rows/0/small/asked.jpg").status_code == 200


def test_questions_of_one_alone_are_counted(workspace: Workspace, tmp_path: Path) -> None:
    other = write_evaluation(Objects.open(tmp_path), workspace.first_rows[:10], "another corpus")
    html = _opened(workspace.first.url, against=other.url).get("/evaluation/").text
    assert _num(html) == 10
    assert "50 more answers are to questions that one of the two was not asked" in html
    assert "on different corpora" in html


def test_evaluations_that_share_nothing(workspace: Workspace, tmp_path: Path) -> None:
    other = write_evaluation(Objects.open(tmp_path), [toy_prediction(0)], "c0" * 32)
    with pytest.raises(UsageError, match=r"expected answers to questions of .*, got none; evaluate both on the same"):
        open_page(workspace.first.url, PageOptions(against=other.url))


def test_another_kind_against_it(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"--against .*: expected two outputs of one kind, .* got a evaluation and a corpus"
    ):
        open_page(workspace.first.url, PageOptions(against=workspace.corpus.objects.url))
    with pytest.raises(UsageError, match="got a corpus and a corpus"):
        open_page(workspace.corpus.objects.url, PageOptions(against=workspace.corpus.objects.url))


def test_a_sample_that_the_corpus_lacks(workspace: Workspace, tmp_path: Path) -> None:
    rows: list[Prediction] = [replace(workspace.first_rows[0], truth_sample_id="f" * 64)]
    evaluation = write_evaluation(Objects.open(tmp_path), rows, "c0" * 32)
    client = _opened(evaluation.url, corpus=workspace.corpus.objects.url)
    answer = client.get("/evaluation/rows/0/small/truth.jpg")
    assert answer.status_code == 500
    assert "--corpus names another corpus" in answer.text


def test_predictions_of_nothing_and_of_another_version(tmp_path: Path) -> None:
    empty = Objects.open(tmp_path / "empty")
    publish(empty, Manifest("evaluation", "e", SCHEMA_VERSION, {}, {}, ()))
    manifest = read_manifest(empty)
    assert manifest is not None
    with pytest.raises(DataError, match="expected predictions, got none; evaluate again"):
        PredictionFiles(empty, manifest).table()
