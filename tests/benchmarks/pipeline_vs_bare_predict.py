"""The evaluation pipeline while it runs against a bare loop of `Predictor.predict` over the same questions."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import replace

import torch

from jobs.session import ClusterConfig, ray_session
from model.checkpoint import checkpoint_files
from model.config import StudentConfig
from model.predictor import Predictor
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from pipelines.evaluation.benchmarks.referring import ReferringConfig
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.inference import picture_of
from pipelines.evaluation.pipeline import default_wording, evaluate, plan_questions
from pipelines.evaluation.records import Variant
from storage.corpus import Corpus, write_images, write_samples
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, Sample, Task, Turn
from tests.benchmarks.measuring import Figures, Options, compared, fixed_threads, judged, machine
from tests.small_corpora import box_region, noise_picture

__all__ = ["pipeline_vs_bare_predict"]

_PER_IMAGE = 3
_NEW_TOKENS = 16


class _Clock:
    """Notes when how many questions were answered."""

    def __init__(self) -> None:
        self.marks: list[tuple[int, float]] = []

    def update(self, done: int, total: int, **facts: object) -> None:
        self.marks.append((done, time.perf_counter()))

    def rate(self) -> float:
        """Questions per second from the first finished file to the last: the start of Ray and student is left out."""
        (first, start_s), (last, end_s) = self.marks[1], self.marks[-1]
        return (last - first) / (end_s - start_s)


def pipeline_vs_bare_predict(options: Options) -> Figures:
    """Questions per second of both, in turn, one student at a time; tiny runs stay in this process."""
    num_images, size_px, repeats = (6, (24, 32), 1) if options.tiny else (160, (240, 320), options.times(3))
    config = EvaluationConfig(
        benchmarks=(ReferringConfig(variants=(Variant.STANDARD,)),),
        questions_per_shard=6 if options.tiny else 48,
        questions_per_batch=6 if options.tiny else 48,
        max_new_tokens=_NEW_TOKENS,
        num_resamples=10,
    )
    rates: dict[str, list[float]] = {"pipeline": [], "bare predict": []}
    with contextlib.ExitStack() as stack:
        stack.enter_context(fixed_threads(options.num_threads))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        if not options.tiny:
            stack.enter_context(ray_session(ClusterConfig()))
        place = f"memory://{folder.strip('/').replace('/', '-')}" if options.tiny else folder
        corpus, checkpoint = _corpus(f"{place}/corpus", num_images, size_px), _checkpoint(f"{place}/student")
        questions = num_images * _PER_IMAGE
        for repeat in range(repeats):
            rates["bare predict"].append(questions / _bare(corpus, checkpoint, config))
            clock = _Clock()
            evaluate(corpus, checkpoint, config, Objects.open(f"{place}/scores{repeat}"), clock)
            rates["pipeline"].append(clock.rate())
    figures, ratio = compared(rates, "questions/s", ("pipeline", "bare predict"))
    return {
        "machine": machine(options, repeats),
        "workload": {
            "questions": questions,
            "pictures": f"{num_images} of {size_px[1]} x {size_px[0]} px, {_PER_IMAGE} questions each",
            "student": "hidden size 64, 2 layers, patches of 16 px, random weights",
            "new_tokens": _NEW_TOKENS,
            "questions_per_batch": config.questions_per_batch,
            "what": "read, decode, ask, judge, encode masks, write Parquet; from the first file of predictions to the "
            "last, so without the start of Ray and of the student. The bare loop decodes and predicts one by one",
        },
        **figures,
        "ratio": judged(ratio, at_least=0.9),
    }


def _bare(corpus: Corpus, checkpoint: Objects, config: EvaluationConfig) -> float:
    predictor = Predictor.load(checkpoint)
    questions = plan_questions(corpus, config, default_wording(config))
    start_s = time.perf_counter()
    for question in questions:
        predictor.predict(picture_of(corpus.image(question.image_id)), question.text, (), _NEW_TOKENS)
    return time.perf_counter() - start_s


def _corpus(url: str, num_images: int, size_px: tuple[int, int]) -> Corpus:
    objects = Objects.open(url)
    images = [noise_picture(number, *size_px, "JPEG") for number in range(num_images)]
    region = box_region((2, 2, size_px[1] // 2, size_px[0] // 2), *size_px)
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


def _checkpoint(url: str) -> Objects:
    tokenizer = StudentTokenizer.train(["please segment the thing number in this image", "It is [SEG]."], 300, 3)
    config = StudentConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        patch_size_px=16,
        max_side_px=320,
        num_visual_prompts=3,
    )
    student = PixelSail(config).init_weights(torch.Generator().manual_seed(0)).eval()
    objects = Objects.open(url)
    for name, data in checkpoint_files(student, tokenizer).items():
        objects.put(name, data)
    return objects
