"""What a training worker does beside the loop, without Ray: tokenizer, first weights, records, the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest
import torch

from model.checkpoint import checkpoint_files, load_checkpoint
from model.config import StudentConfig
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from pipelines.progress import NullProgress
from pipelines.training.beginning import first_model, first_tokenizer
from pipelines.training.config import TrainingConfig, training_key
from pipelines.training.ema import MovingAverage
from pipelines.training.keeper import Keeper, publish_checkpoint
from pipelines.training.loop import Trainer, Wanted, make_optimizers
from pipelines.training.pipeline import _as_sailloft_error, train
from pipelines.training.run_state import States
from pipelines.training.watch import Watch
from pipelines.training.worker import Job
from storage.corpus import Corpus
from storage.errors import DataError, InfrastructureError, UsageError
from storage.manifest import verify_manifest
from storage.objects import Objects

INPUTS = {"corpus": "c"}


@pytest.fixture
def make_job(student_config: StudentConfig, run_folder: Objects) -> Callable[..., Job]:
    def make(**fields: object) -> Job:
        config = TrainingConfig.model_validate({"num_steps": 6, "log_every": 2, "checkpoint_every": 3, **fields})
        return Job("memory://none", {}, student_config, config, run_folder.url, INPUTS)

    return make


def make_trainer(job: Job, rank: int = 0) -> Trainer:
    model = PixelSail(job.student).init_weights(torch.Generator().manual_seed(4))
    decay = job.training.ema_decay
    return Trainer(
        model,
        make_optimizers(model, job.training),
        job.training,
        torch.device("cpu"),
        rank,
        average=None if decay is None else MovingAverage(model, decay),
    )


@pytest.fixture
def checkpoint(student: PixelSail, tokenizer: StudentTokenizer, run_folder: Objects) -> Objects:
    folder = run_folder.child("earlier")
    for name, data in checkpoint_files(student, tokenizer).items():
        folder.put(name, data)
    return folder


def test_tokenizer_is_learnt_from_the_corpus(corpus: Corpus, student_config: StudentConfig) -> None:
    config = TrainingConfig(num_steps=1)
    student = student_config.model_copy(update={"vocab_size": 400})
    samples = list(corpus.samples(splits=["train"]))
    tokenizer = first_tokenizer(student, config, samples)
    assert tokenizer.to_json() == first_tokenizer(student, config, reversed(samples)).to_json()
    assert len(tokenizer.encode("describe")) == 1
    assert len(tokenizer.visual_prompts) == 5


def test_fresh_weights_follow_from_the_seed(student_config: StudentConfig) -> None:
    first, again, other = (first_model(student_config, TrainingConfig(num_steps=1, seed=seed)) for seed in (1, 1, 2))
    assert first.vis_embed.weight.equal(again.vis_embed.weight)
    assert not first.vis_embed.weight.equal(other.vis_embed.weight)


def test_training_can_start_from_a_checkpoint(
    student: PixelSail, student_config: StudentConfig, tokenizer: StudentTokenizer, checkpoint: Objects
) -> None:
    config = TrainingConfig(num_steps=1, seed=9, init=checkpoint.url)
    assert first_tokenizer(student_config, config, []).to_json() == tokenizer.to_json()
    model = first_model(student_config, config)
    for name, tensor in model.state_dict().items():
        if name.startswith("distillation_heads.") and name.endswith("weight"):
            assert not tensor.equal(student.state_dict()[name])
        else:
            assert tensor.equal(student.state_dict()[name])


def test_tokens_of_pixel_tasks_can_be_drawn_anew(
    student: PixelSail, student_config: StudentConfig, tokenizer: StudentTokenizer, checkpoint: Objects
) -> None:
    """And nothing else; they end up as different from one another as other tokens are."""
    model = first_model(student_config, TrainingConfig(num_steps=1, init=checkpoint.url, pixel_tokens="drawn"))
    before, after = student.embed_tokens.weight.detach(), model.embed_tokens.weight.detach()
    changed = (before != after).any(1).nonzero()[:, 0].tolist()
    assert sorted(tokenizer.pixel_tokens) == changed
    assert len(changed) == 2 + 5  # [SEG], the token of a pooled region, five prompts
    others = before[[row for row in range(len(before)) if row not in changed]]
    assert after[changed].std() == pytest.approx(float(others.std()), rel=0.2)
    assert model.seg_query.state_dict()["0.weight"].equal(student.seg_query.state_dict()["0.weight"])
    again = first_model(student_config, TrainingConfig(num_steps=1, init=checkpoint.url, pixel_tokens="drawn"))
    assert again.embed_tokens.weight.equal(after)


@pytest.mark.parametrize("fields", [{"intermediate_size": 56}, {"num_layers": 3}, {"num_layers": 1}])
def test_a_checkpoint_of_another_student_is_refused(
    student_config: StudentConfig, checkpoint: Objects, fields: dict[str, int]
) -> None:
    student = student_config.model_copy(update=fields)
    with pytest.raises(UsageError, match=rf"training\.init {checkpoint.url}: .* these differ: layers\."):
        first_model(student, TrainingConfig(num_steps=1, init=checkpoint.url))


def test_metrics_are_averaged_and_states_saved(make_job: Callable[..., Job], run_folder: Objects) -> None:
    """Steps between the last row and the state are part of the state: the next row counts them too."""
    states, reported = States(run_folder), []
    trainer = make_trainer(make_job())
    keeper = Keeper(trainer, states)
    keeper.watch = Watch(trainer.config, reported.append)
    assert keeper.resume() == 0
    for step in range(1, 7):
        keeper.after_step(step, {"loss": float(step), **({"mask_bce": 4.0} if step == 3 else {})}, {"step_s": 1.0})
    assert keeper.rows == [
        {"step": 2, "loss": 1.5},
        {"step": 4, "loss": 3.5, "mask_bce": 4.0},
        {"step": 6, "loss": 5.5},
    ]
    assert reported == [{**row, "skipped_steps": 0} for row in keeper.rows]
    resumed = Keeper(make_trainer(make_job()), states)
    assert resumed.resume() == 3
    assert resumed.rows == [{"step": 2, "loss": 1.5}]
    for step in range(4, 7):
        resumed.after_step(step, {"loss": float(step)}, {"step_s": 1.0})
    assert resumed.rows == keeper.rows


def test_only_the_first_rank_records(make_job: Callable[..., Job], run_folder: Objects) -> None:
    reported: list[Mapping[str, float]] = []
    trainer = make_trainer(make_job(checkpoint_every=100), rank=1)
    keeper = Keeper(trainer, States(run_folder))
    keeper.watch = Watch(trainer.config, reported.append)
    for step in range(1, 7):
        keeper.after_step(step, {"loss": 1.0}, {"step_s": 1.0})
    assert keeper.rows == reported == []


@pytest.mark.parametrize("wanted", [Wanted.SAVE, Wanted.STOP])
def test_a_wish_is_granted_with_a_state(make_job: Callable[..., Job], run_folder: Objects, wanted: Wanted) -> None:
    """Complete when `after_step` returns: the process may be gone a moment later."""
    trainer = make_trainer(make_job(checkpoint_every=100))
    states = States(run_folder)
    keeper = Keeper(trainer, states)
    keeper.after_step(1, {"loss": 1.0}, {})
    trainer.agreed = wanted
    keeper.after_step(2, {"loss": 1.0}, {})
    assert "step-00000002/manifest.json" in {info.key for info in run_folder.list()}
    assert Keeper(make_trainer(make_job()), states).resume() == 2


def test_a_checkpoint_is_published_without_distillation_heads(
    make_job: Callable[..., Job], tokenizer: StudentTokenizer, corpus: Corpus
) -> None:
    job = make_job()
    trainer = make_trainer(job)
    output = Objects.open(job.output)
    output.put("model.safetensors", b"what a killed run left")
    publish_checkpoint(trainer, job.student, tokenizer, [{"step": 2.0, "loss": 0.5}], output, INPUTS)
    manifest = verify_manifest(output)
    assert manifest.key == training_key(job.student, job.training, INPUTS)
    assert sorted(entry.path for entry in manifest.files) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "metrics.jsonl",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert json.loads(output.read("metrics.jsonl")) == {"step": 2.0, "loss": 0.5}
    loaded, _ = load_checkpoint(output)
    assert loaded.config.distillation == ()
    trained = trainer.model.state_dict()
    assert all(tensor.equal(trained[name]) for name, tensor in loaded.state_dict().items())
    assert manifest.facts["num_parameters"] == sum(tensor.numel() for tensor in loaded.state_dict().values())
    # What is there isn't trained again: no Ray session is started. States that a killed run left are cleared.
    output.put("state/step-00000002/state.pt", b"left")
    assert train(corpus, {}, job.student, job.training, output, NullProgress(), INPUTS) == manifest
    assert not list(output.child("state").list())


def test_the_average_is_published_where_there_is_one(
    make_job: Callable[..., Job], tokenizer: StudentTokenizer, run_folder: Objects
) -> None:
    job = make_job(ema_decay=0.75)
    trainer = make_trainer(job)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(1.0)
    assert trainer.average is not None
    trainer.average.update()
    publish_checkpoint(trainer, job.student, tokenizer, [], run_folder, INPUTS)
    loaded, _ = load_checkpoint(run_folder)
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, before[name] + 0.25, rtol=0, atol=1e-6)
    assert trainer.model.norm.weight[0] == before["norm.weight"][0] + 1


def test_the_worker_s_own_error_comes_out(make_job: Callable[..., Job]) -> None:
    job = make_job()
    own = DataError("image x is torn")
    wrapped = RuntimeError("worker 0 failed")
    wrapped.worker_failures = {0: own}  # type: ignore[attr-defined]
    outer = RuntimeError("training failed")
    outer.__cause__ = wrapped
    assert _as_sailloft_error(outer, job) is own
    other = _as_sailloft_error(RuntimeError("node lost"), job)
    assert isinstance(other, InfrastructureError)
    assert "node lost; the newest state is kept, run the same command again" in str(other)
