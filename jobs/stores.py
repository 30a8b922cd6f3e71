"""What the command line says and does about feature stores."""

from __future__ import annotations

from collections.abc import Collection

from jobs.told import Told
from pipelines.progress import Progress
from storage.calibration import TIERS
from storage.errors import UnknownKind
from storage.feature_index import OpenPart
from storage.feature_transcode import calibrate_on_store, require_finer, transcode
from storage.feature_upkeep import collect_garbage, compact
from storage.features import FeatureStore
from storage.keys import Json
from storage.klt import CALIBRATION_NAME
from storage.manifest import read_manifest
from storage.objects import Objects

__all__ = ["compact_features", "describe_features", "tidy_features", "transcode_features", "verify_features"]

_MIB = 2**20
_SHOWN_KEYS = 10


def describe_features(url: str) -> Told:
    """Teacher, encoding, size and error of coding of a feature store, one line per part.

    Args:
        url: prefix of the store.

    Raises:
        ObjectNotFound: no store there.
        CorruptObject: what it says about itself doesn't match its hashes.
    """
    store = FeatureStore.open(url)
    description = store.description
    assert description is not None  # an absent store raises
    size_bytes = sum(entry.size_bytes for part in store.manifests for entry in part.files)
    geometry = ", ".join(f"{name} {value}" for name, value in description.geometry.items())
    lines = [
        f"{store.objects.url}: {len(store)} images, {len(store.rejected)} rejected, {size_bytes / _MIB:.1f} MiB",
        f"  {description.num_channels} channels, teacher and grid {description.fingerprint[:16]}"
        + (f" ({geometry})" if geometry else ""),
        f"  encoding {_shortened(description.encoding)}",
    ]
    data: dict[str, Json] = {
        "url": store.objects.url,
        "num_images": len(store),
        "num_rejected": len(store.rejected),
        "size_bytes": size_bytes,
        "num_channels": description.num_channels,
        "fingerprint": description.fingerprint,
        "geometry": dict(description.geometry),
        "encoding": description.encoding,
        "parts": [{"key": part.key, **part.manifest.facts} for part in store.parts],
    }
    return Told("\n".join([*lines, *map(_part_line, store.parts)]), data)


def _shortened(encoding: str) -> str:
    name, colon, calibration = encoding.partition(":")
    return f"{name}{colon}{calibration[:16]}"


def _part_line(part: OpenPart) -> str:
    facts = part.manifest.facts
    shards = [entry.size_bytes for entry in part.manifest.files if "/c/" in entry.path]
    line = f"  part {part.key[:16]}  {facts['num_images']} images  {len(part.arrays)} size classes"
    line += f"  {len(shards)} shards  {sum(shards) / _MIB:.1f} MiB"
    for name, unit in (("bits_per_value", "bits per value"), ("snr_db", "dB")):
        if name in facts:
            line += f"  {facts[name]} {unit}"
    return line


def verify_features(url: str, progress: Progress) -> Told:
    """Reads every file of a feature store and compares sizes and hashes.

    Args:
        url: prefix of the store.
        progress: told the number of files.

    Returns:
        That all is well.

    Raises:
        ObjectNotFound: no store there.
        CorruptObject: a file is absent or differs; names the first one.
    """
    store = FeatureStore.open(url)
    store.verify(lambda done, total: progress.update(done, total, unit="files"))
    num_files, num_parts = sum(len(manifest.files) for manifest in store.manifests), len(store.manifests)
    return Told(
        f"{store.objects.url}: {num_files} files of {num_parts} parts are whole",
        {"url": store.objects.url, "num_files": num_files, "num_parts": num_parts, "whole": True},
    )


def compact_features(
    url: str, forget: Collection[str], shard_mib: float, progress: Progress, dry_run: bool = False
) -> Told:
    """Makes one part of all small ones; see `storage.feature_upkeep.compact`.

    Args:
        url: prefix of the store.
        forget: images to leave out.
        shard_mib: size that a shard should not exceed.
        progress: told the number of shards.
        dry_run: only look.

    Returns:
        What was done, and what comes next.
    """
    done = compact(
        Objects.open(url),
        forget=forget,
        max_shard_bytes=max(1, int(shard_mib * _MIB)),
        on_shard=lambda number, total: progress.update(number, total, unit="shards"),
        dry_run=dry_run,
    )
    data: dict[str, Json] = {
        "url": url,
        "dry_run": dry_run,
        "retired": list(done.retired),
        "part": done.part,
        "num_images": done.num_images,
        "num_forgotten": done.num_forgotten,
    }
    if not done.retired:
        none_held = ", none holds these images" if forget else ""
        return Told(f"{url}: nothing to do; no two parts are small{none_held}", data)
    would = "would be " if dry_run else ""
    lines = [f"{url}: {len(done.retired)} parts {would}retired, {done.num_images} rows {would}copied"]
    if forget:
        lines[0] += f", {done.num_forgotten} rows {would}left out"
    if not dry_run:
        lines.append(f"  they stay for readers of earlier snapshots; remove them later:  sailloft features gc {url}")
    return Told("\n".join(lines), data)


def transcode_features(
    url: str, workspace: str, codec: str, shard_mib: float, progress: Progress, dry_run: bool = False
) -> Told:
    """Adds features in a coarser encoding to a workspace, where `teach` finds them; nothing is computed again.

    Args:
        url: prefix of a store.
        workspace: where calibration and store go, as recipes have it.
        codec: name of the encoding, as recipes have it.
        shard_mib: size that a shard should not exceed.
        progress: told the number of shards.
        dry_run: only look.

    Raises:
        UsageError: no such encoding, or a finer one than that of the store.
        ObjectNotFound: no store there.
    """
    # These bring torch, which takes seconds; the other commands do without.
    from pipelines.calibration.steps import calibration_key, codec_for, is_calibrated, publish_calibration
    from pipelines.distillation.config import FeaturesConfig
    from pipelines.distillation.plan import store_key

    source = FeatureStore.open(url)
    description = source.description
    assert description is not None  # an absent store raises
    try:
        features = FeaturesConfig.model_validate({"codec": codec})
    except ValueError as error:
        raise UnknownKind("feature encoding", codec, ("int8", *TIERS)) from error
    output = Objects.open(workspace)
    calibration: Objects | None = None
    if is_calibrated(features):
        key = calibration_key(description.fingerprint, features)
        calibration = output.child(f"calibrate/{key}")
        if read_manifest(calibration) is None:
            require_finer(description.encoding, f"klt:{codec}, not calibrated yet")
            if dry_run:
                return _would_transcode(source, None, codec)
            progress.update(0, 0, unit="calibrating")
            calibration.create(CALIBRATION_NAME, calibrate_on_store(source, TIERS[codec]).to_bytes())
            publish_calibration(calibration, key, description.fingerprint, features)
    encoder = codec_for(features, calibration)
    store = output.child(f"features/{store_key(description.fingerprint, encoder.encoding)}")
    if dry_run:
        require_finer(description.encoding, encoder.encoding)
        return _would_transcode(source, store, codec)
    made = transcode(
        source,
        store,
        encoder,
        max_shard_bytes=max(1, int(shard_mib * _MIB)),
        on_shard=lambda done, total: progress.update(done, total, unit="shards"),
    )
    shown = describe_features(store.url)
    return shown if made is not None else Told(f"{store.url}: has all that {url} has", shown.data)


def _would_transcode(source: FeatureStore, target: Objects | None, codec: str) -> Told:
    """What a dry run says.

    Args:
        source: features as they are.
        target: where they would go; None: that follows from a calibration that isn't made yet.
        codec: encoding that they would be in.
    """
    known = None if target is None else FeatureStore.open(target, absent_ok=True)
    names = [source.index.name(position) for position in range(len(source.index))]
    num_images = len(names) if known is None else int(known.unknown(names).sum())
    place = "a store whose address follows from its calibration, to be made" if target is None else target.url
    return Told(
        f"{source.objects.url}: {num_images} images would be stored as {codec} in {place}",
        {
            "url": source.objects.url,
            "dry_run": True,
            "store": None if target is None else target.url,
            "codec": codec,
            "num_images": num_images,
        },
    )


def tidy_features(url: str, older_than_hours: float, dry_run: bool) -> Told:
    """Removes what no snapshot of a store needs; see `storage.feature_upkeep.collect_garbage`.

    Args:
        url: prefix of the store.
        older_than_hours: what is younger stays.
        dry_run: only look.

    Returns:
        What was found; the text names the first few keys.
    """
    found = collect_garbage(Objects.open(url), older_than_s=older_than_hours * 3600, dry_run=dry_run)
    verb = "would be removed" if dry_run else "removed"
    lines = [f"{url}: {len(found.keys)} objects, {found.size_bytes / _MIB:.1f} MiB {verb}"]
    lines += [f"  {key}" for key in found.keys[:_SHOWN_KEYS]]
    if len(found.keys) > _SHOWN_KEYS:
        lines.append(f"  and {len(found.keys) - _SHOWN_KEYS} more; --json has all")
    return Told(
        "\n".join(lines),
        {"url": url, "dry_run": dry_run, "size_bytes": found.size_bytes, "keys": list(found.keys)},
    )
