from __future__ import annotations

import math

from pipelines.training_curves import loss_curves, overlaid_losses, overlaid_validation


def test_curves_are_the_loss_first_then_terms_without_timings() -> None:
    rows = [
        {"step": s, "tokens": 9.0, "extra": 1, "loss/ref_x": 3, "distillation/sam2": 2.0, "loss": 9.0 / s, "name": "x"}
        for s in (1, 2, 3)
    ]
    assert [curve.label for curve in loss_curves(rows)] == [
        "all terms together",
        "distillation: sam2",
        "loss on ref x",
        "extra",
    ]
    assert (loss_curves(rows)[0].first, loss_curves(rows)[0].last) == ("9.00", "3.00")
    assert loss_curves([]) == []


def test_curves_of_several_runs_are_overlaid_by_name() -> None:
    short = [{"step": step, "loss": 3.0 - step, "learning_rate": 1e-3} for step in (1, 2)]
    long = [{"step": step, "loss": 4.0 / step, "distillation/sam2": 1.0} for step in (1, 2, 3, 4)]
    found = {overlay.label: overlay for overlay in overlaid_losses([short, long, []])}
    assert list(found) == ["all terms together", "distillation: sam2", "learning rate"]
    assert found["all terms together"].lasts == ("1.00", "1.00", None)
    assert found["learning rate"].lasts == ("0.001", None, None)
    assert 'class="mean curve1"' in found["all terms together"].chart
    assert 'class="mean"' not in found["distillation: sam2"].chart
    assert overlaid_losses([[], []]) == []


def test_validation_scores_are_overlaid() -> None:
    rows = [{"step": step, "cIoU": 0.1 * step, "N_acc": math.nan} for step in (10, 20)]
    assert [(overlay.label, overlay.lasts) for overlay in overlaid_validation([rows, []])] == [
        ("validation: cIoU", ("2.00", None))
    ]
