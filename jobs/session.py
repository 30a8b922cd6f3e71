"""The Ray session of a run: environment, start, connection, end. The one place that sets `RAY_*`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import cast

from pydantic import Field

from storage.errors import InfrastructureError, SailloftError
from storage.recipe import RecipeModel

__all__ = ["RAY_ENVIRONMENT", "ClusterConfig", "interruptible", "plain_errors", "ray_session", "set_ray_environment"]

logger = logging.getLogger(__name__)

RAY_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a local node listens on loopback, not on the network's address
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's coming default, and it warns without
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # the stages report their own progress
}
"""What Ray finds in the environment of a local session; a value that the user has set stays."""

_MIN_LOGICAL_CPUS = 4
"""Two train workers of one CPU and a Ray Data pool starve each other on 2; CPUs are only counted, not pinned."""


class ClusterConfig(RecipeModel):
    """Where Ray runs; changes no output."""

    address: str | None = None
    """Address of a running cluster, such as `auto` or `ray://head:10001`; null: the one that started this
    job, else a session of its own on this machine."""
    num_cpus: int | None = Field(default=None, gt=0)
    """Logical CPUs of a session of its own; null: those of the machine, at least 4."""


_MAX_STARTS = 3


def set_ray_environment() -> None:
    """Sets `RAY_ENVIRONMENT` where the user has not; takes effect if called before Ray is imported."""
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def ray_session(cluster: ClusterConfig, verbose: bool = False) -> Generator[None]:
    """Starts a local Ray or joins a cluster, and leaves it at the end.

    A session that is already there is used and left running. Inside a submitted job `RAY_ADDRESS` is set by
    Ray, which wins over starting a local session.

    Args:
        cluster: address and size.
        verbose: shows Ray's own messages and those of the workers.

    Raises:
        InfrastructureError: the cluster can't be reached, or a local session doesn't start.
    """
    set_ray_environment()
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local" and "ray" not in sys.modules:
        # What Ray does by itself, but then with a warning; once imported, it no longer looks.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    if ray.is_initialized():
        with plain_errors():
            yield
        return
    level = logging.INFO if verbose else logging.ERROR
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        if address == "local":
            _start_local(cluster, level, verbose)
        else:
            ray.init(address=address, logging_level=level, log_to_driver=verbose)
    except (ConnectionError, RuntimeError, TimeoutError, OSError) as error:
        remedy = (
            "check memory, /dev/shm and the logs of `session_latest` in Ray's temporary folder"
            if address == "local"
            else "check cluster.address"
        )
        raise InfrastructureError(f"Ray at {address!r} could not be used: {error}; {remedy}") from error
    except SystemExit as end:
        # While Ray starts, a handler of its own is in place, which ends the process with the bare number.
        ray.shutdown()
        if end.code == signal.SIGTERM and callable(on_terminate):
            on_terminate(signal.SIGTERM, None)
        raise
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)  # Ray has put its own there
        _calm_ray_data(verbose)
        with plain_errors():
            yield
    finally:
        ray.shutdown()


def _start_local(cluster: ClusterConfig, level: int, verbose: bool) -> None:
    """Starts a session of its own; again, if its node isn't up within the 30 s that Ray grants (a busy machine)."""
    import ray

    for attempt in range(1, _MAX_STARTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=_num_cpus(cluster),
                include_dashboard=False,
                logging_level=level,
                log_to_driver=verbose,
            )
        except Exception as error:
            if type(error) is not Exception:  # Ray's error for a late node is of no narrower type
                raise
            if attempt == _MAX_STARTS:
                raise InfrastructureError(f"Ray didn't start: {error} Is the machine overloaded?") from error
            logger.warning("Ray's node was late, starting it again: %s", error)
        else:
            return


def _num_cpus(cluster: ClusterConfig) -> int:
    return cluster.num_cpus or max(_MIN_LOGICAL_CPUS, os.cpu_count() or 1)


def _calm_ray_data(verbose: bool) -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if not verbose:
        for name in ("ray.data", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def plain_errors() -> Generator[None]:
    """Takes our own errors out of the layers that Ray wraps around them.

    Raises:
        SailloftError: the one that a task, an actor or a train worker raised.
        InfrastructureError: Ray itself failed, a worker died for instance.
    """
    try:
        yield
    except _ray_errors() as error:
        chain = list(_causes(error))
        for cause in chain:
            if isinstance(cause, SailloftError) and not isinstance(cause, _ray_errors()):
                raise cause from error
        for cause in chain:
            if isinstance(cause, _ray_failures()):
                summary = (str(cause) or type(cause).__name__).strip().partition("\n")[0]
                raise InfrastructureError(f"Ray: {type(cause).__name__}: {summary}; run the command again") from error
        raise


def _ray_errors() -> tuple[type[Exception], ...]:
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    return RayError, TrainingFailedError


def _ray_failures() -> tuple[type[Exception], ...]:
    """Trouble of Ray's own, not an exception of code that it ran."""
    from ray import exceptions

    return (
        exceptions.ActorDiedError,
        exceptions.ActorUnavailableError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
        exceptions.OutOfMemoryError,
        exceptions.RaySystemError,
        exceptions.RuntimeEnvSetupError,
        exceptions.WorkerCrashedError,
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and those inside it, from the outside in."""
    waiting, seen = [error], set[int]()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        workers: object = getattr(current, "worker_failures", None)
        failures = list(cast("dict[int, object]", workers).values()) if isinstance(workers, dict) else []
        inner = [getattr(current, "cause", None), getattr(current, "controller_failure", None), current.__cause__]
        waiting.extend(item for item in (*failures, *inner) if isinstance(item, BaseException))


@contextmanager
def interruptible() -> Generator[None]:
    """Ends the run in good order on Ctrl-C and SIGTERM: Ray stops, nothing half-written shows.

    Both become a `SystemExit` with the shell's code (130, 143), raised where the program stands.

    Outside the main thread, where handlers can't be set, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    signals = (signal.SIGINT, signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        for one in signals:  # a second one must not disturb the clean-up
            signal.signal(one, signal.SIG_IGN)
        sys.exit(128 + number)

    previous = [signal.signal(one, end) for one in signals]
    try:
        yield
    finally:
        for one, handler in zip(signals, previous, strict=True):
            signal.signal(one, handler)
