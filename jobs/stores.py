"""What the command line says and does about feature stores."""

from __future__ import annotations

from collections.abc import Collection

from pipelines.progress import Progress
from storage.calibration import TIERS
from storage.errors import UnknownKind
from storage.feature_index import OpenPart
from storage.feature_transcode import calibrate_on_store, transcode
from storage.feature_upkeep import collect_garbage, compact
from storage.features import FeatureStore
from storage.klt import CALIBRATION_NAME
from storage.manifest import read_manifest
from storage.objects import Objects

__all__ = ["compact_features", "describe_features", "tidy_features", "transcode_features", "verify_features"]

_MIB = 2**20
_SHOWN_KEYS = 10


def describe_features(url: str) -> str:
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
    return "\n".join([*lines, *map(_part_line, store.parts)])


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


def verify_features(url: str, progress: Progress) -> str:
    """Reads every file of a feature store and compares sizes and hashes.

    Args:
        url: prefix of the store.
        progress: told the number of files.

    Returns:
        One line that says that all is well.

    Raises:
        ObjectNotFound: no store there.
        CorruptObject: a file is absent or differs; names the first one.
    """
    store = FeatureStore.open(url)
    store.verify(lambda done, total: progress.update(done, total, unit="files"))
    num_files = sum(len(manifest.files) for manifest in store.manifests)
    return f"{store.objects.url}: {num_files} files of {len(store.manifests)} parts are whole"


def compact_features(url: str, forget: Collection[str], shard_mib: float, progress: Progress) -> str:
    """Makes one part of all small ones; see `storage.feature_upkeep.compact`.

    Args:
        url: prefix of the store.
        forget: images to leave out.
        shard_mib: size that a shard should not exceed.
        progress: told the number of shards.

    Returns:
        What was done, and what comes next.
    """
    done = compact(
        Objects.open(url),
        forget=forget,
        max_shard_bytes=max(1, int(shard_mib * _MIB)),
        on_shard=lambda number, total: progress.update(number, total, unit="shards"),
    )
    if not done.retired:
        return f"{url}: nothing to do; no two parts are small" + (", none holds these images" if forget else "")
    lines = [f"{url}: {len(done.retired)} parts retired, {done.num_images} rows copied"]
    if forget:
        lines[0] += f", {done.num_forgotten} rows left out"
    lines.append(f"  they stay for readers of earlier snapshots; remove them later:  sailloft features gc {url}")
    return "\n".join(lines)


def transcode_features(url: str, workspace: str, codec: str, shard_mib: float, progress: Progress) -> str:
    """Adds features in a coarser encoding to a workspace, where `teach` finds them; nothing is computed again.

    Args:
        url: prefix of a store.
        workspace: where calibration and store go, as recipes have it.
        codec: name of the encoding, as recipes have it.
        shard_mib: size that a shard should not exceed.
        progress: told the number of shards.

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
            progress.update(0, 0, unit="calibrating")
            calibration.create(CALIBRATION_NAME, calibrate_on_store(source, TIERS[codec]).to_bytes())
            publish_calibration(calibration, key, description.fingerprint, features)
    encoder = codec_for(features, calibration)
    store = output.child(f"features/{store_key(description.fingerprint, encoder.encoding)}")
    made = transcode(
        source,
        store,
        encoder,
        max_shard_bytes=max(1, int(shard_mib * _MIB)),
        on_shard=lambda done, total: progress.update(done, total, unit="shards"),
    )
    if made is None:
        return f"{store.url}: has all that {url} has"
    return describe_features(store.url)


def tidy_features(url: str, older_than_hours: float, dry_run: bool) -> str:
    """Removes what no snapshot of a store needs; see `storage.feature_upkeep.collect_garbage`.

    Args:
        url: prefix of the store.
        older_than_hours: what is younger stays.
        dry_run: only look.

    Returns:
        What was found, the first few keys by name.
    """
    found = collect_garbage(Objects.open(url), older_than_s=older_than_hours * 3600, dry_run=dry_run)
    verb = "would be removed" if dry_run else "removed"
    lines = [f"{url}: {len(found.keys)} objects, {found.size_bytes / _MIB:.1f} MiB {verb}"]
    lines += [f"  {key}" for key in found.keys[:_SHOWN_KEYS]]
    if len(found.keys) > _SHOWN_KEYS:
        lines.append(f"  and {len(found.keys) - _SHOWN_KEYS} more")
    return "\n".join(lines)
