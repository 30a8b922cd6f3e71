"""What the driver and the workers of a run tell each other; light, since it becomes an actor of its own."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.training.loader import FailedStep

__all__ = ["Meter", "progress_facts"]


class Meter:
    """Passes metrics and errors to the driver, and the driver's wish to stop to the workers."""

    def __init__(self) -> None:
        self._newest: dict[str, float] = {}
        self._stop = False
        self._error: FailedStep | None = None

    def put(self, metrics: dict[str, float]) -> None:
        """Adds to what is held; what has the same name is replaced."""
        self._newest |= metrics

    def get(self) -> dict[str, float]:
        """The newest of each name; empty before anything was put."""
        return self._newest

    def stop(self) -> None:
        """Asks the workers to save a state and end."""
        self._stop = True

    def stopping(self) -> bool:
        """Whether they are asked to."""
        return self._stop

    def fail(self, error: FailedStep) -> None:
        """Tells of an error that would come again, so that nobody tries again; the first one counts."""
        self._error = self._error or error

    def error(self) -> FailedStep | None:
        """That error, if there is one."""
        return self._error


def progress_facts(newest: Mapping[str, float]) -> dict[str, object]:
    """What a progress line says of a training run.

    Args:
        newest: metrics, speed and validation scores by name, as far as they are known.

    >>> progress_facts({"loss": 0.51234, "samples_per_s": 51.26, "tokens_per_s": 12345.6, "stall_share": 0.0213})
    {'loss': 0.51234, 'samples/s': '51.3', 'tokens/s': '12,346', 'stall': '2.1%'}
    """
    facts: dict[str, object] = {"loss": newest["loss"]} if "loss" in newest else {}
    if "samples_per_s" in newest:
        facts["samples/s"] = f"{newest['samples_per_s']:.3g}"
    if "tokens_per_s" in newest:
        facts["tokens/s"] = f"{newest['tokens_per_s']:,.0f}"
    if "stall_share" in newest:
        facts["stall"] = f"{newest['stall_share']:.1%}"
    if "mfu" in newest:
        facts["mfu"] = f"{newest['mfu']:.1%}"
    if "validation/cIoU" in newest:
        facts["cIoU"] = f"{newest['validation/cIoU']:.3f}"
    if newest.get("skipped_steps"):
        facts["skipped"] = int(newest["skipped_steps"])
    return facts
