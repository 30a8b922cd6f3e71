"""Makes the batches of the next steps while one trains, in order, and at most so many ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice

from pipelines.training.config import LoaderConfig
from pipelines.training.feed import StepBatches, TrainingFeed

__all__ = ["iterate"]


def iterate(
    feed_factory: Callable[[], TrainingFeed], config: LoaderConfig, first_step: int, last_step: int | None = None
) -> Generator[StepBatches]:
    """The batches of each step from a position on; closing the generator ends whoever makes them.

    Args:
        feed_factory: makes the feed, where it is needed.
        config: who makes the batches.
        first_step: the first step wanted.
        last_step: the step before which it ends; None: never.

    Raises:
        SailloftError: what the feed raised, behind the batches that came before.
    """
    steps = iter(count(first_step) if last_step is None else range(first_step, last_step))
    feed = feed_factory()
    pool = ThreadPoolExecutor(config.num_workers, thread_name_prefix="training-feed")
    ahead: deque[Future[StepBatches]] = deque()
    try:
        depth = max(config.prefetch_steps, config.num_workers)
        ahead.extend(pool.submit(feed.step_batches, step) for step in islice(steps, depth))
        while ahead:
            done = ahead.popleft().result()
            ahead.extend(pool.submit(feed.step_batches, step) for step in islice(steps, 1))
            yield done
    finally:
        for future in ahead:
            future.cancel()
        pool.shutdown(wait=True, cancel_futures=True)
