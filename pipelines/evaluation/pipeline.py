"""The evaluation stage: Ray Data inference with an actor pool, then scores with intervals.

The driver plans which questions go to which file; a task owns one whole file of predictions and
writes it create-only. A file that is there already isn't asked for again.
"""

from __future__ import annotations

import json
import logging
import math
import pickle
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy

from pipelines.evaluation.benchmarks.base import with_regions
from pipelines.evaluation.config import EvaluationConfig, evaluation_key, published_as
from pipelines.evaluation.gaps import find_gaps
from pipelines.evaluation.inference import (
    LoadStudent,
    Student,
    answer_questions,
    load_student,
    parquet_bytes,
    read_shard,
    split_in_shards,
    write_shard,
)
from pipelines.evaluation.metrics.table import score_table
from pipelines.evaluation.records import Gap, Prediction, Question, Score, Variant, Wording, scores_to_table
from pipelines.evaluation.score_sheet import SHEET_NAME, score_sheet
from pipelines.observer import NULL_OBSERVER, Observer, current_observer
from pipelines.progress import NullProgress, Progress
from storage.corpus import Corpus
from storage.errors import DataError
from storage.keys import Json, canonical_json, content_key
from storage.manifest import FileEntry, Manifest, publish, read_manifest
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, Sample

__all__ = ["evaluate", "plan_questions"]

_LOG = logging.getLogger(__name__)


def evaluate(
    corpus: Corpus,
    checkpoint: Objects,
    config: EvaluationConfig,
    output: Objects,
    progress: Progress | None = None,
    *,
    load: LoadStudent = load_student,
) -> Manifest:
    """Examines a checkpoint on a corpus.

    Writes `predictions/*.parquet`, the scores (`scores.parquet`, `.json`), the table with published ones beside them
    (`scores.md`, `.csv`, `.txt`) and the manifest, whose facts hold the scores as well. An output that is there already
    is returned as it is. A `memory://` store belongs to one process, so that such a run stays in this one and needs no
    Ray.

    Args:
        corpus: questions, truths and pictures.
        checkpoint: a folder that `Predictor.load` reads.
        config: the benchmarks.
        output: prefix of this evaluation, its address included.
        progress: told about answered questions.
        load: makes the student; another one for tests.

    Raises:
        DataError: the corpus holds nothing that the benchmarks ask about.
        UsageError: this machine lacks what a score needs.
    """
    found = read_manifest(output)
    if found is not None:
        return found
    progress = progress or NullProgress()
    for benchmark in config.benchmarks:
        benchmark.check()
    benchmarks = config.built()
    questions = plan_questions(corpus, config, default_wording(config))
    gaps = find_gaps(corpus, config, questions)
    if not questions:
        reasons = "; ".join(f"{gap.benchmark}: {gap.reason}" for gap in gaps)
        raise DataError(
            f"{corpus.objects.url}: expected samples for the benchmarks of the recipe, got none ({reasons}); "
            "correct `evaluation.benchmarks`, or curate the families that they ask about"
        )
    _tell(gaps, config)
    shards = split_in_shards(questions, config.questions_per_shard)
    _answer_missing(shards, corpus, checkpoint, config, output, progress, load)
    rows, files = _collect(output, list(shards))
    scores = score_table(
        rows, benchmarks, num_resamples=config.num_resamples, level=config.interval_level, seed=config.seed
    )
    return _publish(corpus, checkpoint, config, output, scores, gaps, files, len(questions))


def _tell(gaps: Sequence[Gap], config: EvaluationConfig) -> None:
    """Names what the benchmarks miss: a warning where the recipe lists them; a suite takes what there is."""
    level = logging.WARNING if config.suite is None else logging.INFO
    for gap in gaps:
        scored = "it gets no score" if gap.whole else "it is scored without"
        _LOG.log(level, "benchmark %s: %s; %s", gap.benchmark, gap.reason, scored)


def plan_questions(corpus: Corpus, config: EvaluationConfig, wording: Wording) -> list[Question]:
    """All questions of all benchmarks, in a fixed order."""
    table = corpus.image_table(["image_id", "height", "width"])
    columns = (table[name].to_pylist() for name in ("image_id", "height", "width"))
    sizes = {image_id: (height, width) for image_id, height, width in zip(*columns, strict=True)}
    questions: list[Question] = []
    for benchmark in config.benchmarks:
        found = corpus.samples(families=benchmark.families, splits=benchmark.splits)
        samples = [s if s.image_id is None else with_regions(s, *sizes[s.image_id]) for s in found]
        questions += benchmark.build().questions(samples, wording)
    return questions


def default_wording(config: EvaluationConfig) -> Wording:
    """The first wording of each task in the recipe's set of sentences."""
    from model.wordings import question_of

    def wording(sample: Sample, turn_index: int) -> str:
        return question_of(sample, turn_index, None, config.wording)

    return wording


class _Examiner:
    """An actor that holds the students it needs and answers one shard per call."""

    def __init__(
        self,
        corpus: Corpus,
        checkpoint: Objects,
        config: EvaluationConfig,
        output: Objects,
        load: LoadStudent,
        observer: Observer = NULL_OBSERVER,
    ) -> None:
        self._observer = observer
        self._stack = ExitStack()
        self._stack.enter_context(observer.here("examiner"))  # until the process ends
        self._corpus, self._checkpoint, self._config, self._output = corpus, checkpoint, config, output
        self._load = load
        self._students: dict[bool, Student] = {}
        self._benchmarks = config.built()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        counts: list[int] = []
        with self._observer.here("examiner"):
            for name, data in zip(batch["name"], batch["questions"], strict=True):
                questions = cast("list[Question]", pickle.loads(bytes(data)))
                self.answer(str(name), questions)
                counts.append(len(questions))
        return {"name": batch["name"], "num_questions": np.array(counts)}

    def answer(self, name: str, questions: list[Question]) -> None:
        """Answers the questions of one file and writes it."""
        rows = answer_questions(
            questions,
            self._corpus,
            self._student(questions[0].variant is Variant.UNTRAINED),
            self._benchmarks,
            questions_per_batch=self._config.questions_per_batch,
            max_new_tokens=self._config.max_new_tokens,
        )
        write_shard(self._output, name, rows)

    def _student(self, untrained: bool) -> Student:
        if untrained not in self._students:
            self._students[untrained] = self._load(self._checkpoint, self._config.device, untrained)
        return self._students[untrained]


def _answer_missing(
    shards: Mapping[str, list[Question]],
    corpus: Corpus,
    checkpoint: Objects,
    config: EvaluationConfig,
    output: Objects,
    progress: Progress,
    load: LoadStudent,
) -> None:
    present = {info.key for info in output.list("predictions")}
    missing = [name for name in shards if name not in present]
    total = sum(len(questions) for questions in shards.values())
    done = total - sum(len(shards[name]) for name in missing)
    progress.update(done, total, unit="questions")
    if not missing:
        return
    if any(url.startswith("memory:") for url in (output.url, corpus.objects.url, checkpoint.url)):
        examiner = _Examiner(corpus, checkpoint, config, output, load)
        for name in missing:
            examiner.answer(name, shards[name])
            done += len(shards[name])
            progress.update(done, total, unit="questions")
        return
    observer = current_observer()
    num_actors = min(config.num_actors, len(missing))
    dataset = ray.data.from_items(
        [{"name": name, "questions": pickle.dumps(shards[name])} for name in missing], override_num_blocks=len(missing)
    ).map_batches(
        cast(Any, _Examiner),
        batch_size=1,
        compute=ActorPoolStrategy(size=num_actors),
        num_cpus=config.cpus_per_actor,
        num_gpus=config.gpus_per_actor,
        fn_constructor_args=(corpus, checkpoint, config, output, load, observer),
    )
    for row in dataset.iter_rows():
        done += int(row["num_questions"])
        observer.count("sailloft_questions_total", int(row["num_questions"]))
        progress.update(done, total, unit="questions")
        _LOG.info("evaluate: %d of %d questions answered", done, total)


def _collect(output: Objects, names: list[str]) -> tuple[list[Prediction], list[FileEntry]]:
    rows: list[Prediction] = []
    files: list[FileEntry] = []
    for name in names:
        own, entry = read_shard(output, name)
        rows += own
        files.append(entry)
    return rows, files


def _publish(
    corpus: Corpus,
    checkpoint: Objects,
    config: EvaluationConfig,
    output: Objects,
    scores: list[Score],
    gaps: list[Gap],
    files: list[FileEntry],
    num_questions: int,
) -> Manifest:
    facts = cast("list[Json]", [asdict(score) | {"variant": score.variant.value} for score in scores])
    facts = [_finite(cast("dict[str, Json]", fact)) for fact in facts]
    table = scores_to_table(scores)
    sheet = score_sheet(scores, published_as(config, scores), corpus.manifest.facts, config.interval_level, gaps)
    for name, data, num_rows in (
        ("scores.parquet", parquet_bytes(table), len(scores)),
        ("scores.json", json.dumps(facts, indent=1, sort_keys=True).encode(), None),
        ("scores.md", sheet.markdown().encode(), None),
        ("scores.csv", sheet.csv().encode(), None),
        (SHEET_NAME, sheet.text().encode(), None),
    ):
        output.create(name, data)
        files.append(FileEntry.of(name, output.read(name), num_rows))
    checkpoint_key = input_key(checkpoint)
    return publish(
        output,
        Manifest(
            kind="evaluation",
            key=evaluation_key(config, corpus.manifest.key, checkpoint_key),
            schema_version=SCHEMA_VERSION,
            recipe=cast("dict[str, Json]", json.loads(canonical_json(cast("Json", config.hashed_fields())))),
            inputs={"corpus": corpus.manifest.key, "checkpoint": checkpoint_key},
            files=tuple(files),
            facts={
                "scores": facts,
                "gaps": cast("list[Json]", [asdict(gap) for gap in gaps]),
                "num_questions": num_questions,
            },
        ),
    )


def _finite(fact: dict[str, Json]) -> Json:
    """JSON has no NaN: an interval that can't be had is null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in fact.items()
    }


def input_key(checkpoint: Objects) -> str:
    """What identifies a checkpoint: the key of its manifest, or of its files where it has none."""
    manifest = read_manifest(checkpoint)
    if manifest is not None:
        return manifest.key
    files = {info.key: FileEntry.of(info.key, checkpoint.read(info.key)).sha256 for info in checkpoint.list()}
    return content_key(cast("Json", files))
