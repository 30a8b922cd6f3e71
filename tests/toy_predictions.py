"""One row of predictions, as tests that need no student write it."""

from __future__ import annotations

from dataclasses import replace

from pipelines.evaluation.records import Prediction, Variant

__all__ = ["toy_prediction"]


def toy_prediction(place: int, **fields: object) -> Prediction:
    """The answer to the question of that number, with other values in the fields given."""
    row = Prediction(
        benchmark="referring",
        variant=Variant.STANDARD,
        sample_id=f"s{place:04d}",
        turn=0,
        image_id=f"i{place:04d}",
        family="toy",
        task="referring",
        split="val",
        expression="the red ring",
        question="x",
        prompts=(),
        answer="[SEG]",
        masks=(),
        mask_scores=(),
        truth_sample_id=f"s{place:04d}",
        truth_turn=0,
        truth_text="",
        references=(),
        num_targets=1,
        truth_area_px=100,
        intersection_px=0,
        union_px=1,
        no_target=False,
        predicted_no_target=False,
        ious=(),
        score=0.5,
    )
    return replace(row, **fields)
