"""Trains small teachers on scenes, so that their features mean something without any download."""

from pipelines.teacher_training.config import TeacherTrainingConfig
from pipelines.teacher_training.loop import TrainedTeacher, train_teacher

__all__ = ["TeacherTrainingConfig", "TrainedTeacher", "train_teacher"]
