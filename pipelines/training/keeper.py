"""What a run leaves behind: rows of metrics, states on the way, the checkpoint at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
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
from pipelines.training.loop import Trainer, Wanted, parameter_count
from pipelines.training.parallel import full_weights
from pipelines.training.run_state import SavedParts, States
from storage.keys import Json
from storage.manifest import FileEntry, Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION

__all__ = ["Keeper", "publish_checkpoint"]

_METRICS = "metrics.jsonl"


class Keeper:
    """Records metrics and saves states; every rank has one, the first one's rows are kept.

    Args:
        trainer: the rank's.
        states: where states go.
        report: is told each new row, with the mean seconds of its steps.
    """

    def __init__(self, trainer: Trainer, states: States, report: Callable[[Mapping[str, float]], None]) -> None:
        self.rows: list[Mapping[str, float]] = []
        """Rows of the metrics file so far."""
        self._trainer, self._states, self._report = trainer, states, report
        self._parts = SavedParts(trainer.model, trainer.optimizers, trainer.average)
        self._window: list[Mapping[str, float]] = []
        self._seconds: list[Mapping[str, float]] = []

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
            self._record(step, metrics, seconds, due=last or step % config.log_every == 0)
        agreed = self._trainer.agreed
        if not last and (step % config.checkpoint_every == 0 or agreed is not Wanted.NOTHING):
            progress = {"rows": self.rows, "window": self._window, "guard": self._trainer.guard.state()}
            self._states.save(step, self._parts, cast("dict[str, Json]", progress))
        if last or agreed is not Wanted.NOTHING:
            self._states.wait()

    def _record(self, step: int, metrics: Mapping[str, float], seconds: Mapping[str, float], *, due: bool) -> None:
        self._window.append(dict(metrics))
        self._seconds.append(seconds)
        if due:
            self.rows.append({"step": step, **_means(self._window)})
            self._report({**self.rows[-1], **_means(self._seconds)})
            self._window.clear()
            self._seconds.clear()


def _as_floats(rows: Json) -> list[Mapping[str, float]]:
    """Rows as they were: canonical JSON makes 0 of 0.0."""
    return [
        {name: value if name == "step" else float(value) for name, value in row.items()}
        for row in cast("list[Mapping[str, float]]", rows)
    ]


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for row in rows for name in row})
    return {name: sum(row[name] for row in rows if name in row) / sum(name in row for row in rows) for name in names}


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
    with nullcontext() if trainer.average is None else trainer.average.applied():
        weights = full_weights(trainer.model)
    if trainer.rank:
        return
    model = _plain_student(trainer, weights)
    files = checkpoint_files(model, tokenizer)
    files[_METRICS] = "".join(json.dumps(dict(row), sort_keys=True) + "\n" for row in rows).encode()
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
