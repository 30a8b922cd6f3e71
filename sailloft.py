"""Sailloft's public names, imported when first used.

    from sailloft import open_features
    features = open_features("runs/demo/features/...")["<image id>"]

The code lives in five packages with plain names (`storage`, `teachers`, `model`, `pipelines`,
`jobs`). Taking a name from here first makes sure that Python finds ours under these names.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

PACKAGES = ("jobs", "model", "pipelines", "storage", "teachers")
"""The five packages of the distribution."""

_EXPORTS = {
    "Corpus": "storage.corpus",
    "FeatureStore": "storage.features",
    "Objects": "storage.objects",
    "PixelSail": "model.student",
    "PixelSailConfig": "model.huggingface",
    "PixelSailForConditionalGeneration": "model.huggingface",
    "PixelSailProcessor": "model.huggingface",
    "Predictor": "model.predictor",
    "Request": "model.predictor",
    "Sample": "storage.schema",
    "StudentConfig": "model.config",
    "Task": "storage.schema",
    "decode_mask": "storage.masks",
    "draw_masks": "model.drawing",
    "open_features": "storage.features",
    "prompt_mask": "storage.prompts",
    "question_of": "model.wordings",
}

__all__ = ["PACKAGES", "check_packages", "main", *_EXPORTS]  # pyright: ignore[reportUnsupportedDunderAll]


def check_packages(folder: Path | None = None) -> None:
    """Makes sure that the five package names lead to Sailloft's own folders.

    Args:
        folder: where the packages are expected; the folder of this module by default.

    Raises:
        ImportError: another package stands in the way, or one of ours is missing.
    """
    folder = (folder or Path(__file__).parent).resolve()
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found != folder / name:
            raise ImportError(
                f"package {name!r}: expected Sailloft's own at {folder / name}, found {found or 'none'}; "
                "uninstall the other distribution, or run from a folder that holds no such name",
                name=name,
                path=str(found),
            )


def main() -> int:
    """The command `sailloft`: checks the package names, then hands over to `jobs.cli`.

    Returns:
        The exit code: 0 done, 2 wrong usage or recipe, 3 bad data, 4 infrastructure.
    """
    try:
        check_packages()
    except ImportError as error:
        sys.stderr.write(f"sailloft: {error}\n")
        return 4
    cli = importlib.import_module("jobs.cli")
    return cli.main()


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'sailloft' has no {name!r}; it offers {', '.join(sorted(_EXPORTS))}")
    check_packages()
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
