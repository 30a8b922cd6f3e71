"""The published benchmarks: what they ask, by which rule they judge, and what their scores are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from model.predictor import Answer, Request
from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.evaluation.benchmarks.base import with_regions
from pipelines.evaluation.benchmarks.captions import RegionCaptionConfig
from pipelines.evaluation.benchmarks.choices import MultipleChoiceConfig
from pipelines.evaluation.benchmarks.grounded import GroundedCaptionConfig
from pipelines.evaluation.benchmarks.perbench import PerBenchConfig
from pipelines.evaluation.benchmarks.referring import ReferringConfig
from pipelines.evaluation.benchmarks.visual_text import RETRY_PREFIX, VisualTextReferringConfig
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.inference import answer_questions, read_predictions
from pipelines.evaluation.metrics.captions import meteor, meteor_released
from pipelines.evaluation.metrics.estimates import AveragePrecision, Mix, Ratio
from pipelines.evaluation.metrics.interval import bootstrap_draws, bootstrap_interval
from pipelines.evaluation.metrics.table import score_table
from pipelines.evaluation.pipeline import default_wording, evaluate, plan_questions
from pipelines.evaluation.records import Variant
from pipelines.evaluation.suites import SUITES
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.manifest import read_manifest
from storage.masks import decode_mask
from storage.objects import Objects
from storage.schema import PromptKind, Task, Turn, VisualPrompt


def _samples(scenes: Sequence) -> list:
    return [sample for scene in scenes for sample in scene.samples]


def _answered(benchmark_config, scenes, save_corpus, student) -> list:
    name = benchmark_config.name or benchmark_config.kind
    benchmark = benchmark_config.build()
    config = EvaluationConfig(benchmarks=(benchmark_config,))
    corpus = save_corpus(scenes)
    questions = plan_questions(corpus, config, default_wording(config))
    return answer_questions(questions, corpus, student, {name: benchmark}, questions_per_batch=4, max_new_tokens=8)


class _Script:
    """Answers by the words of the question; keeps the requests."""

    def __init__(self, **answers: Answer) -> None:
        self._answers, self.requests = answers, list[Request]()

    def answer(self, requests: Sequence[Request], max_new_tokens: int = 64) -> list[Answer]:
        self.requests += requests
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Answer:
        key = "again" if request.answer_prefix else next(word for word in self._answers if word in request.text)
        return self._answers[key]


def _first(rows: Sequence, variant: Variant):
    return next(row for row in rows if row.variant is variant)


def _scores(config, rows) -> dict[str, float]:
    found = score_table(rows, {config.name or config.kind: config.build()}, num_resamples=20)
    return {score.metric: score.value for score in found if score.overall}


def test_region_captions_are_scored_against_all_references_of_a_region(scenes, save_corpus) -> None:
    scenes[1].add(
        Task.DESCRIPTION, Turn(text="", answer="<region1>: that crimson flat tile"), ["red"], prompts=1, family="talk"
    )
    config = RegionCaptionConfig(families=("talk",))
    rows = _answered(config, scenes, save_corpus, _Script(describe=Answer("a crimson flat tile", (), ())))
    standard = [row for row in rows if row.variant is Variant.STANDARD]
    assert len(standard) == 4  # a question per region, not per caption
    (both,) = (row for row in standard if row.references)
    assert set(both.truths) == {"<region1>: that crimson flat tile", "<region1>: a red square"}
    single = [meteor("a crimson flat tile", [text]) for text in ("that crimson flat tile", "a red square")]
    assert both.score == max(single) > min(single)
    scores = _scores(config, rows)
    assert scores.keys() == {"METEOR", "CIDEr", "METEOR_released"}
    released = [row for row in rows if row.variant is Variant.RELEASED]
    assert scores["METEOR_released"] == pytest.approx(np.mean([row.score for row in released]))
    truths = [text.removeprefix("<region1>: ") for text in released[0].truths]
    assert released[0].score == meteor_released("a crimson flat tile", truths)


def test_a_box_without_a_mask_is_drawn_as_the_prompt(scenes) -> None:
    sample = scenes[1].samples[1]
    boxed = replace(
        sample, regions=(), prompts=(VisualPrompt(kind=PromptKind.BOX, box_xyxy_px=(20.0, 10.0, 26.0, 16.0)),)
    )
    drawn = with_regions(boxed, 24, 32)
    assert drawn.regions[0].mask == scenes[1].objects["red"]
    assert drawn.prompts[0].region == 0
    assert with_regions(sample, 24, 32) is sample


def test_visual_text_is_asked_again_only_for_the_released_rule(scenes, save_corpus) -> None:
    green = decode_mask(scenes[0].objects["green"])
    silent = Answer("I can't tell.", (), ())
    config = VisualTextReferringConfig(variants=(Variant.STANDARD, Variant.RELEASED))
    student = _Script(**{"right of": silent, "again": Answer(RETRY_PREFIX, (green,), (0.9,))})
    rows = _answered(config, scenes, save_corpus, student)
    assert [request.answer_prefix for request in student.requests] == ["", "It is [SEG]."]
    strict, released = _first(rows, Variant.STANDARD), _first(rows, Variant.RELEASED)
    assert (strict.score, strict.intersection_px, strict.union_px) == (0.0, 0, 36)
    assert (released.score, released.answer, released.predicted_no_target) == (1.0, RETRY_PREFIX, False)
    assert _scores(config, rows) == {"cIoU": 0.0, "gIoU": 0.0, "cIoU_released": 1.0, "gIoU_released": 1.0}


def test_released_rule_leaves_what_has_no_mask_out_of_ciou_alone(scenes, save_corpus) -> None:
    other = scenes[1]
    other.add(
        Task.VISUAL_TEXT_REFERRING,
        Turn(text="what <region1> is", answer="[SEG]", targets=((0,),)),
        ["red"],
        prompts=1,
        family="bench",
    )
    green = decode_mask(scenes[0].objects["green"])
    silent = Answer("none", (), ())
    config = VisualTextReferringConfig(variants=(Variant.STANDARD, Variant.RELEASED))
    student = _Script(**{"right of": Answer("[SEG]", (green, green), (1.0, 1.0)), "what": silent, "again": silent})
    assert _scores(config, _answered(config, scenes, save_corpus, student)) == {
        "cIoU": 0.5,
        "gIoU": 0.5,
        "cIoU_released": 1.0,
        "gIoU_released": 0.5,
    }


def test_perbench_overall_is_made_of_three_tasks_by_both_rules(scenes, save_corpus) -> None:
    scenes[0].add(Task.DESCRIPTION, Turn(text="", answer="a dark red square"), ["red"], prompts=1, family="bench")
    green = decode_mask(scenes[0].objects["green"])
    config = PerBenchConfig(families=("bench",))
    student = _Script(
        describe=Answer("a red tile here", (), ()),
        **{"right of": Answer("[SEG]", (green,), (1.0,)), "colour": Answer("red or blue", (), ())},
    )
    rows = _answered(config, scenes, save_corpus, student)
    scores = _scores(config, rows)
    said, truth = "a red tile here", ["a dark red square"]
    assert scores["METEOR"] == meteor(said, truth)
    assert scores["METEOR_released"] == meteor_released(said, truth)
    assert (scores["accuracy"], scores["accuracy_released"]) == (0.0, 1.0)
    assert scores["overall"] == pytest.approx((scores["METEOR"] + 0.0 + (1.0 + 1.0) / 2) / 3)
    assert scores["overall_released"] == pytest.approx((scores["METEOR_released"] + 1.0 + 1.0) / 3)
    assert config.published_as("overall_released") == ("PerBench", "overall", "score")
    assert config.published_as("overall") is None
    without = [row for row in rows if row.task != Task.MULTIPLE_CHOICE.value]
    assert "overall" not in _scores(config, without)


def _grounded(scenes) -> None:
    scenes[0].add(
        Task.GROUNDED_CAPTION,
        Turn(text="", answer="<p>A red square</p> [SEG] and <p>a green one</p> [SEG].", targets=((0,), (1,))),
        ["red", "green"],
        family="gcg",
    )


def test_grounded_captions_by_hand(scenes, save_corpus) -> None:
    _grounded(scenes)
    red, green = (decode_mask(scenes[0].objects[name]) for name in ("red", "green"))
    part = red & (np.arange(24)[:, None] < 4)  # 18 of 36 pixels
    text = "<p>A blue square</p> [SEG] by <p>the green one</p> [SEG] and <p>a red square</p> [SEG]."
    student = _Script(Describe=Answer(text, (green, green & ~green, part), (0.5, 0.4, 0.9)))
    config = GroundedCaptionConfig()
    rows = _answered(config, scenes, save_corpus, student)
    assert rows[0].ious == (0.0, 1.0, 0.0, 0.0, 0.5, 0.0)
    scores = _scores(config, rows)
    assert scores["mIoU"] == 0.75
    assert scores["mask_recall_iou"] == 1.0
    # "A blue square" is no like phrase of "a green one": one word of three in common.
    assert scores["mask_recall_word_F1"] == 0.5
    assert "mask_recall" not in scores, "the published score needs a text encoder"
    # Hit, miss, hit: precision 1 up to recall 1/2, 2/3 up to 1.
    assert scores["AP50"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    # By certainty: hit (0.9), hit (0.5), miss.
    assert scores["AP50_ranked"] == 1.0
    assert 0 < scores["METEOR"] < 1
    assert "CIDEr" in scores


def test_grounded_caption_without_masks_scores_zero(scenes, save_corpus) -> None:
    _grounded(scenes)
    config = GroundedCaptionConfig()
    scores = _scores(config, _answered(config, scenes, save_corpus, _Script(Describe=Answer("A square.", (), ()))))
    assert (scores["mIoU"], scores["mask_recall_word_F1"], scores["AP50"], scores["AP50_ranked"]) == (
        0.0,
        0.0,
        0.0,
        0.0,
    )


def test_average_precision_is_that_of_coco(tmp_path) -> None:
    """Random masks on several pictures, against pycocotools' own evaluation."""
    import contextlib
    import io

    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(5)
    places, hits, certainty, num_targets = [], [], [], []
    truths, found = [], []
    for picture in range(8):
        shapes = [np.zeros((20, 20), np.uint8, order="F") for _ in range(int(rng.integers(1, 4)))]
        for place, shape in enumerate(shapes):
            shape[place * 6 : place * 6 + 6, 2:10] = 1
        predictions = [np.asfortranarray(np.roll(shape, int(rng.integers(0, 5)), axis=1)) for shape in shapes]
        scores = rng.random(len(predictions))
        for shape in shapes:
            rle = coco_mask.encode(shape)
            truths.append({"id": len(truths) + 1, "image_id": picture, "category_id": 1, "segmentation": rle})
            truths[-1] |= {"area": int(shape.sum()), "iscrowd": 0, "bbox": [0, 0, 1, 1]}
        for shape, score in zip(predictions, scores, strict=True):
            rle = coco_mask.encode(shape)
            found.append({"image_id": picture, "category_id": 1, "segmentation": rle, "score": float(score)})
        ious = np.array([[(a & b).sum() / (a | b).sum() for b in shapes] for a in predictions])
        num_targets.append(len(shapes))
        free = np.ones(len(shapes), bool)
        for mask in np.argsort(-scores):
            own = np.where(free, ious[mask], -1)
            hits.append(bool(own.max() >= 0.5))
            free[own.argmax()] &= not hits[-1]
            places.append(picture)
            certainty.append(scores[mask])
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": [{"id": p, "height": 20, "width": 20} for p in range(8)], "annotations": truths}
        coco.dataset["categories"] = [{"id": 1, "name": "object"}]
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    order = np.argsort(-np.array(certainty), kind="stable")
    ours = AveragePrecision(np.arange(8), np.array(num_targets), np.array(places)[order], np.array(hits)[order])
    assert 0.3 < ours.value < 0.95
    assert ours.value == pytest.approx(float(evaluation.stats[1]), abs=1e-9)
    low, high = bootstrap_interval(ours, [str(picture) for picture in range(8)])
    assert low < ours.value < high


def test_a_mix_is_drawn_with_the_same_pictures_for_all_terms() -> None:
    values = np.random.default_rng(0).random(50)
    images = [str(place) for place in range(50)]
    same = Mix(((1.0, Ratio.mean(values)), (-1.0, Ratio.mean(values))), offset=0.25)
    (draws,) = bootstrap_draws([same], images)
    assert same.value == pytest.approx(0.25)
    assert draws == pytest.approx(np.full(1000, 0.25))


def test_grefcoco_protocol_has_the_authors_names(scenes, save_corpus, oracle) -> None:
    config = ReferringConfig(protocol="gres", variants=(Variant.STANDARD,))
    scores = _scores(config, _answered(config, scenes, save_corpus, oracle))
    assert scores.keys() == {"gIoU", "cIoU", "N_acc", "T_acc", "Pr@0.7", "Pr@0.8", "Pr@0.9"}
    assert scores["N_acc"] == 1.0


def test_reasoning_questions_are_asked_as_they_are(scenes, save_corpus) -> None:
    red = decode_mask(scenes[1].objects["red"])
    scenes[1].add(Task.REASONING, Turn(text="What would stop a car?", targets=((0,),)), ["red"], family="reason_seg")
    config = next(config for config in SUITES["reason_seg"] if config.name == "ReasonSeg val")
    student = _Script(car=Answer("It is [SEG].", (red,), (1.0,)))
    scores = _scores(config, _answered(config, scenes, save_corpus, student))
    assert student.requests[0].text == "What would stop a car?"
    assert scores["cIoU"] == 1.0
    assert scores["gIoU"] == pytest.approx(1.0, abs=1e-6)


def test_a_suite_is_named_in_the_recipe() -> None:
    named = EvaluationConfig.model_validate("perbench")
    assert [benchmark.name for benchmark in named.benchmarks] == ["PerBench"]
    assert EvaluationConfig.model_validate({"suite": "perbench", "device": "cuda"}).benchmarks == named.benchmarks
    assert EvaluationConfig(benchmarks=named.benchmarks).hashed_fields() == named.hashed_fields()
    every = EvaluationConfig(suite="published")
    names = [benchmark.name for benchmark in every.benchmarks]
    assert {"RefCOCO testA", "RefCOCO+ val", "RefCOCOg test", "gRefCOCO val", "ReasonSeg val", "GCG val"} <= set(names)
    assert len(set(names)) == len(names)
    assert EvaluationConfig.model_validate(every.model_dump(mode="json")) == every
    with pytest.raises(ValidationError, match="suite"):
        EvaluationConfig.model_validate("perbanch")


def test_users_own_rows_are_a_benchmark(tmp_path) -> None:
    import json

    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (64, 48), "beige")
    ImageDraw.Draw(picture).rectangle((10, 20, 24, 34), fill="red")
    picture.save(tmp_path / "cup.png")
    cup = {"segmentation": {"box_xyxy_px": [10, 20, 25, 35]}}
    rows = [
        {"image": "cup.png", "expression": "the red cup", **cup},
        {"image": "cup.png", "description": "a red cup", "regions": [cup]},
        {
            "image": "cup.png",
            "question": "Which colour has <region1>?",
            "answer": "red",
            "options": ["red", "blue"],
            "regions": [cup],
        },
        {"image": "cup.png", "question": "What holds tea?", "answer": "It is [SEG].", "regions": [cup]},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"kind": "generic", "rows": ["rows.jsonl"], "family": "mine", "split": "test"}
    output = Objects.open(f"memory://own-{tmp_path.name}")
    curate_local(CurationConfig.model_validate({"root": str(tmp_path), "sources": [source]}), output, NullProgress())
    corpus = Corpus.open(output)
    assert not list(corpus.rejects())
    mask = np.zeros((48, 64), bool)
    mask[20:35, 10:25] = True
    student = _Script(
        segment=Answer("It is [SEG].", (mask,), (0.9,)),
        describe=Answer("a red cup", (), ()),
        colour=Answer("red", (), ()),
        tea=Answer("It is [SEG].", (mask,), (0.8,)),
    )
    mine = {"families": ("mine",), "splits": ("test",)}
    config = EvaluationConfig(
        benchmarks=(
            ReferringConfig(**mine, variants=(Variant.STANDARD,)),
            ReferringConfig(name="reasons", tasks=(Task.REASONING,), **mine, variants=(Variant.STANDARD,)),
            RegionCaptionConfig(**mine),
            MultipleChoiceConfig(**mine),
        )
    )
    found = Objects.open(f"memory://own-scores-{tmp_path.name}")
    checkpoint = Objects.open(f"memory://own-student-{tmp_path.name}")
    checkpoint.create("config.json", b"{}")
    evaluate(corpus, checkpoint, config, found, load=lambda *_: student)
    rows = read_predictions(found)
    assert {(row.benchmark, row.score) for row in rows if row.variant is Variant.STANDARD} == {
        ("referring", 1.0),
        ("reasons", 1.0),
        ("region_caption", meteor("a red cup", ["a red cup"])),
        ("multiple_choice", 1.0),
    }
    assert read_manifest(found) is not None
