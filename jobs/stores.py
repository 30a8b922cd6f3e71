"""What the command line says about feature stores."""

from __future__ import annotations

from storage.features import FeatureStore

__all__ = ["describe_features", "verify_features"]

_MIB = 2**20


def describe_features(url: str) -> str:
    """Teacher, encoding and size of a feature store, one line per part.

    Args:
        url: prefix of the store.

    Raises:
        ObjectNotFound: no store there.
        CorruptObject: what it says about itself doesn't match its hashes.
    """
    store = FeatureStore.open(url)
    description = store.description
    assert description is not None  # an absent store raises
    lines = [
        f"{store.objects.url}: {len(store)} images, {len(store.rejected)} rejected",
        f"  encoding {description.encoding}, {description.num_channels} channels, teacher and grid "
        f"{description.fingerprint[:16]}",
    ]
    for manifest in store.manifests:
        size_bytes = sum(entry.size_bytes for entry in manifest.files)
        lines.append(f"  part {manifest.key[:16]}  {len(manifest.files)} files  {size_bytes / _MIB:.1f} MiB")
    return "\n".join(lines)


def verify_features(url: str) -> str:
    """Reads every file of a feature store and compares sizes and hashes.

    Args:
        url: prefix of the store.

    Returns:
        One line that says that all is well.

    Raises:
        ObjectNotFound: no store there.
        CorruptObject: a file is absent or differs; names the first one.
    """
    store = FeatureStore.open(url)
    store.verify()
    num_files = sum(len(manifest.files) for manifest in store.manifests)
    return f"{store.objects.url}: {num_files} files of {len(store.manifests)} parts are whole"
