"""The student's benchmarks run once, tiny and untimed: their checks hold and their figures are complete."""

from __future__ import annotations

import json

import pytest
import torch

from model.flops import attended_pairs, student_flops
from model.objective import LossWeights, compute_losses
from tests.benchmarks import student_vs_stack
from tests.benchmarks.__main__ import main, measured
from tests.benchmarks.eager_reference import EagerReference, eager_losses
from tests.benchmarks.measuring import Figures, Options, PeakMemory, in_fresh_process
from tests.benchmarks.mfu import mfu
from tests.benchmarks.registry import SUITES, suite
from tests.benchmarks.step_vs_eager_reference import StepWorkload
from tests.benchmarks.student import BENCHMARKS
from tests.benchmarks.student_counts import counted_flops
from tests.benchmarks.student_workloads import (
    LengthMixture,
    SampleMaker,
    histogram,
    mixed_samples,
    seeded_student,
    tiny_student,
    training_batch_of,
)

TINY = Options(tiny=True)


def ratio_of(figures: Figures, *path: str) -> float:
    found = figures
    for name in (*path, "ratio"):
        inner = found[name]
        assert isinstance(inner, dict)
        found = inner
    value = found["value"]
    assert isinstance(value, float)
    return value


def complete(figures: Figures) -> Figures:
    """Asserts what every benchmark has to say of itself."""
    workload, machine = figures["workload"], figures["machine"]
    assert isinstance(workload, dict)
    assert isinstance(machine, dict)
    assert "student" in workload
    assert {"device", "cores", "torch", "date", "num_threads", "repeats"} <= machine.keys()
    return json.loads(json.dumps(figures))


def test_packed_and_padded_batches_have_the_same_loss() -> None:
    figures = complete(BENCHMARKS["packed_vs_padded"].run(TINY))
    assert ratio_of(figures) > 0
    workload = figures["workload"]
    assert isinstance(workload, dict)
    assert isinstance(workload["packed"], dict)
    assert isinstance(workload["padded"], dict)
    assert workload["packed"]["tflop"] == workload["padded"]["tflop"]
    assert len(workload["packed"]["batch_shapes"]) == len(workload["padded"]["batch_shapes"])


def test_a_step_equals_the_eager_reference() -> None:
    figures = complete(BENCHMARKS["step_vs_eager_reference"].run(TINY))
    assert ratio_of(figures, "time") > 0
    assert ratio_of(figures, "peak_memory") > 0


def test_cached_and_uncached_decoding_give_the_same_tokens() -> None:
    figures = complete(BENCHMARKS["decode_cached_vs_uncached"].run(TINY))
    assert figures["checks"] == {"same_tokens": True, "distinct_tokens": 4}


def test_student_and_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here without processes of their own, which take seconds to start; memory is then that of this one."""
    monkeypatch.setattr(student_vs_stack, "in_fresh_process", lambda function, *args, **named: function(*args, **named))
    figures = complete(BENCHMARKS["student_vs_stack"].run(TINY))
    parameters = figures["parameters"]
    assert isinstance(parameters, dict)
    assert isinstance(parameters["stack_parts"], dict)
    parts = [count for count in parameters["stack_parts"].values() if isinstance(count, int)]
    assert sum(parts) == parameters["stack"]
    assert ratio_of(figures, "latency") > 0
    assert isinstance(figures["peak_memory"], dict)
    assert {"student", "stack", "ratio", "above_weights"} <= figures["peak_memory"].keys()


def variants_of(figures: Figures) -> list[str]:
    variants = complete(figures)["variants"]
    assert isinstance(variants, dict)
    return list(variants)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_step_whose_utilisation_is_measured_runs() -> None:
    assert variants_of(mfu(TINY)) == ["checkpointing off, compile off", "checkpointing on, compile off"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_step_runs_on_cuda_compiled_too() -> None:
    """In a process without jaxtyping's checks, through which layers can't be compiled."""
    assert len(variants_of(in_fresh_process(mfu, TINY))) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, so that it would be measured")
def test_what_this_machine_cannot_run_is_named() -> None:
    assert measured({"mfu": BENCHMARKS["mfu"]}, Options()) == {"not_run": {"mfu": "no CUDA device"}}


def test_json_stands_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["student", "--tiny", "--only", "decode_cached_vs_uncached", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"decode_cached_vs_uncached", "not_run"}


def test_the_table_names_ratio_and_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tiny", "--only", "decode_cached_vs_uncached"]) == 0
    assert "uncached / cached" in capsys.readouterr().out


def test_an_unknown_benchmark_is_refused() -> None:
    assert main(["student", "--only", "nonsense"]) == 2


def test_names_are_unique_over_the_suites() -> None:
    names = [name for found in SUITES for name in suite(found)]
    assert len(names) == len(set(names))


def test_operations_are_counted_as_pytorch_counts_them() -> None:
    """The eager reference holds every score and every logit, so that all its operations are visible."""
    workload = StepWorkload.of(tiny=True)
    batch, points = workload.batch()
    reference = EagerReference(workload.config)
    num_tokens = batch.inputs.input_ids.numel()
    counted = counted_flops(lambda: eager_losses(reference, batch, LossWeights(), points))
    assert student_flops(workload.config, batch.inputs, num_tokens, batch, pairs=num_tokens**2).total == counted


def test_the_eager_reference_agrees_on_every_pixel_and_without_pictures() -> None:
    config = tiny_student()
    maker = SampleMaker(config, 5)
    samples = [[maker.sample((2, 3), 25, 2), maker.sample(None, 30)], [maker.sample((2, 3), 20, 1)]]
    batch, _ = training_batch_of(samples, maker.tokenizer)
    student, reference = seeded_student(config, 5), EagerReference(config)
    reference.load_state_dict(student.state_dict())
    ours = compute_losses(student, batch, LossWeights())
    total, terms = eager_losses(reference, batch, LossWeights(), None)
    torch.testing.assert_close(ours.total, total, rtol=1e-5, atol=0)
    torch.testing.assert_close(dict(ours.terms), terms, rtol=1e-5, atol=0)
    pairs = attended_pairs(batch.inputs.structure)
    assert pairs + int((batch.inputs.document < 0).sum()) == attended_pairs(batch.inputs.structure, padding=True)


def test_few_conversations_follow_the_mixture() -> None:
    mixture = LengthMixture(side_patches=(2, 5), text_tokens=(20, 80), text_only_share=0.25, masks=(1, 2))
    maker = SampleMaker(tiny_student(), 7)
    samples = mixed_samples(maker, mixture, 8, 7)
    pictures = [sample for sample in samples if sample.num_patches]
    assert len(pictures) == 6
    assert all(20 <= sample.num_tokens - sample.num_patches <= 82 for sample in samples)
    assert sorted(len(sample.masks) for sample in pictures if sample.masks is not None) == [1, 1, 1, 2, 2, 2]
    again = mixed_samples(SampleMaker(tiny_student(), 7), mixture, 8, 7)
    assert all(one.row.input_ids.equal(two.row.input_ids) for one, two in zip(samples, again, strict=True))


def test_histogram() -> None:
    assert histogram([0, 9, 10, 29], [0, 10, 30]) == {"0-9": 2, "10-29": 2}


def test_peak_memory_is_what_was_held_at_once() -> None:
    with PeakMemory() as memory:
        held = bytearray(64 * 2**20)
        del held
    assert 60 * 2**20 < memory.peak_bytes < 90 * 2**20
