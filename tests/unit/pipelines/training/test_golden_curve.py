"""A short run whose losses are pinned: whatever changes them is either a mistake or raises the step's VERSION.

After a deliberate change: `SAILLOFT_UPDATE_GOLDEN=1 python -m pytest tests/unit -k pinned`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.config import StudentConfig
from model.student import PixelSail
from pipelines.training.config import VERSION, TrainingConfig
from pipelines.training.feed import TrainingFeed
from pipelines.training.loop import Trainer, make_optimizers

GOLDEN = Path(__file__).with_name("golden_curve.json")
TOLERANCE = 5e-5
"""Relative. Kernels of other processors sum in another order, which AdamW magnifies from step to step: with
`ATEN_CPU_CAPABILITY` at `default` and `avx2` instead of `avx512` the curve differs by up to 3e-6; with one thread and
with two not at all."""


def test_losses_are_pinned(make_feed: Callable[..., TrainingFeed], student_config: StudentConfig) -> None:
    config = TrainingConfig(
        num_steps=12,
        batch_rows=6,
        micro_batch_tokens=250,
        learning_rate=2e-3,
        mask_points=100,
        shuffle_shards=1,
    )
    model = PixelSail(student_config).init_weights(torch.Generator().manual_seed(config.seed))
    trainer = Trainer(model, make_optimizers(model, config), config, torch.device("cpu"))
    rows: list[dict[str, float]] = []
    trainer.run(make_feed(config).batches(0), 0, lambda _, metrics, __: rows.append(dict(metrics)))
    names = ("loss", "text", "mask_bce", "mask_dice", "distillation/mask2former", "distillation/sam2", "gradient_norm")
    curve = {name: [row.get(name, 0.0) for row in rows] for name in names}
    if os.environ.get("SAILLOFT_UPDATE_GOLDEN"):
        made_on = f"{platform.system()} {platform.machine()}, torch {torch.__version__}"
        content = {"version": VERSION, "made_on": made_on, "curve": curve}
        GOLDEN.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert golden["version"] == VERSION, "the step's VERSION has been raised: update the curve"
    for name in names:
        assert curve[name] == pytest.approx(golden["curve"][name], rel=TOLERANCE), name
