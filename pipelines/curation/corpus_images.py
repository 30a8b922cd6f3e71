"""Which images a corpus holds something of: the picture, samples, or what it looks like."""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute

from pipelines.curation.corpus_shards import shard_name
from storage.manifest import FileEntry
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.retirement import SampleCount

__all__ = ["HeldImage", "find_in_corpus", "ids_with_prefix"]

pc: Any = pyarrow.compute
_NUM_READERS = 8
_KIND = ("family", "task", "split")


@dataclass(frozen=True, slots=True)
class HeldImage:
    """What a corpus has of one image."""

    shards: frozenset[str]
    """Names of the shards with something of it: one, in a corpus that curation made."""
    samples: tuple[SampleCount, ...]
    """Its samples by family, task and split; none: only what it looks like is known."""


def find_in_corpus(objects: Objects, files: Iterable[FileEntry], image_ids: Collection[str]) -> dict[str, HeldImage]:
    """Which of some images a corpus holds something of.

    Of each shard one column of its looks is read, which know every picture that was opened for it; where there are
    none, of its images and samples. That takes two to three requests per file, and as many for the samples of a shard
    with a hit.

    Args:
        objects: prefix of the corpus.
        files: of its tables; others are passed over.
        image_ids: what to look for.

    Raises:
        CorruptObject: a table can't be read.
        InfrastructureError: the store can't be reached.
    """
    wanted = pa.array(sorted(image_ids), pa.string())
    paths = {entry.path for entry in files}
    shards: dict[str, set[str]] = {}
    counts: dict[str, Counter[tuple[str, str, str]]] = {}
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        telling = _telling(paths)
        for path, ids in zip(telling, pool.map(partial(_ids_among, objects, wanted), telling), strict=True):
            for image_id in ids:
                shards.setdefault(image_id, set()).add(shard_name(path))
        with_samples = sorted({f"samples/{name}.parquet" for names in shards.values() for name in names} & paths)
        for rows in pool.map(partial(_samples_of, objects, wanted), with_samples):
            for row in rows:
                counts.setdefault(row["image_id"], Counter())[row["family"], row["task"], row["split"]] += 1
    return {
        image_id: HeldImage(frozenset(names), _as_counts(counts.get(image_id, {})))
        for image_id, names in sorted(shards.items())
    }


def ids_with_prefix(objects: Objects, files: Iterable[FileEntry], prefix: str) -> set[str]:
    """Ids of the images that a corpus knows and that begin with some digits."""
    found: set[str] = set()
    for path in _telling({entry.path for entry in files}):
        ids = read_table(objects, path, ["image_id"])["image_id"]
        found.update(cast("list[str]", ids.filter(pc.starts_with(ids, prefix)).to_pylist()))
    return found


def _telling(paths: Collection[str]) -> list[str]:
    """Files that tell which images each shard has."""
    return sorted(
        path
        for path in paths
        if path.startswith("looks/")
        or (path.startswith(("images/", "samples/")) and f"looks/{shard_name(path)}.parquet" not in paths)
    )


def _ids_among(objects: Objects, wanted: pa.Array, path: str) -> set[str]:
    ids = read_table(objects, path, ["image_id"])["image_id"]
    return set(cast("list[str]", ids.filter(pc.is_in(ids, value_set=wanted)).to_pylist()))


def _samples_of(objects: Objects, wanted: pa.Array, path: str) -> list[dict[str, str]]:
    table = read_table(objects, path, ["image_id", *_KIND])
    return cast("list[dict[str, str]]", table.filter(pc.is_in(table["image_id"], value_set=wanted)).to_pylist())


def _as_counts(counts: Mapping[tuple[str, str, str], int]) -> tuple[SampleCount, ...]:
    return tuple(SampleCount(*kind, num_samples) for kind, num_samples in sorted(counts.items()))
