from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.curation.testing import write_picture
from pipelines.evaluation.benchmarks.base import plain_words, prompt_masks, same_objects
from pipelines.evaluation.benchmarks.choices import MultipleChoiceConfig
from pipelines.evaluation.benchmarks.referring import ReferringConfig, swapped_truths
from pipelines.evaluation.benchmarks.regions import CategoryConfig, DescriptionConfig
from pipelines.evaluation.benchmarks.visual_text import VisualTextReferringConfig
from pipelines.evaluation.config import EvaluationConfig, evaluation_key
from pipelines.evaluation.pipeline import plan_questions
from pipelines.evaluation.records import Answered, Benchmark, Question, Truth, Variant
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.errors import DataError
from storage.masks import area_px, box_xyxy_px, decode_mask, encode_mask
from storage.objects import Objects
from storage.schema import Mask, PromptKind, Sample, Task, VisualPrompt


def _samples(scenes: Sequence) -> list[Sample]:
    return [sample for scene in scenes for sample in scene.samples]


def _said(text: str, masks: Sequence[Mask] = ()) -> Answered:
    return Answered(text=text, masks=tuple(masks), scores=(1.0,) * len(masks))


def _questions(benchmark: Benchmark, scenes: Sequence, wording, variant: Variant) -> list[Question]:
    return [q for q in benchmark.questions(_samples(scenes), wording) if q.variant is variant]


def test_referring_asks_each_expression_once_per_student(scenes, wording) -> None:
    benchmark = ReferringConfig().build()
    standard = _questions(benchmark, scenes, wording, Variant.STANDARD)
    untrained = _questions(benchmark, scenes, wording, Variant.UNTRAINED)
    assert len(standard) == len(untrained) == 6
    assert {q.expression for q in standard} == {
        "the red square",
        "the green square",
        "the blue square",
        "the black star",
    }
    assert [q.truth.masks for q in standard if q.expression == "the black star"] == [(), ()]
    assert all(q.swapped is None for q in untrained)


def test_swapping_is_a_derangement_within_each_picture(scenes, wording) -> None:
    standard = _questions(ReferringConfig().build(), scenes, wording, Variant.STANDARD)
    swapped = [q for q in standard if q.swapped is not None]
    crowded = scenes[0]
    assert {q.image_id for q in swapped} == {crowded.record.image_id}
    assert {q.truth.masks for q in swapped} == {q.swapped.masks for q in swapped}
    assert len(swapped) == 3
    assert all(q.truth.masks != q.swapped.masks for q in swapped)


def test_swapping_ignores_order_and_unions(scenes) -> None:
    from pipelines.evaluation.benchmarks.base import Unit

    units = [Unit(sample, 0) for sample in scenes[0].samples]
    assert swapped_truths(units) == swapped_truths(units[::-1])
    both = Sample(
        sample_id="union",
        image_id=scenes[0].record.image_id,
        family="toy",
        task=Task.REFERRING,
        split="val",
        regions=scenes[0].samples[0].regions + scenes[0].samples[3].regions,
        turns=(scenes[0].samples[0].turns[0].__class__(text="both", targets=((0, 1),)),),
        source_file="toy.json",
        locator="union",
    )
    assert ("union", 0) not in swapped_truths([*units, Unit(both, 0)])


def test_masks_that_mostly_overlap_are_one_object() -> None:
    big, nearly, other = np.zeros((3, 10, 10), bool)
    big[:6, :6], nearly[:6, :5], other[7:, 7:] = True, True, True
    masks = [encode_mask(bitmap) for bitmap in (big, nearly, other)]
    identity = same_objects(masks)
    assert identity[masks[0].counts] == identity[masks[1].counts] != identity[masks[2].counts]


def test_referring_verdicts(scenes, wording) -> None:
    benchmark = ReferringConfig().build()
    target, absent = (
        next(q for q in _questions(benchmark, scenes, wording, Variant.STANDARD) if q.expression == text)
        for text in ("the red square", "the black star")
    )
    mask = decode_mask(target.truth.masks[0])
    halves = (encode_mask(mask & (np.arange(32) < 4)), encode_mask(mask & (np.arange(32) >= 4)))
    assert benchmark.judge(target, target.truth, _said("It is [SEG].", halves)).score == 1.0
    denied = benchmark.judge(target, target.truth, _said("No target [SEG].", (target.truth.masks[0],)))
    assert (denied.score, denied.intersection_px, denied.union_px, denied.predicted_no_target) == (0.0, 0, 36, True)
    right = benchmark.judge(absent, absent.truth, _said("No target [SEG]."))
    assert (right.score, right.union_px, right.no_target) == (1.0, 0, True)
    wrong = benchmark.judge(absent, absent.truth, _said("It is [SEG].", (target.truth.masks[0],)))
    assert (wrong.score, wrong.intersection_px, wrong.union_px) == (0.0, 0, 36)


def test_answer_of_another_size_is_refused(scenes, wording) -> None:
    benchmark = ReferringConfig().build()
    asked = next(q for q in benchmark.questions(_samples(scenes), wording) if q.truth.masks)
    with pytest.raises(DataError, match=r"expected masks of \(24, 32\) px .* got \(5, 5\)"):
        benchmark.judge(asked, asked.truth, _said("It is [SEG].", (encode_mask(np.ones((5, 5), bool)),)))


def test_moved_description_expects_the_other_object(scenes, wording) -> None:
    benchmark = DescriptionConfig().build()
    standard = _questions(benchmark, scenes, wording, Variant.STANDARD)
    moved = _questions(benchmark, scenes, wording, Variant.MOVED)
    assert len(standard) == 4
    assert len(moved) == 3
    by_id = {q.sample_id: q for q in standard}
    for question in moved:
        before = by_id[question.sample_id]
        assert question.text == before.text
        assert question.prompts != before.prompts
        assert question.truth.text != before.truth.text
        verdict = benchmark.judge(question, question.truth, _said(question.truth.text))
        assert verdict.score == 1.0
    half = benchmark.judge(moved[0], moved[0].truth, _said("some square"))
    assert half.score == 0.5
    elsewhere = benchmark.judge(moved[0], moved[0].truth, _said(f"an oval, left of {moved[0].truth.text}"))
    assert elsewhere.score == 0.0


@pytest.mark.parametrize(
    ("answer", "score"), [("square", 1.0), ("Square.", 1.0), ("a square", 0.0), ("squares", 0.0), ("", 0.0)]
)
def test_category_needs_the_name_itself(scenes, wording, answer: str, score: float) -> None:
    benchmark = CategoryConfig().build()
    asked = benchmark.questions(_samples(scenes), wording)
    assert len(asked) == 4
    assert benchmark.judge(asked[0], asked[0].truth, _said(answer)).score == score


@pytest.mark.parametrize(
    ("answer", "strict", "released"),
    [
        ("It is blue", 1.0, 1.0),
        ("Blue.", 1.0, 0.0),  # the released rule compares capitals
        ("(B)", 1.0, 0.0),
        ("red", 0.0, 0.0),
        ("red or blue", 0.0, 1.0),  # names both
        ("(A) blue", 0.0, 1.0),
        ("bluebird", 0.0, 1.0),
        ("", 0.0, 0.0),
    ],
)
def test_multiple_choice_by_both_rules(scenes, wording, answer: str, strict: float, released: float) -> None:
    benchmark = MultipleChoiceConfig().build()
    (asked,) = benchmark.questions(_samples(scenes), wording)
    assert asked.options == ("red", "blue")
    assert asked.released
    assert benchmark.judge(asked, asked.truth, _said(answer)).score == strict
    by_released = replace(asked, variant=Variant.RELEASED)
    assert benchmark.judge(by_released, asked.truth, _said(answer)).score == released


def test_visual_text_counts_missing_predictions_as_zero(scenes, wording) -> None:
    benchmark = VisualTextReferringConfig().build()
    standard, moved = benchmark.questions(_samples(scenes), wording)
    assert (standard.variant, moved.variant) == (Variant.STANDARD, Variant.MOVED)
    blue = scenes[0].objects["blue"]
    assert moved.prompts == (blue,)
    assert moved.truth == standard.truth
    two = Truth(sample_id="s", turn=0, masks=(scenes[0].objects["red"], blue))
    verdict = benchmark.judge(standard, two, _said("[SEG]", two.masks[:1]))
    assert (verdict.score, verdict.intersection_px, verdict.union_px) == (0.5, 36, 72)


def test_prompts_of_every_kind_become_masks(scenes) -> None:
    sample = scenes[0].samples[0]

    def mask_of(prompt: VisualPrompt):
        (mask,) = prompt_masks(
            Sample(
                **{name: getattr(sample, name) for name in sample.__dataclass_fields__ if name != "prompts"},
                prompts=(prompt,),
            )
        )
        return mask

    assert mask_of(VisualPrompt(kind=PromptKind.MASK, region=0)) == sample.regions[0].mask
    assert mask_of(VisualPrompt(kind=PromptKind.BOX, box_xyxy_px=(1.0, 1.0, 7.0, 7.0))) == sample.regions[0].mask
    point = decode_mask(mask_of(VisualPrompt(kind=PromptKind.POINT, points_xy_px=((4.5, 5.5),))))
    assert point[5, 4]
    assert point.sum() == 5
    assert area_px(mask_of(VisualPrompt(kind=PromptKind.SCRIBBLE, points_xy_px=((4.5, 5.5), (20.5, 5.5))))) > 10
    with pytest.raises(DataError, match="expected box_xyxy_px, got none; curate the family again"):
        mask_of(VisualPrompt(kind=PromptKind.BOX))


def test_a_box_alone_is_asked_about_on_a_curated_corpus(tmp_path: Path, wording) -> None:
    write_picture(tmp_path / "in/a.png", height=24, width=32)
    row = {"image": "a.png", "description": "a cup", "prompts": [{"kind": "box", "box_xyxy_px": [2, 3, 12, 9]}]}
    (tmp_path / "in/rows.jsonl").write_text(json.dumps(row))
    source = {"kind": "generic", "root": str(tmp_path / "in"), "split": "val"}
    output = Objects.open(tmp_path / "out")
    curate_local(CurationConfig.model_validate({"sources": [source]}), output, NullProgress())
    config = EvaluationConfig(benchmarks=(DescriptionConfig(splits=("val",)),))
    first, *_ = plan_questions(Corpus.open(output), config, wording)
    (mask,) = first.prompts
    assert (mask.height, mask.width, box_xyxy_px(mask)) == (24, 32, (2, 3, 12, 9))


def test_max_images_takes_the_smallest_hashes(scenes, wording) -> None:
    asked = ReferringConfig(max_images=1).build().questions(_samples(scenes), wording)
    assert {q.image_id for q in asked} == {min(scene.record.image_id for scene in scenes)}


def test_words_are_compared_without_markup() -> None:
    assert plain_words("<region1>: A Small, red-ish ring!") == ["a", "small", "red-ish", "ring"]


def test_key_ignores_how_the_stage_runs() -> None:
    config = EvaluationConfig()
    keys = {evaluation_key(config.model_copy(update={"num_actors": n}), "a" * 64, "b" * 64) for n in (1, 4)}
    assert len(keys) == 1
    assert evaluation_key(EvaluationConfig(max_new_tokens=9), "a" * 64, "b" * 64) not in keys


def test_benchmarks_of_one_recipe_need_different_names() -> None:
    with pytest.raises(ValidationError, match="expected different names, got referring, referring"):
        EvaluationConfig(benchmarks=(ReferringConfig(), ReferringConfig(families=("toy",))))
