"""What the templates of a feature store show: plain values, made from its index and manifests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import numpy as np

from pipelines.quantities import bytes_text
from storage.feature_index import OpenPart
from storage.features import FeatureStore
from storage.keys import Json
from storage.manifest import MANIFEST_NAME, Manifest

__all__ = ["Statement", "StoreFacts", "StorePart", "facts_of", "parts_of", "shortened", "statements_of"]

_LABEL_DIGITS = 12
_NUM_READERS = 16


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What stands above all pages of a store."""

    key: str
    teacher: str
    num_images: int
    num_rejected: int
    num_parts: int
    lines: tuple[tuple[str, str], ...]
    """(what, figure) pairs of the whole store."""


@dataclass(frozen=True, slots=True)
class StorePart:
    """A live part."""

    key: str
    written: str
    """When its manifest was written, in UTC."""
    num_images: int
    num_rejected: int
    num_classes: int
    num_shards: int
    size: str
    bits: str
    snr: str


@dataclass(frozen=True, slots=True)
class Statement:
    """What a store states of a corpus."""

    key: str
    corpus: str
    num_images: int
    num_rejected: int
    splits: str


def facts_of(store: FeatureStore, statements: Sequence[Manifest]) -> StoreFacts:
    """What a store says of itself as a whole.

    Args:
        store: with at least one snapshot.
        statements: of the store about corpora, which name its teacher.
    """
    description, snapshot = store.description, store.snapshot
    assert description is not None  # an absent store raises when it is opened
    assert snapshot is not None
    index = store.index
    cells = int((index.height.astype(np.int64) * index.width)[index.is_ok].sum())
    manifests = store.manifests
    size_bytes = sum(entry.size_bytes for manifest in manifests for entry in manifest.files)
    stored_bytes = sum(entry.size_bytes for manifest in manifests for entry in manifest.files if "/c/" in entry.path)
    teacher = dict[str, Json]()
    for statement in statements:
        teacher = cast("dict[str, Json]", statement.recipe.get("teacher", {})) or teacher
    kind = str(teacher.get("kind", "unknown teacher"))
    lines = [
        ("teacher", ", ".join([kind, *_told(teacher)])),
        ("fingerprint", description.fingerprint),
        ("grid", ", ".join(f"{name} {value}" for name, value in description.geometry.items()) or "not noted"),
        ("grids", _extents(store)),
        ("channels", f"{description.num_channels:,}"),
        ("encoding", description.encoding),
        ("bits per value", f"{8 * stored_bytes / (cells * description.num_channels):.2f}" if cells else "no values"),
        ("size", bytes_text(size_bytes)),
        ("snapshot", str(snapshot.number)),
        ("address", store.objects.url),
    ]
    return StoreFacts(
        shortened(store.objects.url.rstrip("/").rpartition("/")[2]),
        kind,
        len(store),
        len(store.rejected),
        len(snapshot.parts),
        tuple(lines),
    )


def parts_of(store: FeatureStore) -> list[StorePart]:
    """The live parts, in the order in which they count; one request for the date of each."""
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        return list(pool.map(_part, store.parts))


def statements_of(statements: Sequence[Manifest]) -> list[Statement]:
    """What a store states of corpora."""
    return [
        Statement(
            manifest.key,
            manifest.inputs.get("corpus", ""),
            _count(manifest, "num_images"),
            _count(manifest, "num_rejected"),
            ", ".join(map(str, cast("Sequence[str]", _features(manifest).get("splits", ())))),
        )
        for manifest in statements
    ]


def shortened(key: str) -> str:
    """A key as people tell it from others."""
    return key[:_LABEL_DIGITS]


def _part(part: OpenPart) -> StorePart:
    facts = part.manifest.facts
    shards = [entry.size_bytes for entry in part.manifest.files if "/c/" in entry.path]
    written = datetime.fromtimestamp(part.objects.info(MANIFEST_NAME).modified_s, UTC)
    bits, snr = facts.get("bits_per_value"), facts.get("snr_db")
    return StorePart(
        part.key,
        written.strftime("%Y-%m-%d %H:%M UTC"),
        _count(part.manifest, "num_images"),
        _count(part.manifest, "num_rejected"),
        len(part.arrays),
        len(shards),
        bytes_text(sum(shards)),
        "" if bits is None else f"{float(str(bits)):.2f}",
        "" if snr is None else f"{float(str(snr)):.1f} dB",
    )


def _extents(store: FeatureStore) -> str:
    """The grids of all images in words."""
    index = store.index
    if not len(store):
        return "none"
    heights, widths = index.height[index.is_ok], index.width[index.is_ok]
    low, high = f"{heights.min()} x {widths.min()}", f"{heights.max()} x {widths.max()}"
    return f"{low} cells" if low == high else f"from {low} to {high} cells"


def _features(manifest: Manifest) -> Mapping[str, Json]:
    return cast("Mapping[str, Json]", manifest.recipe.get("features", {}))


def _told(teacher: Mapping[str, Json]) -> list[str]:
    """Settings of a teacher beside its kind that are one value and not empty."""
    return [
        f"{name} {value}"
        for name, value in teacher.items()
        if name != "kind" and isinstance(value, str | int | float) and value != ""
    ]


def _count(manifest: Manifest, name: str) -> int:
    return int(str(manifest.facts.get(name, 0)))
