"""Validation: evaluation's own scores of a fixed set of expressions, unnoticed by training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from model.config import StudentConfig
from model.predictor import Predictor
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from pipelines.evaluation.benchmarks.referring import ReferringConfig
from pipelines.evaluation.inference import answer_questions
from pipelines.evaluation.records import Variant
from pipelines.training import validation
from pipelines.training.config import TrainingConfig, ValidationConfig
from pipelines.training.feed import TrainingFeed
from pipelines.training.loop import Trainer, make_optimizers
from pipelines.training.validation import Validator, validation_samples
from storage.corpus import Corpus
from storage.errors import DataError
from storage.masks import decode_mask
from storage.schema import Task

CPU = torch.device("cpu")


@pytest.fixture
def make_validator(corpus: Corpus, tokenizer: StudentTokenizer) -> Callable[..., Validator]:
    def make(**fields: object) -> Validator:
        config = ValidationConfig.model_validate({"splits": ["train"], **fields})
        return Validator(corpus, config, "short", tokenizer, CPU)

    return make


def test_a_seed_draws_the_pictures(corpus: Corpus) -> None:
    def drawn(**fields: object) -> list[str]:
        config = ValidationConfig.model_validate({"splits": ["train"], "num_images": 2, **fields})
        return sorted({str(sample.image_id) for sample in validation_samples(corpus, config)})

    assert drawn() == drawn()
    assert {tuple(drawn(seed=seed)) for seed in range(12)} > {tuple(drawn())}
    assert all(len(drawn(seed=seed)) == 2 for seed in range(12))
    assert len(drawn(num_images=100)) == 4


def test_all_expressions_of_a_picture_are_asked_and_nothing_else(corpus: Corpus) -> None:
    config = ValidationConfig(splits=("train",), num_images=1)
    samples = validation_samples(corpus, config)
    assert sorted(sample.turns[0].text for sample in samples) == ["cow", "red", "squares"]
    assert {sample.task for sample in samples} == {Task.REFERRING}
    assert {sample.split for sample in validation_samples(corpus, ValidationConfig())} == {"val"}


def test_splits_without_expressions_are_refused(corpus: Corpus) -> None:
    with pytest.raises(DataError, match=r"referring expressions in splits \['dev'\] and families any of .*found none"):
        validation_samples(corpus, ValidationConfig(splits=("dev",)))
    with pytest.raises(DataError, match=r"families \['talk'\]"):
        validation_samples(corpus, ValidationConfig(splits=("train",), families=("talk",)))


def test_scores_are_those_of_the_evaluation(
    make_validator: Callable[..., Validator],
    corpus: Corpus,
    student_config: StudentConfig,
    tokenizer: StudentTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counted by hand: the left half of each picture is answered to everything."""

    class LeftHalf:
        def __init__(self, *args: object) -> None:
            pass

        def answer(self, requests: list[object], max_new_tokens: int = 64) -> list[Answer]:
            sizes = [np.asarray(request.image).shape[:2] for request in requests]  # type: ignore[attr-defined]
            return [Answer(half_of(*size)) for size in sizes]

    monkeypatch.setattr(validation, "Predictor", LeftHalf)
    found = make_validator(num_images=4).examine(lambda: PixelSail(student_config))
    intersection, union, ious = 0, 0, []
    for sample in corpus.samples(splits=["train"]):
        if sample.task is Task.REFERRING and sample.turns[0].targets[0]:
            masks = [decode_mask(sample.regions[i].mask) for i in sample.turns[0].targets[0]]
            truth = np.logical_or.reduce(masks)
            half = half_of(*truth.shape)
            intersection += int((half & truth).sum())
            union += int((half | truth).sum())
            ious.append((half & truth).sum() / (half | truth).sum())
    assert found.scores["cIoU"] == pytest.approx(intersection / union)
    assert found.scores["gIoU"] == pytest.approx(np.mean(ious), abs=1e-4)
    assert (found.scores["N_acc"], found.scores["T_acc"]) == (0, 1)


class Answer:
    """A mask and no words."""

    text = "[SEG]"
    scores = (1.0,)

    def __init__(self, mask: np.ndarray) -> None:
        self.masks = (mask,)


def half_of(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.bool_)
    mask[:, : width // 2] = True
    return mask


def test_a_student_gets_what_the_evaluation_would_give_it(
    make_validator: Callable[..., Validator], corpus: Corpus, student: PixelSail, tokenizer: StudentTokenizer
) -> None:
    validator = make_validator(num_images=2)
    found = validator.examine(lambda: copy.deepcopy(student))
    benchmark = ReferringConfig(variants=(Variant.STANDARD,)).build()
    rows = answer_questions(
        validator._questions,
        corpus,
        Predictor(copy.deepcopy(student), tokenizer),
        {"referring": benchmark},
        questions_per_batch=64,
        max_new_tokens=32,
    )
    scores = benchmark.metrics(Variant.STANDARD, rows, rows)
    assert found.scores == {name: scores[name].value for name in ("cIoU", "gIoU", "N_acc", "T_acc")}


def test_pictures_show_answer_and_truth(make_validator: Callable[..., Validator], student: PixelSail) -> None:
    found = make_validator(num_images=3, num_pictures=2).examine(lambda: copy.deepcopy(student))
    assert len(found.pictures) == 2
    assert make_validator(num_pictures=0).examine(lambda: copy.deepcopy(student)).pictures == ()
    again = make_validator(num_images=3, num_pictures=2).examine(lambda: copy.deepcopy(student))
    assert [picture.tobytes() for picture in again.pictures] == [picture.tobytes() for picture in found.pictures]


def test_training_does_not_notice(
    make_feed: Callable[..., TrainingFeed],
    make_validator: Callable[..., Validator],
    student_config: StudentConfig,
) -> None:
    """Losses are equal to the last bit with and without validation between the steps."""
    recipe = TrainingConfig(num_steps=4, batch_rows=4, micro_batch_rows=2, learning_rate=1e-3)

    def losses(validator: Validator | None) -> tuple[list[Mapping[str, float]], float]:
        torch.manual_seed(5)
        model = PixelSail(student_config).init_weights(torch.Generator().manual_seed(0))
        trainer = Trainer(model, make_optimizers(model, recipe), recipe, CPU)
        rows: list[Mapping[str, float]] = []

        def after_step(step: int, metrics: Mapping[str, float], seconds: Mapping[str, float]) -> None:
            rows.append(dict(metrics))
            if validator is not None:
                validator.examine(lambda: copy.deepcopy(model))
                assert model.training

        trainer.run(make_feed(recipe).batches(0), 0, after_step)
        return rows, float(torch.rand(()))

    assert losses(make_validator(every_steps=1, num_images=2)) == losses(None)


@pytest.mark.parametrize(("every", "due"), [(2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_when_a_validation_is_due(every: int, due: list[int]) -> None:
    assert [step for step in range(1, 6) if ValidationConfig(every_steps=every).is_due(step, 5)] == due
