"""What a run leaves behind: rows of metrics, states on the way, the checkpoint at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import cast

from torch import Tensor

from model.checkpoint import checkpoint_files
from model.config import StudentConfig
from model.lora import add_lora, merge_lora
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from pipelines.training.beginning import trunk
from pipelines.training.config import TrainingConfig, training_key
from pipelines.training.families import mean_metrics
from pipelines.training.loop import Trainer, Wanted, parameter_count
from pipelines.training.notes import METRICS
from pipelines.training.parallel import full_weights
from pipelines.training.run_state import SavedParts, States
from pipelines.training.watch import Watch
from storage.keys import Json
from storage.manifest import FileEntry, Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION

__all__ = ["Keeper", "publish_checkpoint"]


class Keeper:
    """Records metrics and saves states; every rank has one, the first one's rows are kept.

    Args:
        trainer: the rank's.
        states: where states go.
    """

    def __init__(self, trainer: Trainer, states: States) -> None:
        self.rows: list[Mapping[str, float]] = []
        """Rows of the metrics file so far."""
        self.watch: Watch | None = None
        """Is told of each row and each checkpoint."""
        self._trainer, self._states = trainer, states
        self._parts = SavedParts(trainer.model, trainer.optimizers, trainer.average)
        self._window: list[Mapping[str, float]] = []

    def resume(self) -> int:
        """Puts the newest state in place of the beginning; gives the steps that are done."""
        progress = self._states.load(self._parts)
        if progress is None:
            return 0
        self.rows, self._window = (_as_floats(progress[name]) for name in ("rows", "window"))
        self._trainer.guard.load(cast("dict[str, Json]", progress["guard"]))
        return cast("int", progress["step"])

    def after_step(self, step: int, metrics: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        """Takes in one step; see `Trainer.run`."""
        config = self._trainer.config
        last = step == config.num_steps
        if self._trainer.rank == 0:
            self._record(step, metrics, due=last or step % config.log_every == 0)
        if self.watch is not None and self.watch.is_due(step):
            weights = _published_weights(self._trainer)
            if self._trainer.rank == 0:
                self.watch.validate(step, lambda: _plain_student(self._trainer, weights))
        agreed = self._trainer.agreed
        if not last and (step % config.checkpoint_every == 0 or agreed is not Wanted.NOTHING):
            if self.watch is not None:
                self.watch.flush()
            progress = {"rows": self.rows, "window": self._window, "guard": self._trainer.guard.state()}
            self._states.save(step, self._parts, cast("dict[str, Json]", progress))
        if last or agreed is not Wanted.NOTHING:
            self._states.wait()

    def _record(self, step: int, metrics: Mapping[str, float], *, due: bool) -> None:
        self._window.append(dict(metrics))
        if due:
            self.rows.append({"step": step, **mean_metrics(self._window)})
            self._window.clear()
            if self.watch is not None:
                self.watch.record(step, self.rows[-1], self._trainer.guard.num_skipped)


def _as_floats(rows: Json) -> list[Mapping[str, float]]:
    """Rows as they were: canonical JSON makes 0 of 0.0."""
    return [
        {name: value if name == "step" else float(value) for name, value in row.items()}
        for row in cast("list[Mapping[str, float]]", rows)
    ]


def publish_checkpoint(
    trainer: Trainer,
    student: StudentConfig,
    tokenizer: StudentTokenizer,
    rows: Sequence[Mapping[str, float]],
    output: Objects,
    inputs: Mapping[str, str],
) -> None:
    """Writes the checkpoint without distillation heads, its manifest last; every rank must call it, the first writes.

    Args:
        trainer: holds the weights, or their average if the recipe wants that.
        student: architecture as the recipe has it.
        tokenizer: goes with it.
        rows: of the metrics file.
        output: the folder.
        inputs: content keys of the corpus and of the feature stores, by name.
    """
    config = trainer.config
    weights = _published_weights(trainer)
    if trainer.rank:
        return
    model = _plain_student(trainer, weights)
    files = checkpoint_files(model, tokenizer)
    files[METRICS] = "".join(json.dumps(dict(row), sort_keys=True) + "\n" for row in rows).encode()
    entries: list[FileEntry] = []
    for name, data in files.items():
        if not output.create(name, data):
            output.put(name, data)
        entries.append(FileEntry.of(name, data))
    publish(
        output,
        Manifest(
            kind="checkpoint",
            key=training_key(student, config, inputs),
            schema_version=SCHEMA_VERSION,
            recipe=cast("dict[str, Json]", {"student": student.hashed_fields(), "training": config.hashed_fields()}),
            inputs=dict(inputs),
            files=tuple(entries),
            facts={
                "num_steps": config.num_steps,
                "num_parameters": parameter_count(model),
                "vocab_size": tokenizer.vocab_size,
            },
        ),
    )


def _published_weights(trainer: Trainer) -> dict[str, Tensor]:
    """The weights, or their average if the recipe wants that; every rank must call it."""
    with nullcontext() if trainer.average is None else trainer.average.applied():
        return full_weights(trainer.model)


def _plain_student(trainer: Trainer, weights: Mapping[str, Tensor]) -> PixelSail:
    """A student of its own with these weights: adapters merged, no distillation heads."""
    config: TrainingConfig = trainer.config
    trained = PixelSail(trainer.model.config)
    if config.lora is not None:
        add_lora(trained, config.lora, config.seed)
    trained.load_state_dict(dict(weights))
    if config.lora is not None:
        merge_lora(trained)
    plain = PixelSail(trainer.model.config.model_copy(update={"distillation": ()}))
    plain.load_state_dict(trunk(trained.state_dict()))
    return plain
