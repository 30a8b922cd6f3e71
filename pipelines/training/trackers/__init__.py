"""Where the curves and pictures of a run go while it trains: TensorBoard, MLflow, Weights & Biases."""

from pipelines.training.trackers.base import LocalCopy, TrackedRun, Tracker
from pipelines.training.trackers.registry import MlflowConfig, TensorBoardConfig, TrackingConfig, WandbConfig

__all__ = ["LocalCopy", "MlflowConfig", "TensorBoardConfig", "TrackedRun", "Tracker", "TrackingConfig", "WandbConfig"]
