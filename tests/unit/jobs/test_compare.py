"""`sailloft compare` on evaluations in folders: its table, its JSON, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.compare import differences_text
from model.predictor import Answer, Request
from pipelines.evaluation.benchmarks.referring import ReferringConfig
from pipelines.evaluation.comparison import Difference
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.pipeline import evaluate
from pipelines.evaluation.records import Variant
from storage.corpus import Corpus
from storage.errors import ObjectNotFound, SailloftError, UsageError
from storage.objects import Objects
from storage.schema import Task
from tests.object_corpora import HEIGHT_PX, OBJECTS, WIDTH_PX, write_object_corpus

Evaluated = Callable[..., str]


class _Shifted:
    """Draws the first object of the category asked for, so many pixels too far to the right."""

    def __init__(self, by_px: int) -> None:
        self._by_px = by_px

    def answer(self, requests: Sequence[Request], max_new_tokens: int = 64) -> list[Answer]:
        return [Answer("It is [SEG].", (self._mask(request.text),), (0.9,)) for request in requests]

    def _mask(self, text: str) -> np.ndarray:
        mask = np.zeros((HEIGHT_PX, WIDTH_PX), np.bool_)
        x0, y0, x1, y1 = next(box for name, box, _ in OBJECTS if name in text)
        mask[y0:y1, x0 + self._by_px : x1 + self._by_px] = True
        return mask


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write_object_corpus(Objects.open(tmp_path / "corpus"), task=Task.SEMANTIC)


@pytest.fixture
def evaluated(tmp_path: Path, corpus: Corpus) -> Evaluated:
    """Makes the evaluation of a student in a folder; its checkpoint is in memory, so that no Ray is needed."""

    def make(name: str, by_px: int, *, of: Corpus = corpus, max_new_tokens: int = 64) -> str:
        benchmark = ReferringConfig(tasks=(Task.SEMANTIC,), variants=(Variant.STANDARD,))
        config = EvaluationConfig(benchmarks=(benchmark,), num_resamples=50, max_new_tokens=max_new_tokens)
        checkpoint = Objects.open(f"memory://{tmp_path.name}-{name}")
        checkpoint.create("config.json", name.encode())
        evaluate(of, checkpoint, config, Objects.open(tmp_path / name), load=lambda *_: _Shifted(by_px))
        return str(tmp_path / name)

    return make


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["compare", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def _refused(*arguments: str) -> SailloftError:
    result = CliRunner().invoke(app, ["compare", *arguments])
    assert isinstance(result.exception, SailloftError)
    assert result.stdout == ""
    return result.exception


def test_the_table_shows_both_scores_their_difference_and_a_verdict(evaluated: Evaluated) -> None:
    first, second = evaluated("far", 8), evaluated("near", 2)
    lines = _run(first, second).splitlines()
    assert lines[:3] == [f"first:  {first}", f"second: {second}", ""]
    assert lines[3].split()[:5] == ["benchmark", "metric", "first", "second", "difference"]
    rows = {line.split()[1]: line for line in lines[4:]}
    assert set(rows) == {"cIoU", "gIoU", "Pr@0.5", "Pr@0.6", "Pr@0.7", "Pr@0.8", "Pr@0.9"}
    assert rows["cIoU"].endswith("24  better")
    assert "+" in rows["cIoU"]
    assert rows["Pr@0.5"].endswith("within noise"), "both find everything at that threshold"
    assert len({line.index("24  ") for line in lines[4:]}) == 1, "columns stand below each other"
    assert _run(second, first).splitlines()[4].endswith("worse")


def test_json_holds_fractions_and_intervals(evaluated: Evaluated) -> None:
    rows = json.loads(_run(evaluated("far", 8), evaluated("near", 2), "--json"))
    (ciou,) = [row for row in rows if row["metric"] == "cIoU"]
    assert ciou["value"] == pytest.approx(ciou["second"] - ciou["first"])
    assert 0 < ciou["low"] <= ciou["value"] <= ciou["high"] < 1
    assert ciou["beyond_noise"] is True
    assert (ciou["variant"], ciou["num_samples"], ciou["num_images"]) == ("standard", 24, 8)


def test_other_samples_are_refused_by_name(evaluated: Evaluated, tmp_path: Path) -> None:
    smaller = write_object_corpus(Objects.open(tmp_path / "smaller"), num_pictures=6, task=Task.SEMANTIC)
    error = _refused(evaluated("all", 2), evaluated("some", 2, of=smaller))
    assert isinstance(error, UsageError)
    assert "expected the same questions of both, got 6 of the first alone and 0 of the second alone" in str(error)
    assert "such as referring / sample" in str(error)


def test_other_settings_are_refused_by_name(evaluated: Evaluated) -> None:
    error = _refused(evaluated("one", 2), evaluated("two", 2, max_new_tokens=9))
    assert isinstance(error, UsageError)
    assert "got others in max_new_tokens; evaluate both with the same `evaluation` part of the recipe" in str(error)


def test_what_is_no_evaluation_is_refused(evaluated: Evaluated, corpus: Corpus, tmp_path: Path) -> None:
    whole = evaluated("whole", 2)
    error = _refused(whole, corpus.objects.url)
    assert isinstance(error, UsageError)
    assert "expected a finished evaluation, got a corpus" in str(error)
    unfinished = Objects.open(tmp_path / "unfinished")
    name = "predictions/trained-00000.parquet"
    unfinished.create(name, Objects.open(whole).read(name))
    error = _refused(whole, unfinished.url)
    assert isinstance(error, ObjectNotFound)
    assert "expected a finished evaluation, got no manifest" in str(error)


def test_predictions_that_are_gone_are_named(evaluated: Evaluated) -> None:
    first, second = evaluated("whole", 2), evaluated("torn", 3)
    (Path(second) / "predictions/trained-00000.parquet").unlink()
    error = _refused(first, second)
    assert isinstance(error, ObjectNotFound)
    assert "torn/predictions/trained-00000.parquet" in str(error)


def test_one_folder_is_wrong_usage() -> None:
    result = CliRunner().invoke(app, ["compare", "somewhere"])
    assert result.exit_code == 2
    assert "SECOND" in result.output


def test_less_of_a_loss_is_better() -> None:
    row = Difference(
        benchmark="reading",
        variant=Variant.STANDARD,
        metric="text_loss",
        first=1.25,
        second=1.0,
        low=-0.3,
        high=-0.2,
        share_above=0.0,
        num_samples=40,
        num_images=20,
    )
    told = differences_text([row], "a", "b")
    assert "1.25" in told  # nats as they are
    assert told.endswith("better")
    worse = replace(row, metric="accuracy")
    assert differences_text([worse], "a", "b").endswith("worse")
