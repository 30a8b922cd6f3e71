"""Other ways to keep features on a disk, read as their libraries read them."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorstore
import zarr

from storage.features import FeatureStore

__all__ = ["PEERS_THAT_VERIFY", "Reader", "peers", "preadv_reader"]

Reader = Callable[[Sequence[int]], None]
"""Reads the images of these numbers, in this order, once."""

PEERS_THAT_VERIFY = ("zarr-python", "tensorstore")


def preadv_reader(store: FeatureStore, image_ids: Sequence[str], num_buffers: int) -> Reader:
    """The limit: nothing but `preadv` of each image's bytes, into memory that is used again."""
    root = store.objects.local_path
    assert root is not None
    refs = [store.ref(image_id) for image_id in image_ids]
    part = store.parts[0]
    places: list[tuple[int, int]] = []
    descriptors: dict[str, int] = {}
    num_bytes = 0
    for ref in refs:
        array = part.arrays[ref.array]
        path = str(root / "parts" / part.key / array.shard_key(ref.row // array.rows_per_shard))
        descriptor = descriptors.setdefault(path, os.open(path, os.O_RDONLY))
        chunk_bytes = array.num_channels * array.cells * 2 + 4
        num_bytes = max(num_bytes, chunk_bytes)
        places.append((descriptor, (ref.row % array.rows_per_shard) * chunk_bytes))
    sizes = [part.arrays[ref.array].num_channels * part.arrays[ref.array].cells * 2 for ref in refs]
    buffers = [np.empty(num_bytes, np.uint8).data for _ in range(num_buffers)]

    def read(order: Sequence[int]) -> None:
        for count, number in enumerate(order):
            descriptor, offset = places[number]
            done = os.preadv(descriptor, [buffers[count % num_buffers][: sizes[number]]], offset)
            assert done == sizes[number]

    return read


def peers(folder: Path, store: FeatureStore, image_ids: Sequence[str]) -> dict[str, Reader]:
    """The same float16 features in other forms; zarr-python and tensorstore open our own arrays.

    `npy` and `tar` check nothing. A tar, laid out as WebDataset does it, can't be read in another
    order than its own.
    """
    features = [values.astype(np.float16) for values in store.read(image_ids)]
    npy = folder / "npy"
    npy.mkdir()
    for number, values in enumerate(features):
        np.save(npy / f"{number}.npy", values)
    archive = folder / "features.tar"
    with tarfile.open(archive, "w") as tar:
        for number, values in enumerate(features):
            sink = io.BytesIO()
            np.save(sink, values)
            member = tarfile.TarInfo(f"{number:06d}.npy")
            member.size = sink.tell()
            sink.seek(0)
            tar.addfile(member, sink)
    root = store.objects.local_path
    assert root is not None
    refs = [store.ref(image_id) for image_id in image_ids]
    part = root / "parts" / store.parts[0].key
    by_zarr = {name: zarr.open_array(part / name, mode="r") for name in store.parts[0].arrays}
    by_tensorstore = {
        name: tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(part / name)}}, read=True
        ).result()
        for name in store.parts[0].arrays
    }

    def read_npy(order: Sequence[int]) -> None:
        for number in order:
            np.load(npy / f"{number}.npy")

    def read_tar(order: Sequence[int]) -> None:
        with tarfile.open(archive, "r|") as tar:
            for _, member in zip(order, tar, strict=False):
                content = tar.extractfile(member)
                assert content is not None
                np.load(io.BytesIO(content.read()))

    def read_zarr(order: Sequence[int]) -> None:
        for number in order:
            by_zarr[refs[number].array][refs[number].row]

    def read_tensorstore(order: Sequence[int]) -> None:
        for start in range(0, len(order), 16):
            reads = [
                by_tensorstore[refs[number].array][refs[number].row].read() for number in order[start : start + 16]
            ]
            for read in reads:
                read.result()

    return {"npy": read_npy, "tar": read_tar, "zarr-python": read_zarr, "tensorstore": read_tensorstore}
