"""The Ray session of a run: environment, start, connection, end. The one place that sets `RAY_*`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from jobs.config import ClusterConfig
from storage.errors import InfrastructureError

__all__ = ["RAY_ENVIRONMENT", "interruptible", "ray_session", "set_ray_environment"]

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


def set_ray_environment() -> None:
    """Sets `RAY_ENVIRONMENT` where the user has not; takes effect if called before Ray is imported."""
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def ray_session(cluster: ClusterConfig, verbose: bool = False) -> Iterator[None]:
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
    import ray

    if ray.is_initialized():
        yield
        return
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    level = logging.INFO if verbose else logging.ERROR
    quiet = {"configure_logging": True, "logging_level": level, "log_to_driver": verbose}
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        if address == "local":
            ray.init(address="local", num_cpus=_num_cpus(cluster), include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, TimeoutError, OSError) as error:
        remedy = "check memory, /dev/shm and the logs under /tmp/ray" if address == "local" else "check cluster.address"
        raise InfrastructureError(f"Ray at {address!r} could not be used: {error}; {remedy}") from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)  # Ray has put its own there
        _calm_ray_data(verbose)
        yield
    finally:
        ray.shutdown()


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
def interruptible() -> Iterator[None]:
    """Lets SIGTERM end the run as Ctrl-C does: Ray stops, files in flight vanish, nothing half-written shows.

    Outside the main thread, where handlers can't be set, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the clean-up
        sys.exit(128 + number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
