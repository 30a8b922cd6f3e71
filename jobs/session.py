"""The Ray session of a run: environment, start, connection, end. The one place that sets `RAY_*`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import cast

from pydantic import Field

from jobs.logs import adopt_loggers, log_settings
from storage.errors import InfrastructureError, SailloftError
from storage.recipe import RecipeModel

__all__ = [
    "CLUSTER_ENVIRONMENT",
    "RAY_ENVIRONMENT",
    "ClusterConfig",
    "one_session",
    "plain_errors",
    "ray_session",
    "set_ray_environment",
]

logger = logging.getLogger(__name__)

CLUSTER_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's coming default, and it warns without
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # the stages report their own progress
}
"""What Ray finds in the environment of every process; a value that the user has set stays."""
RAY_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a node listens on loopback, not on the network's address
    **CLUSTER_ENVIRONMENT,
}
"""What Ray finds in the environment of a local session."""

_MIN_LOGICAL_CPUS = 4
"""Two train workers of one CPU and a Ray Data pool starve each other on 2; CPUs are only counted, not pinned."""


class ClusterConfig(RecipeModel):
    """Where Ray runs; changes no output."""

    address: str | None = None
    """Address of a running cluster, such as `auto` or `ray://head:10001`; null: the one that started this
    job, else a session of its own on this machine."""
    num_cpus: int | None = Field(default=None, gt=0)
    """Logical CPUs of a session of its own; null: those of the machine, at least 4."""
    runtime_env: str | None = None
    """Ray runtime environment of jobs that are handed in: path of a YAML file, or the name of one that comes along,
    such as `sam2`; null: the cluster's own libraries."""


_MAX_STARTS = 3
_TOKEN_FOLDER = "/.ray"
"""In the user's home, where Ray keeps the token of its sessions."""


def set_ray_environment(local: bool = True) -> None:
    """Sets `RAY_ENVIRONMENT` where the user has not; takes effect if called before Ray is imported.

    Args:
        local: whether the session is of this machine alone; processes of a cluster have to hear each other.
    """
    for name, value in (RAY_ENVIRONMENT if local else CLUSTER_ENVIRONMENT).items():
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
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    set_ray_environment(local=address == "local")
    if address == "local" and "ray" not in sys.modules:
        # What Ray does by itself, but then with a warning; once imported, it no longer looks.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    adopt_loggers()
    if ray.is_initialized():
        with plain_errors():
            yield
        return
    level = logging.INFO if verbose else logging.ERROR
    # Ray shows the workers' lines behind prefixes of its own, which no program reads.
    to_driver = verbose and not log_settings().json_on_stderr
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        if address == "local":
            _start_local(cluster, level, to_driver)
        else:
            ray.init(address=address, logging_level=level, log_to_driver=to_driver)
    except (ConnectionError, RuntimeError, TimeoutError, OSError) as error:
        remedy = _remedy(error, address)
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
        adopt_loggers()
        if address != "local":
            _warn_without_workers(address)
        with plain_errors():
            yield
    finally:
        ray.shutdown()


def _warn_without_workers(address: str) -> None:
    """Ray waits for CPUs without a word, which one that grows by itself brings and another never does."""
    import ray

    if not ray.cluster_resources().get("CPU"):
        logger.warning(
            "Ray at %r has no CPUs: stages wait until a worker joins; if none is on its way, start one "
            "(ray start --address HEAD), or stop this run",
            address,
        )


def _remedy(error: Exception, address: str) -> str:
    if isinstance(error, OSError) and str(error.filename or "").endswith(_TOKEN_FOLDER):
        return "set HOME to a folder that can be written"
    if address != "local":
        return "check cluster.address"
    return "`sailloft doctor` looks at memory and /dev/shm; Ray's temporary folder has logs in `session_latest`"


@contextmanager
def one_session(
    cluster: ClusterConfig, verbose: bool = False, within: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Generator[Callable[[], AbstractContextManager[None]]]:
    """A session for several pieces of work: opened by the first that asks for it, left behind the last.

    Args:
        cluster: see `ray_session`.
        verbose: see `ray_session`.
        within: held while the session is open.
    """
    with ExitStack() as stack:
        is_open = False

        def session() -> AbstractContextManager[None]:
            nonlocal is_open
            if not is_open:
                stack.enter_context(ray_session(cluster, verbose))
                stack.enter_context(within())
                is_open = True
            return nullcontext()

        yield session


def _start_local(cluster: ClusterConfig, level: int, log_to_driver: bool) -> None:
    """Starts a session of its own; again, if its node isn't up within the 30 s that Ray grants (a busy machine)."""
    import ray

    for attempt in range(1, _MAX_STARTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=_num_cpus(cluster),
                include_dashboard=False,
                logging_level=level,
                log_to_driver=log_to_driver,
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
