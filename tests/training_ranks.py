"""Workers of a training run as plain processes, to be killed as processes are.

They are forked from a server that has imported all they need, since imports take longer than what is
tested. Each notes its steps in a file, line by line.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from model.objective import LossTerms, TrainingBatch
from pipelines.training import worker
from pipelines.training.loop import Trainer, Wanted
from pipelines.training.worker import Job, Seat, run_worker
from tests.gloo_group import gloo_group

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

__all__ = ["STOPPED", "NotingTrainer", "Ranks", "history"]

STOPPED = 3
"""Exit code of a worker that has ended before the last step, as it was asked to."""
_START_TIMEOUT_S, _TIMEOUT_S = 120.0, 120.0

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


class Ranks:
    """The workers of one start of a run.

    Args:
        job: the run.
        notes: folder of the notes, which all starts of a run share.
        world_size: workers.
        poisoned_steps: steps in which the first worker's losses aren't numbers.
    """

    def __init__(self, job: Job, notes: Path, world_size: int = 1, poisoned_steps: Sequence[int] = ()) -> None:
        notes.mkdir(exist_ok=True)
        start = len(list(notes.glob("start-*")))
        folder = notes / f"start-{start:03d}"
        folder.mkdir()
        self._notes = [folder / f"rank-{rank}.jsonl" for rank in range(world_size)]
        self.processes: list[ForkServerProcess] = [
            _CONTEXT.Process(target=_run, args=(job, folder, rank, world_size, tuple(poisoned_steps)))
            for rank in range(world_size)
        ]
        for process in self.processes:
            process.start()

    def wait_for(self, step: int) -> None:
        """Returns as soon as the first worker has noted a step."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if self._notes[0].exists() and any(note["step"] >= step for note in _read(self._notes[0])):
                return
            if not self.processes[0].is_alive():
                break
            time.sleep(0.005)
        raise AssertionError(f"step {step} was not reached; exit codes {[p.exitcode for p in self.processes]}")

    def kill(self, ranks: Sequence[int] | None = None) -> None:
        """Ends some workers, or all, without a warning; the others then end by themselves, or are killed too."""
        for rank in range(len(self.processes)) if ranks is None else ranks:
            self.processes[rank].kill()
        for process in self.processes:
            process.join(_TIMEOUT_S)
        self.close()

    def terminate(self, rank: int) -> None:
        """Asks one worker to end (SIGTERM)."""
        self.processes[rank].terminate()

    def wait(self) -> list[int | None]:
        """Exit codes once all have ended."""
        for process in self.processes:
            process.join(_TIMEOUT_S)
        codes = [process.exitcode for process in self.processes]
        self.close()
        return codes

    def close(self) -> None:
        """Leaves no process behind."""
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()


def history(notes: Path) -> list[dict[str, object]]:
    """What each step was, as the last start that did it noted it: `loss`, and `samples` in their global order.

    Raises:
        AssertionError: two starts have had other samples in a step, or a start has left one out.
    """
    steps: dict[int, dict[str, object]] = {}
    for start in sorted(notes.glob("start-*")):
        bins: dict[int, dict[int, list[list[str]]]] = defaultdict(dict)
        losses: dict[int, dict[str, object]] = {}
        ranks = [_read(path) for path in sorted(start.glob("rank-*.jsonl"))]
        # A worker may have been killed before it could note what the others have done with it.
        complete = set.intersection(*({note["step"] for note in rank} for rank in ranks)) if ranks else set()
        for rank in ranks:
            for note in rank:
                if note["step"] in complete:
                    bins[note["step"]] |= {int(number): samples for number, samples in note["bins"].items()}
                    losses[note["step"]] = {key: note[key] for key in ("loss", "skipped")}
        for step, of_step in sorted(bins.items()):
            assert sorted(of_step) == list(range(len(of_step))), f"bins {sorted(of_step)} of step {step}"
            samples = [ids for _, group in sorted(of_step.items()) for ids in group]
            assert steps.get(step, {"samples": samples})["samples"] == samples, f"step {step} has changed"
            steps[step] = {"samples": samples, **losses[step]}
    assert sorted(steps) == list(range(len(steps)))
    return [steps[step] for step in sorted(steps)]


class NotingTrainer(Trainer):
    """Notes each step's loss and samples."""

    notes: Path
    poisoned_steps: tuple[int, ...] = ()

    def _losses(self, batch: TrainingBatch, step: int, number: int) -> LossTerms:
        losses = super()._losses(batch, step, number)
        if step in self.poisoned_steps and self.rank == 0:
            losses = replace(losses, total=losses.total * float("nan"))
        return losses

    def step(
        self,
        step: int,
        micro_batches: Sequence[TrainingBatch],
        bins: Sequence[int] | None = None,
        sample_ids: Sequence[Sequence[str]] = (),
        families: Sequence[Sequence[str]] = (),
    ) -> dict[str, float]:
        """As of `Trainer`."""
        assert bins is not None
        metrics = super().step(step, micro_batches, bins, sample_ids, families)
        ids = iter(sample_ids)
        by_bin = {
            number: [list(next(ids)) for _ in range(batch.num_documents)]
            for number, batch in zip(bins, micro_batches, strict=True)
        }
        note = {"step": step, "loss": metrics.get("loss"), "skipped": metrics["skipped"], "bins": by_bin}
        with self.notes.open("a") as file:
            file.write(json.dumps(note) + "\n")
        return metrics


def _run(job: Job, folder: Path, rank: int, world_size: int, poisoned_steps: tuple[int, ...]) -> None:
    terminated: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: terminated.append(number))
    torch.set_num_threads(1)
    NotingTrainer.notes = folder / f"rank-{rank}.jsonl"
    NotingTrainer.poisoned_steps = poisoned_steps
    worker.Trainer = NotingTrainer  # pyright: ignore[reportPrivateImportUsage]
    with gloo_group(folder, rank, world_size) if world_size > 1 else nullcontext():
        finished = run_worker(
            job, Seat(rank, world_size), lambda _: None, lambda: Wanted.STOP if terminated else Wanted.NOTHING
        )
    sys.exit(0 if finished else STOPPED)


def _read(path: Path) -> list[dict[str, Any]]:
    """Notes of one worker; a last line without an end was cut off by its death."""
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]
