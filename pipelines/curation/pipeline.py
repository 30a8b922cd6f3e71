"""Curation on Ray Data: every step is a pure function, and its inputs are the rows of a dataset.

Only plans and accounts travel through Ray. A task reads its files and pictures itself and writes what it makes itself.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar, cast

import pyarrow as pa
import ray
from ray.data import DataContext

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local, curate_with
from pipelines.curation.workers import collecting_seldom
from pipelines.observer import Observer, current_observer
from pipelines.progress import Progress
from storage.errors import SailloftError
from storage.manifest import Manifest
from storage.objects import Objects

__all__ = ["curate"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def curate(
    config: CurationConfig,
    output: Objects,
    progress: Progress,
    inputs: Mapping[str, str] | None = None,
    forgotten: Collection[str] = (),
) -> Manifest:
    """Curates the sources into one corpus; see `curate_with`.

    A `memory://` store belongs to one process, so that such a run stays in this one.
    """
    roots = [url for source in config.with_roots().sources for url in (source.root_url, source.image_root_url)]
    observer = current_observer()
    if any(url.startswith("memory:") for url in (output.url, *roots)):
        manifest = curate_local(config, output, progress, inputs, forgotten)
    else:
        manifest = curate_with(_RayData(observer), config, output, progress, inputs, forgotten)
    observer.count("sailloft_rows_total", cast("int", manifest.facts["num_samples"]), outcome="sample")
    observer.count("sailloft_rows_total", cast("int", manifest.facts["num_rejects"]), outcome="reject")
    for reason, number in cast("Mapping[str, int]", manifest.facts["rejects_by_reason"]).items():
        observer.count("sailloft_rejects_total", number, reason=reason)
    return manifest


class _RayData:
    """Workers that are tasks of Ray Data.

    Args:
        observer: of the stage.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def map(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[tuple[int, _Result]]:
        """A task for each item; a lost one is repeated."""
        if not items:
            return
        if len(items) == 1:  # seconds sooner than as a dataset
            outcomes = iter([(0, ray.get(ray.remote(_outcome).remote(self._observer, function, items[0])))])
        else:
            outcomes = _map_dataset(self._observer, function, items)
        for place, outcome in outcomes:
            if isinstance(outcome, SailloftError):
                raise outcome
            yield place, outcome


def _outcome(observer: Observer, function: Callable[[_Item], _Result], item: _Item) -> _Result | SailloftError:
    """The result, or our own error: raised in a task it would arrive as Ray's, wrapped and without its class."""
    with observer.here():
        try:
            with collecting_seldom():
                return function(item)
        except SailloftError as error:
            return error


def _map_dataset(
    observer: Observer, function: Callable[[_Item], _Result], items: Sequence[_Item]
) -> Iterator[tuple[int, _Result | SailloftError]]:
    shared = ray.put(function)

    def run(row: dict[str, bytes]) -> dict[str, bytes]:
        place, item = pickle.loads(row["item"])
        return {"result": pickle.dumps((place, _outcome(observer, ray.get(shared), item)))}

    # One block per item, so that a task is an item.
    blocks = [pa.table({"item": pa.array([pickle.dumps(pair)], pa.large_binary())}) for pair in enumerate(items)]
    with _quiet_progress():
        for row in ray.data.from_arrow(blocks).map(run, num_cpus=1).iter_rows():
            yield cast("tuple[int, _Result | SailloftError]", pickle.loads(row["result"]))


@contextmanager
def _quiet_progress() -> Generator[None]:
    """Ray Data's own bars stay off: the caller shows progress."""
    with warnings.catch_warnings():
        # Ray 2.60 fills this object with fields that it has itself deprecated, and warns of each.
        warnings.filterwarnings("ignore", module=r"ray\.data\.context")
        context = DataContext.get_current()
    before = context.enable_progress_bars
    context.enable_progress_bars = False
    try:
        yield
    finally:
        context.enable_progress_bars = before
