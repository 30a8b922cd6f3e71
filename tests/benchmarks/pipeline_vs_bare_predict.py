"""The evaluation pipeline against a bare loop that decodes pictures and predicts, both on one core."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.session import ClusterConfig, ray_session
from model.checkpoint import load_config
from model.config import StudentConfig
from model.flops import attended_pairs, layer_flops_per_token, mask_feature_flops_per_patch, student_flops
from model.packing import collate
from model.predictor import Predictor, Request
from pipelines.evaluation.benchmarks.referring import ReferringConfig
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.inference import Student, load_student, picture_of, read_predictions
from pipelines.evaluation.pipeline import default_wording, evaluate, plan_questions
from pipelines.evaluation.records import Variant
from storage.corpus import Corpus, write_images, write_samples
from storage.keys import Json
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, Sample, Task, Turn
from tests.benchmarks.answering_student import ANSWER, write_answering_student
from tests.benchmarks.measuring import (
    Figures,
    Options,
    Seconds,
    compared_times,
    fixed_threads,
    in_fresh_process,
    judged,
    machine,
)
from tests.small_corpora import box_region, noise_picture

__all__ = ["pipeline_vs_bare_predict"]

_PER_IMAGE = 3
_NEW_TOKENS = 16
_CORE = 0
"""Where whoever predicts runs, so that neither side is helped by a second core."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Workload:
    """What both sides do."""

    num_images: int
    size_px: tuple[int, int]
    questions_per_batch: int
    student: StudentConfig
    pinned: bool

    @property
    def num_questions(self) -> int:
        return self.num_images * _PER_IMAGE

    @property
    def config(self) -> EvaluationConfig:
        return EvaluationConfig(
            benchmarks=(ReferringConfig(variants=(Variant.STANDARD,)),),
            questions_per_shard=self.questions_per_batch,
            questions_per_batch=self.questions_per_batch,
            max_new_tokens=_NEW_TOKENS,
        )


_STUDENT = StudentConfig(
    hidden_size=256, intermediate_size=768, num_layers=4, max_side_px=512, mask_stride_px=8, mask_dim=128
)
_TINY_STUDENT = StudentConfig(
    hidden_size=32, intermediate_size=48, num_layers=1, num_attention_heads=2, num_key_value_heads=1, max_side_px=64
)
_WHOLE = _Workload(40, (480, 640), 24, _STUDENT, pinned=hasattr(os, "sched_setaffinity"))
_TINY = _Workload(4, (24, 32), 6, _TINY_STUDENT, pinned=False)


def pipeline_vs_bare_predict(options: Options) -> Figures:
    """Questions per second of both, in turn; tiny runs stay in this process."""
    work, repeats = (_TINY, 1) if options.tiny else (_WHOLE, options.times(3))
    rates = {"pipeline": Seconds(), "bare predict": Seconds()}
    phases: dict[str, list[float]] = {"start": [], "answers": [], "scores": []}
    with contextlib.ExitStack() as stack:
        stack.enter_context(fixed_threads(options.num_threads))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if not options.tiny:
            stack.enter_context(ray_session(ClusterConfig()))
        place = f"memory://{folder.name}" if options.tiny else str(folder)
        corpus = _corpus(f"{place}/corpus", work)
        checkpoint = write_answering_student(f"{place}/student", work.student)
        for repeat in range(repeats):
            bare = _bare if options.tiny else _bare_in_fresh_process
            _note(rates["bare predict"], work, *bare(corpus, checkpoint, work, options.num_threads))
            output = Objects.open(f"{place}/scores{repeat}")
            spent, cpu_s = _pipeline(corpus, checkpoint, work, output, folder / f"loaded{repeat}")
            _note(rates["pipeline"], work, spent["answers"] + spent["scores"], cpu_s)
            for name, seconds in spent.items():
                phases[name].append(seconds)
            answered = read_predictions(output)
            assert len(answered) == work.num_questions
            assert all(row.answer == ANSWER and len(row.masks) == 1 for row in answered), "whole answers"
            last = {name: (round(found.wall[-1], 3), round(found.cpu[-1], 3)) for name, found in rates.items()}
            logger.info("repeat %d of %d, questions/s by wall and by processor time: %s", repeat + 1, repeats, last)
        service_s = 1 / statistics.median(rates["bare predict"].cpu)
        facts = _facts(work, checkpoint, corpus, service_s)
    figures, ratio = compared_times(rates, "questions/s", ("pipeline", "bare predict"))
    return {
        "machine": machine(options, repeats),
        "workload": facts,
        **figures,
        "pipeline_seconds": {name: round(statistics.median(found), 3) for name, found in phases.items()},
        "ratio": judged(ratio, at_least=0.9),
    }


def _facts(work: _Workload, checkpoint: Objects, corpus: Corpus, service_s: float) -> dict[str, Json]:
    height, width = work.size_px
    size = work.student
    return {
        "questions": work.num_questions,
        "pictures": f"{work.num_images} of {width} x {height} px, {_PER_IMAGE} questions each",
        "student": f"hidden size {size.hidden_size}, {size.num_layers} layers, patches of {size.patch_size_px} px",
        "gflop_per_question": round(_flops(work, checkpoint, corpus) / 1e9, 3),
        "bare_processor_seconds_per_question": round(service_s, 4),
        "answer": ANSWER,
        "questions_per_batch": work.questions_per_batch,
        "processes": "one on each side predicts, "
        + (f"on core {_CORE} alone" if work.pinned else "not bound to a core"),
        "what": "bare: decode and predict, in the same batches. Pipeline: read, decode, predict, judge, encode masks, "
        "write Parquet, read it, score with 1,000 draws, write tables and manifest. Both from the moment that the "
        "student is loaded; `start` are the seconds until then, of Ray's actor and its imports. Processor time is that "
        "of the process that predicts, and of the driver while it scores",
    }


def _flops(work: _Workload, checkpoint: Objects, corpus: Corpus) -> int:
    """Operations of one question: the prompt, the tokens of the answer, the mask features of the picture."""
    predictor = Predictor.load(checkpoint)
    question = plan_questions(corpus, work.config, default_wording(work.config))[0]
    messages: list[Any] = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.text}]}]
    text = predictor.processor.apply_chat_template(messages)
    row = predictor.processor.encode(text, [picture_of(corpus.image(question.image_id))])
    inputs, _ = collate([row], predictor.tokenizer.end_of_text)
    config = load_config(checkpoint)
    num_new = len(predictor.tokenizer.encode(ANSWER)) + 1
    prompt = student_flops(config, inputs, num_new, pairs=attended_pairs(inputs.structure)).total
    masks = len(inputs.patches) * mask_feature_flops_per_patch(config)
    return prompt + masks + (num_new - 1) * config.num_layers * layer_flops_per_token(config)


class _TimedLoad:
    """Loads the student, and notes when that is done; a pinned one stays on its core."""

    def __init__(self, path: Path, pinned: bool) -> None:
        self._path, self._pinned = path, pinned

    def __call__(self, checkpoint: Objects, device: str, untrained: bool) -> Student:
        _stay_on_core(self._pinned)
        student = load_student(checkpoint, device, untrained)
        self._path.write_text(json.dumps([time.time(), time.process_time(), os.getpid()]))
        return student


class _LastAnswer:
    """Notes when the last report of answers came, and what the process that answers had spent by then.

    Args:
        loaded: where `_TimedLoad` writes.
    """

    def __init__(self, loaded: Path) -> None:
        self._loaded = loaded
        self.at_s = self.own_cpu_s = self.answering_cpu_s = 0.0

    def update(self, done: int, total: int, **facts: object) -> None:
        self.at_s, self.own_cpu_s = time.time(), time.process_time()
        if self._loaded.exists():
            _, before_s, process = json.loads(self._loaded.read_text())
            self.answering_cpu_s = _processor_seconds(process) - before_s


def _processor_seconds(process: int) -> float:
    """Of all threads of a process of this machine, as Linux tells; NaN elsewhere."""
    stat = Path(f"/proc/{process}/stat")
    if not stat.exists():
        return float("nan")
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _pipeline(
    corpus: Corpus, checkpoint: Objects, work: _Workload, output: Objects, loaded: Path
) -> tuple[dict[str, float], float]:
    """Seconds of each phase, and of processor from the loaded student to the end."""
    answers = _LastAnswer(loaded)
    start_s = time.time()
    evaluate(corpus, checkpoint, work.config, output, answers, load=_TimedLoad(loaded, work.pinned))
    end_s, end_cpu_s = time.time(), time.process_time()
    loaded_s = json.loads(loaded.read_text())[0]
    spent = {"start": loaded_s - start_s, "answers": answers.at_s - loaded_s, "scores": end_s - answers.at_s}
    return spent, answers.answering_cpu_s + end_cpu_s - answers.own_cpu_s


def _note(rates: Seconds, work: _Workload, wall_s: float, cpu_s: float) -> None:
    rates.wall.append(work.num_questions / wall_s)
    rates.cpu.append(work.num_questions / cpu_s)


def _bare_in_fresh_process(
    corpus: Corpus, checkpoint: Objects, work: _Workload, num_threads: int
) -> tuple[float, float]:
    return in_fresh_process(_bare, corpus, checkpoint, work, num_threads)


def _bare(corpus: Corpus, checkpoint: Objects, work: _Workload, num_threads: int) -> tuple[float, float]:
    """Seconds, and those of processor, from the loaded student to the last answer."""
    _stay_on_core(work.pinned)
    predictor = Predictor.load(checkpoint)
    questions = plan_questions(corpus, work.config, default_wording(work.config))
    with fixed_threads(num_threads):
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        for start in range(0, len(questions), work.questions_per_batch):
            batch = questions[start : start + work.questions_per_batch]
            pictures = {image_id: picture_of(corpus.image(image_id)) for image_id in {q.image_id for q in batch}}
            requests = [Request(pictures[question.image_id], question.text) for question in batch]
            predictor.answer(requests, _NEW_TOKENS)
        return time.perf_counter() - start_s, time.process_time() - start_cpu_s


def _stay_on_core(pinned: bool) -> None:
    if pinned:
        os.sched_setaffinity(0, {_CORE})


def _corpus(url: str, work: _Workload) -> Corpus:
    objects = Objects.open(url)
    height, width = work.size_px
    images = [noise_picture(number, height, width, "JPEG") for number in range(work.num_images)]
    region = box_region((2, 2, width // 2, height // 2), height, width)
    template = Sample(
        sample_id="",
        image_id=None,
        family="toy",
        task=Task.REFERRING,
        split="val",
        regions=(region,),
        source_file="toy",
        locator="",
    )
    samples = [
        replace(
            template,
            sample_id=f"{image.image_id[:16]}-{number}",
            image_id=image.image_id,
            turns=(Turn(text=f"thing number {number}", targets=((0,),)),),
            locator=str(number),
        )
        for image in images
        for number in range(_PER_IMAGE)
    ]
    files = (write_images(objects, "0", images), write_samples(objects, "0", samples))
    publish(objects, Manifest("corpus", "c" * 64, SCHEMA_VERSION, {}, {}, files))
    return Corpus.open(objects)
