"""What is seen of a run while it trains, beside its metrics: speed, scores on the way, notes, trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from model.student import PixelSail
from pipelines.training.config import TrainingConfig
from pipelines.training.logbook import Logbook
from pipelines.training.throughput import Throughput
from pipelines.training.validation import Validator

__all__ = ["Watch"]


class Watch:
    """Every rank has one, so that all know when a validation is due; only the first rank's sees anything.

    Args:
        config: of the run.
        report: is told each new row of metrics with the speed, and each validation's scores.
        throughput: of the first rank.
        validator: of the first rank, if the recipe wants validation.
        logbook: of the first rank, if the run has a place for notes.
    """

    def __init__(
        self,
        config: TrainingConfig,
        report: Callable[[Mapping[str, float]], None],
        throughput: Throughput | None = None,
        validator: Validator | None = None,
        logbook: Logbook | None = None,
    ) -> None:
        self.throughput = throughput
        self.finished = False
        """Whether the run has reached its last step; to be set before the end."""
        self._config, self._report, self._validator, self._logbook = config, report, validator, logbook

    def record(self, step: int, row: Mapping[str, float], num_skipped: int) -> None:
        """Takes in the means of the steps since the last row.

        Args:
            step: steps done.
            row: of the metrics file.
            num_skipped: steps that were skipped since the run began.
        """
        speed = {} if self.throughput is None else self.throughput.reading()
        self._report({**row, **speed, "skipped_steps": num_skipped})
        if self._logbook is not None:
            self._logbook.log(step, row, speed)

    def is_due(self, step: int) -> bool:
        """Whether a validation belongs behind a step."""
        validation = self._config.validation
        return validation is not None and validation.is_due(step, self._config.num_steps)

    def validate(self, step: int, make_student: Callable[[], PixelSail]) -> None:
        """Examines a student; see `Validator.examine`."""
        if self._validator is None:
            return
        found = self._validator.examine(make_student)
        self._report({"step": step, **{f"validation/{name}": value for name, value in found.scores.items()}})
        if self._logbook is not None:
            self._logbook.log_validation(step, found)

    def flush(self) -> None:
        """Makes what was noted outlive this process; belongs before each checkpoint."""
        if self._logbook is not None:
            self._logbook.flush()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the notes and the trackers."""
        if self._logbook is not None:
            self._logbook.close(finished=self.finished)
