"""The forecast of training: its operations are those that a batch is counted at, its steps those that are trained."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobs.config import load_recipe
from model.config import StudentConfig
from model.flops import attended_pairs, student_flops
from model.objective import LossWeights
from pipelines.distillation.costs import CostsConfig
from pipelines.training.config import MixtureEntry, TrainingConfig
from pipelines.training.feed import TrainingFeed, corpus_mixture
from pipelines.training.forecast import RowShape, forecast_training, row_flops, rows_of_corpus
from storage.corpus import Corpus

TEACHERS = ("mask2former", "sam2")


def test_operations_of_a_row_are_those_that_its_batch_is_counted_at(
    make_feed: Callable[..., TrainingFeed], student_config: StudentConfig
) -> None:
    config = TrainingConfig(num_steps=1, batch_rows=12, micro_batch_rows=1, mixture=(MixtureEntry(repeats=2),))
    seen: set[bool] = set()
    for batch in make_feed(config).step_batches(0).micro_batches:
        num_labels, num_tokens = len(batch.label_ids), batch.inputs.input_ids.numel()
        (grid,) = batch.inputs.grids or ((0, 0),)
        masks = sum(len(targets.owner) for targets in batch.targets.values())
        text = num_tokens - (grid[0] * grid[1] + 2 if grid[0] else 0)
        shape = RowShape(grid, text - num_labels, num_labels, masks)
        assert shape.num_tokens == num_tokens
        teachers = [teacher for teacher in TEACHERS if batch.features.get(teacher)]
        pairs = attended_pairs(batch.inputs.structure)
        counted = student_flops(student_config, batch.inputs, num_labels, batch, pairs=pairs).total
        # Text before the picture isn't seen by it, which the estimate, with all text behind, counts as if it were.
        assert row_flops(student_config, shape, teachers) == pytest.approx(counted, rel=0.02)
        seen |= {bool(grid[0])}
    assert seen == {True, False}


def test_rows_are_drawn_as_in_training(corpus: Corpus, student_config: StudentConfig) -> None:
    config = TrainingConfig(num_steps=1, mixture=(MixtureEntry(families=("refer",), repeats=1.5, turns_per_row=3),))
    costs = CostsConfig(characters_per_token=2)
    rows, shapes = rows_of_corpus(corpus, student_config, config, costs)
    assert rows == 4 * 1.5
    assert {shape.grid for shape in shapes} == {(2, 3), (4, 2)}
    assert {shape.num_masks for shape in shapes} == {3}
    halved = rows_of_corpus(corpus, student_config, config, CostsConfig(characters_per_token=4))[1]
    assert all(one.num_tokens > other.num_tokens for one, other in zip(shapes, halved, strict=True))


def test_steps_follow_from_epochs(corpus: Corpus, student_config: StudentConfig) -> None:
    config = TrainingConfig(num_epochs=3, batch_rows=5, mixture=(MixtureEntry(families=("refer",), repeats=2),))
    rows = corpus_mixture(corpus, config)[0].rows_per_epoch
    assert rows == 8
    assert config.steps_of(rows) == 5  # 24 rows
    forecast = forecast_training(student_config, config, CostsConfig(), TEACHERS, corpus)
    assert forecast.num_steps == 5
    assert forecast.num_epochs == pytest.approx(25 / 8)
    assert forecast.rows_per_epoch == 8


def test_hours_are_operations_over_what_accelerators_do(corpus: Corpus, student_config: StudentConfig) -> None:
    config = TrainingConfig(num_steps=10, batch_rows=4, num_workers=2)
    costs = CostsConfig(peak_tflops=1e-6, mfu=0.5, usd_per_accelerator_hour=3)
    forecast = forecast_training(student_config, config, costs, (), corpus)
    assert forecast.flops is not None
    assert forecast.accelerator_hours == pytest.approx(forecast.flops / 0.5e6 / 3600)
    assert forecast.wall_s == pytest.approx((forecast.accelerator_hours or 0) * 1800)
    assert forecast.price == pytest.approx(3 * (forecast.accelerator_hours or 0))
    with_teachers = forecast_training(student_config, config, costs, TEACHERS, corpus)
    assert (with_teachers.flops or 0) > forecast.flops
    unweighted = config.model_copy(update={"losses": LossWeights(distillation={})})
    assert forecast_training(student_config, unweighted, costs, TEACHERS, corpus).flops == forecast.flops


def test_frozen_weights_need_no_gradients_of_their_own(student_config: StudentConfig) -> None:
    def flops(**fields: object) -> float:
        config = TrainingConfig.model_validate({"num_steps": 10, **fields})
        return forecast_training(student_config, config, CostsConfig(), ()).flops or 0.0

    assert flops(trained="patch_embedding") == pytest.approx(flops() * 2 / 3)
    assert flops(lora={"rank": 4}) == pytest.approx(flops() * 2 / 3)


def test_without_a_corpus_the_recipe_says_how_much_there_is(student_config: StudentConfig) -> None:
    config = TrainingConfig(num_epochs=1, batch_rows=10, mixture=(MixtureEntry(repeats=2), MixtureEntry(repeats=0.5)))
    unknown = forecast_training(student_config, config, CostsConfig(), ())
    assert (unknown.source, unknown.num_steps, unknown.tokens, unknown.flops) == ("nothing says", None, None, None)
    stated = forecast_training(student_config, config, CostsConfig(mixture_rows=(100, 40)), ())
    assert (stated.rows_per_epoch, stated.num_steps, stated.source) == (220, 22, "costs.mixture_rows")
    assert stated.tokens_per_row == 6 * 8 + 2 + 150  # 480 x 640 px become 48 x 64 px: 6 x 8 patches
    fixed = TrainingConfig(num_steps=7, batch_rows=10, mixture=config.mixture)
    assert forecast_training(student_config, fixed, CostsConfig(), ()).tokens == 7 * 10 * 200


def test_of_the_published_half_billion_the_layers_are_most() -> None:
    """3 x 2 operations for each of the decoder's weights and tokens are a lower bound, and near."""
    recipe = load_recipe("pixel-sail-0.5b")
    forecast = forecast_training(recipe.student, recipe.training, recipe.costs, TEACHERS)
    assert forecast.tokens is not None
    assert forecast.flops is not None
    num_weights = 494_032_768 - 151_936 * 896
    assert 1 < forecast.flops / (6 * num_weights * forecast.tokens) < 2.2
