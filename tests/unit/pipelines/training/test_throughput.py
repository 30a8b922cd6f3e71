"""Rates, stalls and use of the device, and the line that a reader sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch

from model.config import StudentConfig
from model.flops import batch_flops
from model.lora import LoraConfig
from model.objective import TrainingBatch
from pipelines.training.config import TrainingConfig
from pipelines.training.families import family_sums, mean_metrics
from pipelines.training.feed import StepBatches, TrainingFeed
from pipelines.training.meter import Meter, progress_facts
from pipelines.training.throughput import Throughput, peak_flops
from tests.counted_metrics import CountedMetrics

CPU = torch.device("cpu")


def batches(
    num_tokens: int = 100, seconds: Mapping[str, float] | None = None, micro_batches: tuple[TrainingBatch, ...] = ()
) -> StepBatches:
    return StepBatches(0, micro_batches, (), (), (), num_tokens, seconds or {})


@pytest.fixture
def recipe() -> TrainingConfig:
    return TrainingConfig(num_steps=8, batch_rows=6)


def test_rates_and_stalls_of_a_window(student_config: StudentConfig, recipe: TrainingConfig) -> None:
    counted = CountedMetrics()
    throughput = Throughput(student_config, recipe, CPU, world_size=2, metrics=counted)
    loader = {"storage": 3.0, "decode": 1.0, "encode": 0.5, "host_to_device": 0.5}
    throughput.add(batches(seconds=loader), {"step_s": 0.6, "wait_s": 0.1})
    throughput.add(batches(300), {"step_s": 0.4, "wait_s": 0.2})
    reading = throughput.reading()
    assert reading["step_s"] == pytest.approx(0.5)
    assert reading["samples_per_s"] == pytest.approx(12)
    assert reading["tokens_per_s"] == pytest.approx(2 * (100 + 300))
    # Waiting is shared out as the loader's own seconds are, however many threads it has.
    assert reading["stall/storage"] == pytest.approx(0.3 * 3 / 5)
    assert reading["stall/decode"] == pytest.approx(0.3 / 5)
    assert reading["stall/encode"] == reading["stall/host_to_device"] == pytest.approx(0.3 / 10)
    assert reading["stall_share"] == pytest.approx(0.3)
    assert 0.05 < reading["memory_gib"] < 64
    assert "mfu" not in reading
    assert counted.values == {("sailloft_step_seconds",): [0.6, 0.4]}
    assert counted.counts["sailloft_tokens_total",] == 2 * (100 + 300)
    assert counted.counts["sailloft_step_wait_seconds_total",] == pytest.approx(0.3)


def test_a_reading_covers_the_steps_since_the_last(student_config: StudentConfig, recipe: TrainingConfig) -> None:
    throughput = Throughput(student_config, recipe, CPU)
    assert throughput.reading() == {}
    throughput.add(batches(), {"step_s": 4.0, "wait_s": 4.0})
    assert throughput.reading()["stall_share"] == 1
    throughput.add(batches(), {"step_s": 1.0})
    reading = throughput.reading()
    assert (reading["stall_share"], reading["step_s"], reading["tokens_per_s"]) == (0, 1, 100)
    assert throughput.reading() == {}


def test_waiting_without_the_loader_s_seconds_counts_as_storage(
    student_config: StudentConfig, recipe: TrainingConfig
) -> None:
    throughput = Throughput(student_config, recipe, CPU)
    throughput.add(batches(), {"step_s": 1.0, "wait_s": 0.25})
    reading = throughput.reading()
    assert (reading["stall/storage"], reading["stall/decode"]) == (0.25, 0)


@pytest.mark.parametrize(("lora", "passes"), [(None, 3), (LoraConfig(rank=2), 2)])
def test_utilisation_is_the_student_s_own_work_over_the_peak(
    make_feed: Callable[..., TrainingFeed], student_config: StudentConfig, lora: LoraConfig | None, passes: int
) -> None:
    recipe = TrainingConfig(num_steps=2, batch_rows=4, micro_batch_rows=2, lora=lora)
    micro_batches = make_feed(recipe).step_batches(0).micro_batches
    throughput = Throughput(student_config, recipe, CPU, peak_flops_per_s=1e9)
    throughput.add(batches(micro_batches=micro_batches), {"step_s": 0.5})
    forward = sum(batch_flops(student_config, batch) for batch in micro_batches)
    assert throughput.reading()["mfu"] == pytest.approx(passes * forward / 0.5 / 1e9)
    without = replace(micro_batches[0], features={})
    assert batch_flops(student_config, without) < batch_flops(student_config, micro_batches[0])


def test_peaks_are_found_by_part_of_the_name() -> None:
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA L40") == 181e12
    assert peak_flops("Some Accelerator") is None


def test_families_are_averaged_over_conversations_not_over_steps() -> None:
    steps = [
        {**family_sums([1.0, 3.0, 5.0], ["a", "a", "b"]), "loss": 3.0},
        {**family_sums([8.0], ["a"]), "loss": 8.0},
    ]
    assert mean_metrics(steps) == {"loss": 5.5, "loss/a": 4.0, "loss/b": 5.0}


def test_sums_of_ranks_give_the_means_of_one_process() -> None:
    losses, families = [1.0, 2.0, 4.0, 9.0], ["a", "b", "a", "a"]
    ranks = [family_sums(losses[start::2], families[start::2]) for start in (0, 1)]
    summed = {name: sum(rank.get(name, 0.0) for rank in ranks) for name in {n for rank in ranks for n in rank}}
    assert mean_metrics([summed]) == mean_metrics([family_sums(losses, families)])


def test_every_conversation_has_one_family() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        family_sums([1.0, 2.0], ["a", "b", "c"])


def test_the_driver_sees_the_newest_of_each_name() -> None:
    meter = Meter()
    assert progress_facts(meter.get()) == {}
    meter.put({"step": 2, "loss": 0.5, "mask_bce": 0.1, "samples_per_s": 51.26, "mfu": 0.4512})
    meter.put({"validation/cIoU": 0.6123})
    meter.put({"step": 4, "loss": 0.25, "skipped_steps": 3.0})
    assert progress_facts(meter.get()) == {
        "loss": 0.25,
        "samples/s": "51.3",
        "mfu": "45.1%",
        "cIoU": "0.612",
        "skipped": 3,
    }
