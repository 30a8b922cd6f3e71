"""Which steps count, and what is kept of those that don't."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load as from_safetensors

from pipelines.training.config import SurvivalConfig, TrainingConfig
from pipelines.training.ema import MovingAverage
from pipelines.training.feed import TrainingFeed
from pipelines.training.guard import Guard, keep_for_inspection
from storage.errors import TooManySkips
from storage.objects import Objects


def test_losses_that_are_no_numbers_are_skipped() -> None:
    guard = Guard(SurvivalConfig())
    assert guard.judge(1.0, 2.0) is None
    assert guard.judge(float("nan"), 2.0) == "the loss is nan"
    assert guard.judge(float("inf"), 2.0) == "the loss is inf"
    assert guard.judge(1.0, float("nan")) == "the gradient norm is nan"
    assert guard.num_skipped == 3


def test_a_leap_is_measured_by_the_median_of_what_counted() -> None:
    guard = Guard(SurvivalConfig(spike_factor=3.0, spike_window=3))
    assert guard.judge(100.0, 1.0) is None
    assert guard.judge(1.0, 1.0) is None
    assert guard.judge(50.0, 1.0) is None, "the window isn't full"
    assert guard.judge(2.0, 1.0) is None
    assert guard.judge(6.0, 1.0) is None, "the median of 1, 50 and 2 is 2"
    reason = guard.judge(18.5, 1.0)  # of 50, 2 and 6 it is 6
    assert reason == "the loss is 18.5, more than 3 times the median 6 of the last ones"
    assert guard.judge(18.0, 1.0) is None
    assert guard.num_skipped == 1


def test_leaps_count_where_the_recipe_says_so() -> None:
    guard = Guard(SurvivalConfig(spike_factor=None, spike_window=1))
    assert guard.judge(1.0, 1.0) is None
    assert guard.judge(1e6, 1.0) is None


def test_a_resumed_guard_decides_alike() -> None:
    config = SurvivalConfig(spike_factor=2.0, spike_window=4)
    losses = [1.0, 1.5, 0.9, 5.0, 1.1, float("nan"), 1.0, 2.3, 2.1, 1.9, 0.1]
    whole = Guard(config)
    expected = [whole.judge(loss, 1.0) for loss in losses]
    assert 1 < sum(reason is not None for reason in expected) < 5
    for cut in range(len(losses)):
        first, second = Guard(config), Guard(config)
        found = [first.judge(loss, 1.0) for loss in losses[:cut]]
        second.load(json.loads(json.dumps(first.state())))
        assert found + [second.judge(loss, 1.0) for loss in losses[cut:]] == expected
        assert second.num_skipped == whole.num_skipped


def test_too_many_skips_end_the_run() -> None:
    guard = Guard(SurvivalConfig(max_skipped=1))
    guard.judge(float("nan"), 1.0)
    guard.check(7, "the loss is nan", "there")
    guard.judge(float("nan"), 1.0)
    with pytest.raises(
        TooManySkips, match=r"step 8: expected at most 1 skipped steps, .* 2 \(the loss is nan\); .* in there"
    ):
        guard.check(8, "the loss is nan", "there")


def test_batches_are_kept_as_they_were(make_feed: Callable[..., TrainingFeed], run_folder: Objects) -> None:
    step = make_feed(TrainingConfig(num_steps=1, batch_rows=4, micro_batch_rows=2)).step_batches(0)
    metrics = {"loss": float("nan"), "text": 1.5}
    keep_for_inspection(run_folder, 12, 1, "the loss is nan", metrics, step.micro_batches, step.sample_ids)
    facts = json.loads(run_folder.read("step-00000012-rank-00001.json"))
    assert facts["metrics"] == {"loss": "nan", "text": 1.5}
    assert facts["sample_ids"] == [list(ids) for ids in step.sample_ids]
    assert facts["documents"] == [2, 2]
    tensors = from_safetensors(run_folder.read("step-00000012-rank-00001.safetensors"))
    for number, batch in enumerate(step.micro_batches):
        for name in ("input_ids", "patches", "patch_slots", "document"):
            assert tensors[f"{number}/{name}"].equal(getattr(batch.inputs, name))
        assert tensors[f"{number}/labels"].equal(batch.labels)
        for (rows, columns), targets in batch.targets.items():
            assert tensors[f"{number}/targets/{rows}x{columns}/masks/0"].equal(targets.masks[0])


def test_the_average_follows_the_weights() -> None:
    model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    start = model.weight.detach().clone()
    average = MovingAverage(model, 0.9)
    assert set(average.weights) == {"weight"}
    with torch.no_grad():
        model.weight += 1.0
    average.update()
    average.update()
    torch.testing.assert_close(average.weights["weight"], start + 1 - 0.9**2)
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), start + 1 - 0.9**2)
    torch.testing.assert_close(model.weight.detach(), start + 1)
