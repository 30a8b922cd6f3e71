"""Trained teachers that come with the package: small, made of scenes, nameable like any checkpoint."""

from __future__ import annotations

from pathlib import Path

__all__ = ["WEIGHTS_FOLDER", "packaged_teachers", "resolve_checkpoint"]

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
"""One folder per packaged teacher, each with its configuration, weights, figures and card."""


def packaged_teachers() -> dict[str, Path]:
    """Teachers that come with the package: name to folder in transformers' format."""
    return {path.parent.name: path.parent for path in sorted(WEIGHTS_FOLDER.glob("*/config.json"))}


def resolve_checkpoint(checkpoint: str) -> str:
    """What transformers can load: the folder of a packaged teacher, anything else as it was given.

    A local folder of the same name doesn't shadow a packaged teacher; write `./name` for it.

    Args:
        checkpoint: name of a packaged teacher such as `tiny-sam2`, a folder, or a hub name.

    >>> resolve_checkpoint("facebook/sam2.1-hiera-large")
    'facebook/sam2.1-hiera-large'
    """
    return str(packaged_teachers().get(checkpoint, checkpoint))
