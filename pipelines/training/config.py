"""How the student is trained, as a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, cast

from pydantic import Field, field_validator, model_validator

from model.config import StudentConfig
from model.lora import LoraConfig
from model.objective import LossWeights
from model.trained_parts import TrainedParts
from pipelines.training.trackers.registry import TrackingConfig
from storage.keys import Json, content_key
from storage.recipe import RecipeModel
from storage.schema import SCHEMA_VERSION, Task

__all__ = [
    "VERSION",
    "LoaderConfig",
    "MixtureEntry",
    "SurvivalConfig",
    "TrainingConfig",
    "ValidationConfig",
    "training_key",
]

VERSION = 3
"""Raised whenever the same recipe on the same data would train another student."""


class MixtureEntry(RecipeModel):
    """A part of the corpus and how often an epoch repeats it."""

    families: tuple[str, ...] = ()
    """Families of this part; empty: all."""
    tasks: tuple[Task, ...] = ()
    """Tasks of this part; empty: all."""
    turns_per_row: int = Field(default=5, gt=0)
    """Single-turn samples of one image that share a conversation: as many turns, drawn with
    replacement where the image has fewer; an image with a single one gets a single turn."""
    repeats: float = Field(default=1.0, gt=0)
    """Conversations per image and epoch; a fraction takes a share of the images."""
    task_weights: dict[Task, float] = Field(default_factory=dict)
    """How likely a sample of a task is drawn beside one of a task that isn't named here, which counts 1."""
    images_only: bool = False
    """Instead of samples, the images that no other part has, without a word: they teach by distillation
    alone. Images with samples of other splits than the trained ones stay out."""

    @model_validator(mode="after")
    def _images_have_no_samples(self) -> MixtureEntry:
        if self.images_only and (self.families or self.tasks or self.task_weights):
            raise ValueError(
                "images_only: expected a part without families, tasks and task_weights, since it has no samples; "
                "put these into a part of their own"
            )
        return self

    @field_validator("task_weights")
    @classmethod
    def _positive(cls, weights: dict[Task, float]) -> dict[Task, float]:
        for task, weight in weights.items():
            if not 0 < weight < float("inf"):
                raise ValueError(
                    f"{task}: expected a weight above 0, got {weight}; leave a task out of `tasks` instead"
                )
        return weights


class LoaderConfig(RecipeModel):
    """Who makes the batches; whoever does, they are the same, in the same order."""

    kind: Literal["threads", "processes", "ray"] = "threads"
    """`threads` of the training process, `processes` beside it on its host, or `ray`: actors on whatever
    nodes have a CPU left, for pictures that take more decoding than the host has cores."""
    num_workers: int = Field(default=1, gt=0)
    """Threads, processes or actors of each training worker."""
    prefetch_steps: int = Field(default=2, gt=0)
    """Steps that may lie ready or be in the making ahead of the one that trains; at least one for each worker."""


class ValidationConfig(RecipeModel):
    """Scores of the student while it trains, on expressions about pictures that it isn't trained on."""

    every_steps: int = Field(default=500, gt=0)
    """Steps between two validations; the last step has one too."""
    splits: tuple[str, ...] = ("val",)
    """Splits of the corpus to ask about."""
    families: tuple[str, ...] | None = None
    """Families of the corpus; null: all."""
    num_images: int = Field(default=32, gt=0)
    """Pictures to ask about, drawn once by `seed`: every validation asks the same, with all expressions of each."""
    num_pictures: int = Field(default=4, ge=0)
    """Of these, pictures shown with the student's mask and the truth."""
    questions_per_batch: int = Field(default=64, gt=0)
    """Questions answered at once."""
    max_new_tokens: int = Field(default=32, gt=0)
    """Upper bound of an answer's length, in tokens."""
    seed: int = Field(default=0, ge=0)
    """Draws the pictures."""

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether a validation belongs behind a step of a run."""
        return step % self.every_steps == 0 or step == num_steps


class SurvivalConfig(RecipeModel):
    """What a run does about lost workers, pre-emption and steps that go wrong."""

    kept: int = Field(default=2, gt=0, json_schema_extra={"hashed": False})
    """Newest complete states that are kept; older ones are deleted."""
    max_failures: int = Field(default=3, ge=0, json_schema_extra={"hashed": False})
    """Lost workers or nodes after which the run goes on from its newest state; one more ends it."""
    min_workers: int | None = Field(default=None, gt=0, json_schema_extra={"hashed": False})
    """Workers with which the run may also go on where the cluster hasn't room for `num_workers`; null: exactly
    `num_workers`. What is trained is the same, whatever their number."""
    resize_interval_s: float = Field(default=60.0, gt=0, json_schema_extra={"hashed": False})
    """Seconds between two looks whether the cluster has room for more or fewer workers, where `min_workers` is given.
    Workers then start again from the newest state: what was done since is done again."""
    spike_factor: float | None = Field(default=10.0, gt=1)
    """A step is skipped if its loss exceeds this many times the median of the last `spike_window` losses that
    counted; null: only losses and gradients that aren't finite are skipped."""
    spike_window: int = Field(default=32, gt=0)
    """Losses that the median is taken of; before there are as many, no loss counts as a spike."""
    max_skipped: int = Field(default=10, ge=0, json_schema_extra={"hashed": False})
    """Skipped steps that a run may have; one more ends it. The batches of each lie in `<output>/inspect`."""


class TrainingConfig(RecipeModel):
    """The training run. Published: AdamW, lr 4e-5, weight decay 0.05, clip 1.0, batch 256, one epoch."""

    splits: tuple[str, ...] = ("train",)
    """Splits that are trained on."""
    mixture: tuple[MixtureEntry, ...] = (MixtureEntry(),)
    """What an epoch consists of."""
    num_steps: int = Field(default=0, ge=0)
    """Optimiser steps; the learning-rate schedule ends there. 0: as many as `num_epochs` take."""
    num_epochs: float | None = Field(default=None, gt=0)
    """Passes over the mixture, from which the steps follow (the last one may begin another pass); null: `num_steps`
    says it."""
    batch_rows: int = Field(default=256, gt=0)
    """Conversations per optimiser step, over all workers."""
    micro_batch_rows: int = Field(default=8, gt=0)
    """Conversations per forward pass of one worker, each in a row of its own; the rest of the share is accumulated."""
    micro_batch_tokens: int | None = Field(default=None, gt=0)
    """Tokens per forward pass: conversations are packed behind each other into one row of at most so many,
    instead of `micro_batch_rows`; null: by their number. A longer conversation is an error."""
    shuffle_shards: int | None = Field(default=None, gt=0)
    """Shuffles within a window that glides over so many shards (of 128 images that lie beside each other in the
    corpus), the shards in random order, so that reading stays near by; null: over the whole epoch."""
    loader: LoaderConfig = Field(default=LoaderConfig(), json_schema_extra={"hashed": False})
    """Who makes the batches."""
    learning_rate: float = Field(default=4e-5, gt=0)
    """Peak learning rate of AdamW."""
    muon_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of Muon for the matrices inside the decoder layers; null: AdamW for them too,
    as published. Small students that start from nothing learn in about half the steps with it."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decoupled weight decay, applied to matrices."""
    warmup_share: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps in which the learning rate rises linearly; cosine to 0 follows."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Bound of the gradient's global norm."""
    teacher_mode: Literal["cached", "online", "hybrid"] = "cached"
    """Where teachers' features come from. `cached`: the stores, complete before training begins. `online`: the
    teachers, which run beside the student in every step; there is no store. `hybrid`: the stores as far as
    they go; what they lack is computed in the training process, once, and written back. The three give the same
    loss to rounding and the error of coding, but not the same bits, so that each has an address of its own."""
    hybrid_part_images: int = Field(default=256, gt=0, json_schema_extra={"hashed": False})
    """Images that a worker has computed in `hybrid` until it writes them back; it also does so at checkpoints."""
    losses: LossWeights = LossWeights()
    """Weights of the loss terms."""
    turns: Literal["chained", "branched"] = "chained"
    """`chained`: a turn sees those before it, as published. `branched`: each turn sees the image and
    itself alone, which equals one conversation per turn at the cost of one image."""
    absent_prompt_share: float = Field(default=0.05, ge=0, le=1)
    """Share of turns on visual prompts that are followed by a question on a prompt that isn't there."""
    mask_points: int | None = Field(default=12_544, gt=0)
    """Points per mask for the mask losses (PointRend sampling); null: every pixel of the student's image."""
    seed: int = Field(default=0, ge=0)
    """Seeds the weights, the order of the data, the wordings and the points."""
    init: str | None = None
    """URL of a checkpoint to start from; null: fresh weights."""
    pixel_tokens: Literal["kept", "drawn"] = "kept"
    """Embeddings of `[SEG]` and of visual prompts, where `init` is given: as they are there, or `drawn` anew. Stages
    without masks and prompts never use these tokens and leave them all alike."""
    trained: TrainedParts = "all"
    """What is updated: `all`; `patch_embedding`: that alone, as where a language model meets pictures for the first
    time; `vision`: that and, with `student.modality_weights: separate`, all weights of patches."""
    lora: LoraConfig | None = None
    """Low-rank adapters in the decoder, merged into the checkpoint; null: the whole student trains."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward pass; weights and optimiser stay float32."""
    parallel: Literal["ddp", "fsdp2"] = Field(default="ddp", json_schema_extra={"hashed": False})
    """`ddp`: each worker holds the whole student. `fsdp2`: its large matrices, their gradients and optimiser
    state are sharded over the workers. What is trained is the same, up to rounding."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Share of an exponential moving average of the weights that stays in each step; the checkpoint then
    holds the average. Null: the last weights."""
    survival: SurvivalConfig = SurvivalConfig()
    """Lost workers, pre-emption, steps that go wrong."""
    gradient_checkpointing: bool = Field(default=False, json_schema_extra={"hashed": False})
    """Keep only what passes between layers and compute the rest again: less memory, a third more time."""
    compile_layers: bool = Field(default=False, json_schema_extra={"hashed": False})
    """Compile the decoder layers with torch.compile."""
    checkpoint_every: int = Field(default=500, gt=0, json_schema_extra={"hashed": False})
    """Steps between checkpoints from which an interrupted run resumes."""
    log_every: int = Field(default=20, gt=0, json_schema_extra={"hashed": False})
    """Steps between two rows of the metrics file."""
    num_workers: int = Field(default=1, gt=0, json_schema_extra={"hashed": False})
    """Ray Train workers."""
    cpus_per_worker: float = Field(default=2.0, gt=0, json_schema_extra={"hashed": False})
    """Logical CPUs of a worker, also its number of torch threads."""
    use_gpu: bool = Field(default=False, json_schema_extra={"hashed": False})
    """One GPU per worker."""
    tracking: TrackingConfig = Field(default=TrackingConfig(), json_schema_extra={"hashed": False})
    """Where curves and pictures of the run are shown."""
    validation: ValidationConfig | None = Field(default=None, json_schema_extra={"hashed": False})
    """Scores during training; null: none."""

    @model_validator(mode="after")
    def _can_be_parallel(self) -> TrainingConfig:
        if self.parallel == "fsdp2" and self.muon_learning_rate is not None:
            raise ValueError(
                "parallel: expected ddp beside muon_learning_rate, got fsdp2; Muon orthogonalises whole matrices, "
                "of which each worker would hold only a part"
            )
        if self.survival.min_workers is not None and self.survival.min_workers > self.num_workers:
            raise ValueError(
                f"survival.min_workers: expected at most num_workers ({self.num_workers}), "
                f"got {self.survival.min_workers}"
            )
        return self

    @model_validator(mode="after")
    def _one_length(self) -> TrainingConfig:
        if (self.num_steps == 0) == (self.num_epochs is None):
            given = f"num_steps {self.num_steps} and num_epochs {self.num_epochs}"
            raise ValueError(f"num_steps, num_epochs: expected one of the two, got {given}; make the other 0 or null")
        return self

    @model_validator(mode="after")
    def _something_trains(self) -> TrainingConfig:
        if self.lora is not None and self.trained != "all":
            raise ValueError(
                f"trained: expected all beside lora, got {self.trained!r}; adapters are what trains in the decoder"
            )
        return self

    @property
    def passes_per_step(self) -> int:
        """Operations of a step in forward passes: what is frozen passes gradients on, but needs none itself."""
        return 2 if self.lora is not None or self.trained == "patch_embedding" else 3

    def steps_of(self, rows_per_epoch: float) -> int:
        """Optimiser steps of the run.

        Args:
            rows_per_epoch: conversations of one pass over the mixture.
        """
        if self.num_epochs is None:
            return self.num_steps
        return max(1, math.ceil(self.num_epochs * rows_per_epoch / self.batch_rows))

    def with_steps(self, rows_per_epoch: float) -> TrainingConfig:
        """The same run with its steps counted; `num_epochs` stays, and what it is hashed by."""
        return self.model_copy(update={"num_steps": self.steps_of(rows_per_epoch)})


def training_key(student: StudentConfig, config: TrainingConfig, inputs: Mapping[str, str]) -> str:
    """Content key of the checkpoint that training would write.

    Args:
        student: its architecture.
        config: the training run.
        inputs: content keys of the corpus and of the feature stores, by name.
    """
    training = config.hashed_fields()
    if config.num_epochs is not None:
        training["num_steps"] = 0  # follows from the corpus, which the inputs name
    content = {
        "stage": "train",
        "schema_version": SCHEMA_VERSION,
        "version": VERSION,
        "student": student.hashed_fields(),
        "training": training,
        "inputs": dict(inputs),
    }
    return content_key(cast("Json", content))
