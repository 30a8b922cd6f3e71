"""Small steps of the driver that are safe to repeat, repeated while storage is in trouble."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from pipelines.distillation.dispatch import retry_pause_s
from pipelines.observer import NULL_OBSERVER, Metrics
from storage.errors import InfrastructureError, ManifestConflict

__all__ = ["persistently"]

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


def persistently(
    what: str,
    step: Callable[[], _Result],
    max_retries: int,
    sleep: Callable[[float], None] = time.sleep,
    metrics: Metrics = NULL_OBSERVER,
) -> _Result:
    """Does a step that may be repeated, again after a pause if storage fails.

    Args:
        what: names it in the log and decides the jitter.
        step: creates or reads objects; done twice, it gives the same.
        max_retries: further attempts.
        sleep: waits for seconds.
        metrics: told of each further attempt.

    Raises:
        InfrastructureError: the last attempt failed too.
        ManifestConflict: no retry mends that.
    """
    for attempt in range(1, max_retries + 1):
        try:
            return step()
        except ManifestConflict:
            raise
        except InfrastructureError as error:
            pause_s = retry_pause_s(what, attempt, 1.0, 30.0)
            metrics.count("sailloft_retries_total", cause="storage")
            logger.warning("%s: %s; again in %.1f s", what, error, pause_s)
            sleep(pause_s)
    return step()
