"""A small corpus with hostile words in it, and predictions on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation.records import Prediction, Variant
from pipelines.report import ReportInputs, Target
from storage.corpus import Corpus, write_images, write_rejects, write_samples
from storage.keys import Json
from storage.manifest import Manifest, publish
from storage.masks import area_px, encode_mask
from storage.objects import Objects
from storage.schema import (
    SCHEMA_VERSION,
    ImageRecord,
    Mask,
    PromptKind,
    Region,
    Reject,
    RejectReason,
    Sample,
    Task,
    Turn,
    VisualPrompt,
)
from tests.image_records import picture_record

HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.example/x onerror=alert(1)>"


def half(left: bool) -> Mask:
    bitmap = np.zeros((20, 30), bool)
    bitmap[:, :15] = left
    bitmap[:, 15:] = not left
    return encode_mask(bitmap)


def make_image(level: int) -> ImageRecord:
    pixels = np.full((20, 30, 3), level, np.uint8)
    pixels[:, 15:, 0] = 255
    return picture_record(pixels, f"{level}.png")


def make_sample(image: ImageRecord, task: Task, turn: Turn, name: str, *, prompted: bool = False) -> Sample:
    return Sample(
        sample_id=f"{image.image_id[:6]}-{name}",
        image_id=image.image_id,
        family="toy",
        task=task,
        split="val",
        regions=(Region(mask=half(True)), Region(mask=half(False))),
        prompts=(VisualPrompt(kind=PromptKind.MASK, region=0),) if prompted else (),
        turns=(turn,),
        source_file="toy.json",
        locator=name,
    )


def predict(
    sample: Sample, score: float, *, variant: Variant = Variant.STANDARD, masks: Sequence[Mask] = (), answer: str = ""
) -> Prediction:
    turn = sample.turns[0]
    assert sample.image_id is not None
    no_target = turn.targets == ((),)
    return Prediction(
        benchmark={Task.REFERRING: "referring"}.get(sample.task, "description"),
        variant=variant,
        sample_id=sample.sample_id,
        turn=0,
        image_id=sample.image_id,
        family=sample.family,
        task=sample.task.value,
        split=sample.split,
        expression=turn.text,
        question=turn.text,
        prompts=tuple(sample.regions[prompt.region or 0].mask for prompt in sample.prompts),
        answer=answer,
        masks=tuple(masks),
        mask_scores=tuple(0.5 for _ in masks),
        truth_sample_id=sample.sample_id,
        truth_turn=0,
        truth_text=turn.answer or "",
        references=(),
        num_targets=len(turn.targets),
        truth_area_px=sum(area_px(sample.regions[index].mask) for target in turn.targets for index in target),
        intersection_px=0,
        union_px=1,
        no_target=no_target,
        predicted_no_target=not masks,
        ious=(),
        score=score,
    )


def score_fact(variant: str, value: float, *, benchmark: str = "referring", metric: str = "cIoU", **group: str) -> dict:
    return {
        "benchmark": benchmark,
        "variant": variant,
        "family": group.get("family"),
        "task": group.get("task"),
        "split": group.get("split"),
        "metric": metric,
        "value": value,
        "low": value - 0.05,
        "high": value + 0.05,
        "num_samples": 40,
        "num_images": 8,
    }


class FakeFeatures:
    """Features of every picture but those named."""

    def __init__(self, channels: int, absent: Sequence[str] = ()) -> None:
        self._channels, self._absent = channels, set(absent)

    def missing(self, image_ids: Sequence[str]) -> list[str]:
        return [image_id for image_id in image_ids if image_id in self._absent]

    def read(self, image_ids: Sequence[str]) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [rng.normal(size=(self._channels, 4, 6)).astype(np.float32) for _ in image_ids]


@pytest.fixture
def inputs(tmp_path: Path) -> ReportInputs:
    images = [make_image(level) for level in (10, 60, 110, 160, 210)]
    samples, rows = [], []
    for number, image in enumerate(images):
        meant = make_sample(image, Task.REFERRING, Turn(text=f"the left {number}", targets=((0,),)), "a")
        samples.append(meant)
        rows.append(predict(meant, number / 4, masks=[half(number > 2)], answer="It is [SEG]."))
    absent = make_sample(images[0], Task.REFERRING, Turn(text=HOSTILE, targets=((),)), "b")
    described = make_sample(
        images[1], Task.DESCRIPTION, Turn(text="describe <region1>", answer="a dark half"), "c", prompted=True
    )
    samples += [absent, described]
    rows += [
        predict(absent, 1.0, answer="No target [SEG]."),
        predict(described, 1.0, answer="a dark half"),
        predict(described, 0.0, variant=Variant.MOVED, answer="a moved answer"),
    ]
    objects = Objects.open(str(tmp_path / "corpus"))
    rejects = [
        Reject(
            family="toy",
            source_file="toy.json",
            locator=f"row {index}",
            reason=RejectReason.MASK_EMPTY if index else RejectReason.IMAGE_MISSING,
            detail=HOSTILE,
        )
        for index in range(6)
    ]
    files = (
        write_images(objects, "0", images),
        write_samples(objects, "0", samples),
        write_rejects(objects, "0", rejects),
    )
    facts = {"relabelled_splits": {"refs.p": {"testA": "train"}}}
    manifest = publish(objects, Manifest("corpus", "c" * 64, SCHEMA_VERSION, {}, {}, files, facts))
    scores = [
        score_fact("standard", 0.7),
        score_fact("swapped", 0.2),
        score_fact("untrained", 0.1),
        score_fact("standard", 0.9, family="toy", task="referring", split="val"),
        score_fact("standard", 0.6, benchmark="description", metric="attribute_accuracy"),
    ]
    gaps: list[Json] = [
        {"benchmark": "PerBench", "whole": True, "reason": f"no sample of family {HOSTILE}"},
        {"benchmark": "referring", "whole": False, "reason": "no question of split testB"},
    ]
    evaluation = Manifest(
        "evaluation", "e" * 64, SCHEMA_VERSION, {"interval_level": 0.9}, {}, (), {"scores": scores, "gaps": gaps}
    )
    return ReportInputs(
        title=f"run {HOSTILE}",
        recipe={"name": HOSTILE, "training": {"num_steps": 3}},
        corpus=Corpus.open(objects),
        features=[("mask2former", FakeFeatures(8)), ("sam2", FakeFeatures(2, absent=[images[0].image_id]))],
        evaluations=[evaluation],
        predictions=rows,
        metrics=[{"step": step, "loss": 1 / step, "distillation/sam2": 2.0, "step_s": 1.0} for step in range(1, 9)],
        stage_seconds={"curate": 3.0, "train": 65.0, "evaluate": None},
        notes=[f"note {HOSTILE}"],
        manifests=[("curate", manifest), ("evaluate", evaluation)],
        targets=[
            Target(label="finds it", at_least=0.6),
            Target(label="reads it", variant=Variant.SWAPPED, relative_to=Variant.STANDARD, at_most=0.25),
            Target(label="elsewhere", benchmark="none", at_least=0.1),
        ],
    )
