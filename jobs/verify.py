"""`sailloft teach --verify N`: recomputes some stored images and compares them with the store."""

from __future__ import annotations

from dataclasses import asdict
from typing import cast

from jobs.config import Recipe
from jobs.flow import Located, Timings
from jobs.runner import open_workspace
from jobs.session import ray_session
from jobs.stages import plan_stages, teach_name
from jobs.told import Told
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.errors import UsageError
from storage.keys import Json
from storage.stage_notes import STAGE_NOTES

__all__ = ["verify_recipe"]


def verify_recipe(recipe: Recipe, num_images: int, seed: int = 0, verbose: bool = False) -> Told:
    """Compares the features of a recipe with what its teachers give now.

    Args:
        recipe: whose features, which are there already.
        num_images: of each teacher.
        seed: of the draw.
        verbose: shows Ray's own messages.

    Returns:
        Worst and mean error of each teacher.

    Raises:
        UsageError: the features aren't there.
        DataError: an image differs by more than encoding and rounding explain; names the worst.
    """
    outputs = _outputs(recipe)
    lines: list[str] = []
    rows: list[Json] = []
    with ray_session(recipe.cluster, verbose):
        from pipelines.distillation.pipeline import verify

        for teacher in recipe.teachers:
            store = outputs[teach_name(teacher)].readable
            corpus = Corpus.open(outputs["curate"].objects)
            report = verify(corpus, teacher, recipe.features, store, num_images, seed)
            report.require_agreement(store.url)
            worst = report.worst
            lines.append(
                f"teach {teacher.kind}: {len(report.comparisons)} images agree; relative error {report.mean_mse:.3g} "
                f"on average, at worst {worst.relative_mse:.3g} of {worst.allowed_mse:.3g} allowed ({worst.image_id})"
            )
            rows.append(
                {
                    "teacher": teacher.kind,
                    "store": store.url,
                    "num_images": len(report.comparisons),
                    "mean_relative_mse": report.mean_mse,
                    "worst": cast("Json", asdict(worst)),
                }
            )
    return Told("\n".join(lines), {"agree": True, "teachers": rows})


def _outputs(recipe: Recipe) -> dict[str, Located]:
    outputs: dict[str, Located] = {}
    for stage in plan_stages(recipe, Timings(open_workspace(recipe).child(STAGE_NOTES)), "teach"):
        located = stage.locate(outputs, NullProgress())
        if located is None or not stage.complete(outputs, located):
            raise UsageError(f"{stage.name}: its output isn't there, so that nothing can be verified; run teach first")
        outputs[stage.name] = located
    return outputs
