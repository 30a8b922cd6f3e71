"""The trackers that a recipe can name, by `kind`; a tracker's library is imported when it is built."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field

from pipelines.training.trackers.base import TrackedRun, Tracker
from storage.errors import UsageError
from storage.recipe import RecipeModel

__all__ = ["AnyTrackerConfig", "MlflowConfig", "TensorBoardConfig", "TrackingConfig", "WandbConfig"]


class TensorBoardConfig(RecipeModel):
    """Event files below `logs/<key>/tensorboard/` in the workspace."""

    kind: Literal["tensorboard"] = "tensorboard"

    def check(self) -> None:
        """Raises if the tracker can't be had here."""
        _require(self.kind, "tensorboardX", "pip install tensorboardX")

    def build(self, run: TrackedRun) -> Tracker:
        """The tracker of a run."""
        self.check()
        from pipelines.training.trackers.tensorboard import TensorBoardTracker

        return TensorBoardTracker(run)


class MlflowConfig(RecipeModel):
    """A run of MLflow, found again by its tag `sailloft.key` when training resumes."""

    kind: Literal["mlflow"] = "mlflow"
    experiment: str = "sailloft"
    """Experiment that the run belongs to; made if it doesn't exist."""
    tracking_uri: str | None = None
    """Server or store; null: what MLFLOW_TRACKING_URI says, else the folder `logs/<key>/mlflow/` of a local
    workspace. Credentials come from the environment."""

    def check(self) -> None:
        """Raises if the tracker can't be had here."""
        _require(self.kind, "mlflow", "pip install 'sailloft[mlflow]'")

    def build(self, run: TrackedRun) -> Tracker:
        """The tracker of a run."""
        self.check()
        from pipelines.training.trackers.mlflow_run import MlflowTracker

        return MlflowTracker(run, self.experiment, self.tracking_uri)


class WandbConfig(RecipeModel):
    """A run of Weights & Biases; offline unless WANDB_MODE says otherwise."""

    kind: Literal["wandb"] = "wandb"
    project: str = "sailloft"
    """Project that the run belongs to. Entity and credentials come from the environment."""

    def check(self) -> None:
        """Raises if the tracker can't be had here."""
        _require(self.kind, "wandb", "pip install 'sailloft[wandb]'")

    def build(self, run: TrackedRun) -> Tracker:
        """The tracker of a run."""
        self.check()
        from pipelines.training.trackers.wandb_run import WandbTracker

        return WandbTracker(run, self.project)


AnyTrackerConfig = Annotated[TensorBoardConfig | MlflowConfig | WandbConfig, Field(discriminator="kind")]


class TrackingConfig(RecipeModel):
    """What is watched while a run trains, and where it is shown; changes nothing of its outputs."""

    trackers: tuple[AnyTrackerConfig, ...] = (TensorBoardConfig(),)
    """Where curves and pictures go; empty: nowhere."""
    peak_flops: float | None = Field(default=None, gt=0)
    """Peak FLOP/s of one device at the run's precision, for the model FLOPs utilisation; null: as known for
    the device at bfloat16. Where it isn't known, no utilisation is shown."""

    def check(self) -> None:
        """Finds out before anything starts whether the package of every tracker is there.

        Raises:
            UsageError: one isn't; the message says how to install it.
        """
        for tracker in self.trackers:
            tracker.check()

    def build(self, run: TrackedRun) -> list[Tracker]:
        """The trackers of a run."""
        return [tracker.build(run) for tracker in self.trackers]


def _require(kind: str, package: str, remedy: str) -> None:
    if find_spec(package) is None:
        raise UsageError(
            f"training.tracking.trackers: {kind} needs the package {package}, which isn't installed; {remedy}, "
            "or leave the tracker out"
        )
