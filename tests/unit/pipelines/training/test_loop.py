"""The training loop: schedule, learning, accumulation, resuming, several ranks."""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed

from model.attention import DenseMask, Spans
from model.config import InitialHeads, StudentConfig
from model.objective import LossTerms, LossWeights, compute_losses, training_batch
from model.packing import collate_packed
from model.predictor import Predictor, Request
from model.processor import Processor
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from pipelines.training.config import MixtureEntry, TrainingConfig
from pipelines.training.feed import TrainingFeed
from pipelines.training.loop import Trainer, learning_rate_factor, make_optimizers, parameter_count
from pipelines.training.rows import target_masks
from pipelines.training.run_state import SavedParts, States
from storage.masks import decode_mask
from storage.objects import Objects
from storage.schema import ImageRecord, Region, Task

MakeFeed = Callable[..., TrainingFeed]
WORKER = Path(__file__).with_name("rank_worker.py")


def config(**fields: object) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "num_steps": 4,
            "batch_rows": 4,
            "micro_batch_rows": 2,
            "learning_rate": 1e-3,
            "mask_points": None,
            **fields,
        }
    )


def make_trainer(student_config: StudentConfig, recipe: TrainingConfig) -> Trainer:
    model = PixelSail(student_config).init_weights(torch.Generator().manual_seed(recipe.seed))
    return Trainer(model, make_optimizers(model, recipe), recipe, torch.device("cpu"))


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def gradients_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def keep(rows: list[dict[str, float]]) -> Callable[[int, Mapping[str, float], Mapping[str, float]], None]:
    return lambda step, metrics, seconds: rows.append({"done": float(step), **metrics, **seconds})


def test_warm_up_is_linear_and_cosine_follows() -> None:
    factors = [learning_rate_factor(step, 100, 0.2) for step in range(100)]
    assert factors[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert factors[20:] == pytest.approx([(1 + np.cos(np.pi * step / 80)) / 2 for step in range(80)])
    assert min(factors) > 0
    assert learning_rate_factor(100, 100, 0.2) == pytest.approx(0)


@pytest.mark.parametrize(("num_steps", "share"), [(1, 0.05), (1, 1.0), (3, 0.0), (5, 1.0), (7, 0.05)])
def test_short_schedules_stay_in_range(num_steps: int, share: float) -> None:
    assert all(0 < learning_rate_factor(step, num_steps, share) <= 1 for step in range(num_steps))


def test_weights_are_decayed_and_biases_are_not(student: PixelSail) -> None:
    optimizers = make_optimizers(student, config(weight_decay=0.3, betas=(0.8, 0.9)))
    assert list(optimizers) == ["adamw"]
    matrices, vectors = optimizers["adamw"].param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert matrices["betas"] == (0.8, 0.9)
    assert {p.ndim for p in vectors["params"]} == {1}
    assert sum(p.numel() for p in [*matrices["params"], *vectors["params"]]) == parameter_count(student)


def test_muon_takes_the_matrices_of_the_layers(student: PixelSail) -> None:
    optimizers = make_optimizers(student, config(muon_learning_rate=0.01))
    taken = {id(p) for group in optimizers["muon"].param_groups for p in group["params"]}
    expected = {id(p) for name, p in student.named_parameters() if name.startswith("layers.") and p.ndim == 2}
    assert taken == expected
    rest = {id(p) for group in optimizers["adamw"].param_groups for p in group["params"]}
    assert not taken & rest
    assert len(taken) + len(rest) == len(list(student.parameters()))


def test_metrics_and_learning_rates_of_a_run(make_feed: MakeFeed, student_config: StudentConfig) -> None:
    recipe = config(warmup_share=0.5, muon_learning_rate=0.02)
    trainer = make_trainer(student_config, recipe)
    rows: list[dict[str, float]] = []
    trainer.run(make_feed(recipe).batches(0), 0, keep(rows))
    assert [row["done"] for row in rows] == [1, 2, 3, 4]
    assert [row["learning_rate"] for row in rows] == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4])
    assert trainer.optimizers["muon"].param_groups[0]["lr"] == pytest.approx(0.01)
    assert {"loss", "text", "mask_bce", "mask_dice", "gradient_norm", "wait_s", "step_s"} <= rows[0].keys()
    assert all(np.isfinite(value) for row in rows for value in row.values())


@pytest.mark.parametrize("muon_learning_rate", [None, 0.02])
def test_four_conversations_are_learnt(
    make_feed: MakeFeed, student_config: StudentConfig, muon_learning_rate: float | None
) -> None:
    recipe = config(
        num_steps=60,
        micro_batch_rows=4,
        learning_rate=2e-2,
        muon_learning_rate=muon_learning_rate,
        mixture=(MixtureEntry(tasks=(Task.REASONING,)),),
        losses=LossWeights(text_with_masks=1.0, mask_dice=2.0),
    )
    trainer = make_trainer(student_config, recipe)
    batches = make_feed(recipe).step_batches(0)
    rows: list[dict[str, float]] = []
    trainer.run(iter([batches] * 60), 0, keep(rows))
    assert rows[-1]["text"] < 0.1 * rows[0]["text"]
    assert rows[-1]["mask_bce"] < 0.5 * rows[0]["mask_bce"]
    assert rows[-1]["mask_dice"] < 0.6 * rows[0]["mask_dice"]
    assert rows[-1]["distillation/sam2"] < rows[0]["distillation/sam2"]
    assert rows[-1]["loss"] < 0.4 * rows[0]["loss"]


def test_a_description_follows_its_visual_prompt(
    make_feed: MakeFeed,
    student_config: StudentConfig,
    tokenizer: StudentTokenizer,
    pictures: list[tuple[ImageRecord, dict[str, Region]]],
) -> None:
    """Two objects of a picture stand under prompts of random numbers: only who reads the number can tell them apart."""
    recipe = config(
        num_steps=100,
        batch_rows=8,
        micro_batch_rows=8,
        learning_rate=3e-3,
        muon_learning_rate=2e-2,
        turns="branched",
        absent_prompt_share=0.0,
        mixture=(MixtureEntry(families=("talk",), turns_per_row=2),),
        losses=LossWeights(distillation={}),
    )
    sizes = {"hidden_size": 64, "num_key_value_heads": 2, "max_side_px": 32}
    heads = InitialHeads(recent_text=1, prompted_patches=1)
    trainer = make_trainer(student_config.model_copy(update={**sizes, "initial_heads": heads}), recipe)
    trainer.run(make_feed(recipe).batches(0), 0, keep([]))
    predictor = Predictor(trainer.model, tokenizer)
    asked = [(number, order) for number in range(len(pictures)) for order in (("red", "blue"), ("blue", "red"))]
    requests = [
        Request(
            Image.open(io.BytesIO(pictures[number][0].data or b"")),
            f"describe <region{place}>",
            tuple(decode_mask(pictures[number][1][colour].mask) for colour in order),
        )
        for number, order in asked
        for place in (1, 2)
    ]
    found = [answer.text for answer in predictor.answer(requests, 12)]
    expected = [f"<Prompt{place}>: a {colour} square" for _, order in asked for place, colour in enumerate(order)]
    assert found == expected


@pytest.mark.parametrize("micro_batch_rows", [1, 2, 3])
def test_accumulation_is_one_large_batch(
    make_feed: MakeFeed, student_config: StudentConfig, micro_batch_rows: int
) -> None:
    results = []
    for rows in (4, micro_batch_rows):
        recipe = config(micro_batch_rows=rows, clip_norm=1e9)
        trainer = make_trainer(student_config, recipe)
        micro_batches = make_feed(recipe).step_batches(0).micro_batches
        assert len(micro_batches[0].labels) == rows
        results.append((trainer.step(0, micro_batches), gradients_of(trainer)))
    (metrics, gradients), (accumulated, parts) = results
    assert accumulated == pytest.approx(metrics, rel=1e-5)
    assert gradients.keys() == parts.keys()
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(parts[name], gradient, rtol=0, atol=1e-6 * max(scale, 1.0), msg=name)


def test_gradients_are_clipped(make_feed: MakeFeed, student_config: StudentConfig) -> None:
    recipe = config(clip_norm=0.01)
    trainer = make_trainer(student_config, recipe)
    metrics = trainer.step(0, make_feed(recipe).step_batches(0).micro_batches)
    assert metrics["gradient_norm"] > 0.1
    norm = torch.stack([gradient.norm() for gradient in gradients_of(trainer).values()]).norm().item()
    assert norm == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("fields", [{}, {"muon_learning_rate": 0.01, "turns": "branched"}], ids=["plain", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    make_feed: MakeFeed,
    student_config: StudentConfig,
    run_folder: Objects,
    fields: dict[str, object],
) -> None:
    """Bit for bit, points and wordings included: everything is drawn anew from the position."""
    recipe = config(num_steps=6, mask_points=30, **fields)
    whole = make_trainer(student_config, recipe)
    rows: list[dict[str, float]] = []

    def after_step(step: int, metrics: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        rows.append(dict(metrics))
        if step == 3:
            saved.update(weights_of(whole))
            states.save(step, SavedParts(whole.model, whole.optimizers), {})

    states = States(run_folder)
    saved: dict[str, torch.Tensor] = {}
    whole.run(make_feed(recipe).batches(0), 0, after_step)
    states.wait()
    resumed = make_trainer(student_config, recipe.model_copy(update={"seed": 99}))
    resumed.config = recipe
    progress = states.load(SavedParts(resumed.model, resumed.optimizers))
    assert progress == {"step": 3}
    assert all(tensor.equal(saved[name]) for name, tensor in weights_of(resumed).items())
    resumed.run(make_feed(recipe).batches(3), 3, lambda _, metrics, __: rows.append(dict(metrics)))
    expected = weights_of(whole)
    assert all(tensor.equal(expected[name]) for name, tensor in weights_of(resumed).items())
    assert [row["loss"] for row in rows[3:6]] == [row["loss"] for row in rows[6:]]
    assert not expected["embed_tokens.weight"].equal(saved["embed_tokens.weight"])


def test_sampled_points_differ_between_steps(make_feed: MakeFeed, student_config: StudentConfig) -> None:
    recipe = config(mask_points=20, learning_rate=1e-12)
    trainer = make_trainer(student_config, recipe)
    batches = make_feed(recipe).step_batches(0).micro_batches
    first, second = trainer.step(0, batches), trainer.step(1, batches)
    assert first["mask_bce"] != second["mask_bce"]
    assert first["text"] == pytest.approx(second["text"], rel=1e-6)
    again = make_trainer(student_config, recipe).step(0, batches)
    assert again["mask_bce"] == first["mask_bce"]


def test_bfloat16_is_close_to_float32(make_feed: MakeFeed, student_config: StudentConfig) -> None:
    batches = make_feed(config()).step_batches(0).micro_batches
    exact, half = (
        make_trainer(student_config, config(precision=precision)).step(0, batches)
        for precision in ("float32", "bfloat16")
    )
    assert half["loss"] != exact["loss"]
    assert half["loss"] == pytest.approx(exact["loss"], rel=0.03)


@pytest.mark.parametrize("compile_layers", [False, True])
def test_compiled_layers_attend_by_masks_and_others_by_spans(
    make_feed: MakeFeed, student_config: StudentConfig, monkeypatch: pytest.MonkeyPatch, *, compile_layers: bool
) -> None:
    """Rows count as long from five tokens on; what is learnt doesn't depend on it."""
    recipe = config(compile_layers=compile_layers)
    batches = make_feed(recipe).step_batches(0).micro_batches
    expected = make_trainer(student_config, recipe).step(0, batches)
    plans: list[object] = []

    def spying(*arguments: object) -> LossTerms:
        plans.append(arguments[-1])
        return compute_losses(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("model.attention._DENSE_TOKENS", 4)
    monkeypatch.setattr("pipelines.training.loop.compute_losses", spying)
    assert make_trainer(student_config, recipe).step(0, batches) == pytest.approx(expected, rel=1e-5)
    assert [type(plan) for plan in plans] == [DenseMask if compile_layers else Spans] * 2


def test_packed_conversations_make_the_same_step(
    make_feed: MakeFeed, student_config: StudentConfig, processor: Processor
) -> None:
    recipe = config(micro_batch_rows=4, clip_norm=1e9)
    feed = make_feed(recipe)
    conversations = [feed.conversation(feed.place(row)) for row in range(4)]
    rows = [processor.encode(image, talk.turns, talk.visual_prompts) for talk, image in conversations]
    masks = [torch.from_numpy(target_masks([talk])[0]) for talk, image in conversations if image is not None]
    results: list[tuple[dict[str, float], dict[str, torch.Tensor]]] = []
    for groups in ([[row] for row in rows], [rows[:3], rows[3:]]):
        trainer = make_trainer(student_config, recipe)
        batch = training_batch(*collate_packed(groups, 0), masks, {}, processor.tokenizer.seg)
        results.append((trainer.step(0, [batch]), gradients_of(trainer)))
    (metrics, gradients), (packed, parts) = results
    assert packed == pytest.approx(metrics, rel=1e-5)
    assert metrics["mask_bce"] > 0
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(parts[name], gradient, rtol=0, atol=1e-5 * max(scale, 1.0), msg=name)


def test_two_ranks_equal_one_process(
    make_feed: MakeFeed,
    student_config: StudentConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last step has no mask in any rank: what gets no gradient must stay as it is there, too."""
    talk, everything = (
        config(num_steps=3, batch_rows=5, mixture=mixture)
        for mixture in ((MixtureEntry(families=("talk",)),), (MixtureEntry(),))
    )
    single = make_trainer(student_config, everything)
    start = weights_of(single)

    def steps(rank: int, world_size: int) -> list[object]:
        feed, talks = make_feed(everything, rank, world_size), make_feed(talk, rank, world_size)
        return [feed.step_batches(0), feed.step_batches(1), talks.step_batches(2)]

    for rank in range(2):
        job = (everything, student_config, start, steps(rank, 2))
        (tmp_path / f"job-{rank}.pickle").write_bytes(pickle.dumps(job))
    if sys.platform == "linux":
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    other = subprocess.Popen([sys.executable, str(WORKER), str(tmp_path)], env={**os.environ, "PYTHONPATH": path})
    spec = importlib.util.spec_from_file_location("rank_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    try:
        worker.join(tmp_path, 0)
        first = worker.train(tmp_path, 0).state_dict()
        assert other.wait(120) == 0
    finally:
        other.kill()
        other.wait()
        if distributed.is_initialized():
            distributed.destroy_process_group()
    rows: list[dict[str, float]] = []
    single.run(iter(steps(0, 1)), 0, keep(rows))  # type: ignore[arg-type]
    second = pickle.loads((tmp_path / "weights-1.pickle").read_bytes())
    ours, theirs = (pickle.loads((tmp_path / f"metrics-{rank}.pickle").read_bytes()) for rank in range(2))
    for one, two, expected in zip(ours, theirs, rows, strict=True):
        for name in ("loss", "text", "mask_bce", "gradient_norm", "distillation/sam2"):
            assert one[name] == two[name] == pytest.approx(expected[name], rel=1e-5)
    for name, tensor in single.model.state_dict().items():
        assert first[name].equal(second[name])
        # AdamW divides tiny gradients by their own size, so that rounding grows up to steps of 1e-3.
        difference = (first[name] - tensor).abs()
        assert difference.max() < 2e-5, name
        assert difference.mean() < 1e-6, name
