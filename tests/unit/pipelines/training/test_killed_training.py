"""Runs whose workers are killed, lost or asked to leave end as one that was left in peace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load as from_safetensors

from model.config import StudentConfig
from pipelines.training.config import TrainingConfig
from pipelines.training.worker import Job
from storage.corpus import Corpus
from storage.features import FeatureStore
from storage.manifest import read_manifest, verify_manifest
from storage.objects import Objects
from tests.training_ranks import STOPPED, Ranks, history

NUM_STEPS = 12
MakeJob = Callable[..., Job]


@pytest.fixture(scope="module")
def make_job(
    corpus_on_disk: Corpus, features_on_disk: dict[str, FeatureStore], student_config: StudentConfig
) -> MakeJob:
    """A run of twelve steps through several epochs, with a state behind every second one."""

    def make(output: Path, **fields: object) -> Job:
        config = TrainingConfig.model_validate(
            {
                "num_steps": NUM_STEPS,
                "batch_rows": 4,
                "micro_batch_tokens": 200,
                "learning_rate": 1e-3,
                "mask_points": 50,
                "checkpoint_every": 2,
                "log_every": 3,
                "ema_decay": 0.8,
                **fields,
            }
        )
        stores = {teacher: store.objects.url for teacher, store in features_on_disk.items()}
        return Job(corpus_on_disk.objects.url, stores, student_config, config, str(output), {"corpus": "c"})

    return make


@pytest.fixture(scope="module")
def peaceful(make_job: MakeJob, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path]:
    """A run of one worker that nothing happened to, and its notes."""
    folder = tmp_path_factory.mktemp("peaceful")
    job, notes = make_job(folder / "output"), folder / "notes"
    assert Ranks(job, notes).wait() == [0]
    return job, notes


def files(job: Job) -> dict[str, str]:
    """Hashes of what a run has published."""
    return {entry.path: entry.sha256 for entry in verify_manifest(Objects.open(job.output)).files}


def losses(notes: Path) -> list[float]:
    return [float(str(step["loss"])) for step in history(notes)]


def samples(notes: Path) -> list[object]:
    return [step["samples"] for step in history(notes)]


def test_killed_at_three_steps(make_job: MakeJob, peaceful: tuple[Job, Path], tmp_path: Path) -> None:
    """At random ones, wherever they and the writing of states are just then: the same bytes come out."""
    job, notes = make_job(tmp_path / "killed"), tmp_path / "notes"
    moments = sorted(np.random.default_rng(5).choice(np.arange(1, NUM_STEPS - 1), 3, replace=False).tolist())
    for moment in moments:
        ranks = Ranks(job, notes)
        ranks.wait_for(moment)
        ranks.kill()
        assert read_manifest(Objects.open(job.output)) is None
    assert Ranks(job, notes).wait() == [0]
    assert samples(notes) == samples(peaceful[1])
    assert losses(notes) == losses(peaceful[1])
    assert files(job) == files(peaceful[0])
    assert len(history(notes)) == NUM_STEPS


def test_two_workers_then_one_then_two(make_job: MakeJob, peaceful: tuple[Job, Path], tmp_path: Path) -> None:
    """One of two is killed, on which the other can't go on; the run goes on with one, and again with two."""
    job, notes = make_job(tmp_path / "elastic"), tmp_path / "notes"
    two = Ranks(job, notes, world_size=2)
    two.wait_for(3)
    two.kill([1])
    one = Ranks(job, notes)
    one.wait_for(7)
    one.kill()
    assert Ranks(job, notes, world_size=2).wait() == [0, 0]
    assert samples(notes) == samples(peaceful[1])
    # Sums over two ranks are rounded in another order (measured: up to 2e-7).
    assert losses(notes) == pytest.approx(losses(peaceful[1]), rel=1e-5)


def test_sharded_workers_resume_as_replicas(make_job: MakeJob, peaceful: tuple[Job, Path], tmp_path: Path) -> None:
    """States know nothing of how a run is divided: two shards, one process, two replicas, two shards."""
    notes = tmp_path / "notes"
    sharded, replicated = make_job(tmp_path / "sharded", parallel="fsdp2"), make_job(tmp_path / "sharded")
    for job, world_size, moment in ((sharded, 2, 2), (replicated, 1, 4), (replicated, 2, 7)):
        ranks = Ranks(job, notes, world_size)
        ranks.wait_for(moment)
        ranks.kill()
    assert Ranks(sharded, notes, world_size=2).wait() == [0, 0]
    assert samples(notes) == samples(peaceful[1])
    assert losses(notes) == pytest.approx(losses(peaceful[1]), rel=1e-5)
    ours, theirs = (
        from_safetensors(Objects.open(job.output).read("model.safetensors")) for job in (sharded, peaceful[0])
    )
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert (tensor - theirs[name]).abs().max() < 1e-4, name


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_worker_that_is_asked_to_leave_saves_first(
    make_job: MakeJob, peaceful: tuple[Job, Path], tmp_path: Path, world_size: int
) -> None:
    """SIGTERM to one: all of them save a state behind the same step, end, and the next start goes on from there."""
    job, notes = make_job(tmp_path / "leaving", checkpoint_every=1000), tmp_path / "notes"
    ranks = Ranks(job, notes, world_size)
    ranks.wait_for(4)
    ranks.terminate(world_size - 1)
    assert ranks.wait() == [STOPPED] * world_size
    done = len(history(notes))
    assert 5 <= done < NUM_STEPS
    (state,) = {info.key.split("/")[0] for info in Objects.open(job.output).child("state").list()}
    assert state == f"step-{done:08d}"
    assert Ranks(job, notes, world_size).wait() == [0] * world_size
    starts = [[json.loads(line)["step"] for line in path.read_text().splitlines()] for path in notes.rglob("rank-0*")]
    assert sorted(step for start in starts for step in start) == list(range(NUM_STEPS)), "no step was done twice"
    assert samples(notes) == samples(peaceful[1])
    assert losses(notes) == pytest.approx(losses(peaceful[1]), rel=1e-5 if world_size > 1 else 0)
    if world_size == 1:
        assert files(job) == files(peaceful[0])


def test_all_workers_skip_what_one_of_them_can_not_digest(make_job: MakeJob, tmp_path: Path) -> None:
    """Killed behind the skipped steps, the run remembers them; its batches lie there to be looked at."""
    job, notes = make_job(tmp_path / "poisoned", log_every=1), tmp_path / "notes"
    ranks = Ranks(job, notes, world_size=2, poisoned_steps=[1, 3])
    ranks.wait_for(5)
    ranks.kill()
    assert Ranks(job, notes, world_size=2, poisoned_steps=[1, 3]).wait() == [0, 0]
    assert [step for step, note in enumerate(history(notes)) if note["skipped"]] == [1, 3]
    output = Objects.open(job.output)
    rows = [json.loads(line) for line in output.read("metrics.jsonl").decode().splitlines()]
    assert [row["skipped"] for row in rows] == [float(step in (1, 3)) for step in range(NUM_STEPS)]
    assert all(np.isfinite(row["loss"]) for row in rows if not row["skipped"])
    kept = {info.key for info in output.child("inspect").list()}
    assert kept == {
        f"step-{step:08d}-rank-{rank:05d}.{kind}"
        for step in (1, 3)
        for rank in range(2)
        for kind in ("json", "safetensors")
    }


def test_a_run_that_skips_too_often_ends(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(tmp_path / "hopeless", survival={"max_skipped": 1})
    assert Ranks(job, tmp_path / "notes", world_size=2, poisoned_steps=[2, 3, 4]).wait() == [1, 1]
    assert len(history(tmp_path / "notes")) == 3
    assert read_manifest(Objects.open(job.output)) is None
