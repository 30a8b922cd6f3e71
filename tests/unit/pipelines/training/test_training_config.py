"""The training recipe and its content key."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from model.config import StudentConfig
from model.objective import LossWeights
from pipelines.training.config import MixtureEntry, TrainingConfig, training_key

INPUTS = {"corpus": "c", "features/sam2": "f"}


def key(**fields: Any) -> str:
    return training_key(StudentConfig(), TrainingConfig(num_steps=10, **fields), INPUTS)


@pytest.mark.parametrize(
    "fields",
    [
        {"checkpoint_every": 7},
        {"log_every": 3},
        {"num_workers": 4},
        {"cpus_per_worker": 1.0},
        {"use_gpu": True},
        {"gradient_checkpointing": True},
        {"compile_layers": True},
        {"hybrid_part_images": 7},
    ],
)
def test_how_it_runs_does_not_change_the_key(fields: dict[str, Any]) -> None:
    assert key(**fields) == key()


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1},
        {"learning_rate": 1e-3},
        {"batch_rows": 8},
        {"mixture": (MixtureEntry(repeats=2.0),)},
        {"losses": LossWeights(mask_bce=1.0)},
        {"mask_points": None},
        {"turns": "branched"},
        {"precision": "bfloat16"},
        {"lora": {"rank": 4}},
        {"teacher_mode": "online"},
        {"teacher_mode": "hybrid"},
        {"trained": "patch_embedding"},
    ],
)
def test_what_is_learnt_changes_the_key(fields: dict[str, Any]) -> None:
    assert key(**fields) != key()


def test_student_and_inputs_change_the_key() -> None:
    config = TrainingConfig(num_steps=10)
    assert training_key(StudentConfig(num_layers=2), config, INPUTS) != key()
    assert training_key(StudentConfig(), config, {**INPUTS, "corpus": "d"}) != key()
    assert training_key(StudentConfig(), config, dict(reversed(INPUTS.items()))) == key()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"warmup_share": 1.5}, "warmup_share"),
        ({"mask_points": 0}, "mask_points"),
        ({"absent_prompt_share": -0.1}, "absent_prompt_share"),
        ({"seed": -1}, "seed"),
        ({"optimiser": "sgd"}, "Extra inputs are not permitted"),
        ({"parallel": "fsdp2", "muon_learning_rate": 0.01}, "expected ddp beside muon_learning_rate, got fsdp2"),
        ({"survival": {"min_workers": 2}}, r"expected at most num_workers \(1\), got 2"),
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingConfig(**{"num_steps": 10, **fields})


def test_published_weights_are_the_defaults() -> None:
    assert LossWeights().model_dump() == {
        "text_with_masks": 0.1,
        "text": 1.0,
        "mask_bce": 2.0,
        "mask_dice": 0.5,
        "distillation": {"mask2former": 0.5, "sam2": 0.5},
    }


def test_epochs_stand_in_for_steps() -> None:
    config = TrainingConfig(num_epochs=2, batch_rows=10)
    counted = config.with_steps(33.3)
    assert counted.num_steps == 7
    # What was counted follows from the corpus, so the address of the run stays the same.
    assert training_key(StudentConfig(), counted, INPUTS) == training_key(StudentConfig(), config, INPUTS)
    assert training_key(StudentConfig(), config, INPUTS) != key()
    assert TrainingConfig(num_steps=10).with_steps(33.3).num_steps == 10


@pytest.mark.parametrize("fields", [{}, {"num_steps": 10, "num_epochs": 1}])
def test_steps_or_epochs_and_not_both(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="num_steps, num_epochs: expected one of the two"):
        TrainingConfig(**fields)


def test_adapters_train_beside_a_frozen_decoder_anyway() -> None:
    with pytest.raises(ValidationError, match="trained: expected all beside lora, got 'patch_embedding'"):
        TrainingConfig(num_steps=1, lora={"rank": 4}, trained="patch_embedding")  # pyright: ignore[reportArgumentType]
