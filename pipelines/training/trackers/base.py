"""What a tracker is, and what it is told of its run.

A tracker is built on rank 0 alone. Nothing that it keeps is an output: it lies outside content addresses
and may hold clocks. A run that resumes after S steps logs again from step S + 1 on; each tracker sees to
it that no point stands twice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from PIL import Image

from storage.keys import Json
from storage.objects import Objects

__all__ = ["LocalCopy", "TrackedRun", "Tracker"]


class Tracker(Protocol):
    """Takes curves and pictures of one run."""

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One point of several curves.

        Args:
            step: optimiser steps done; never falls.
            values: by the curve's name; `/` groups names.
        """
        ...

    def log_image(self, step: int, name: str, image: Image.Image) -> None:
        """One picture of a series."""
        ...

    def flush(self) -> None:
        """Makes what was logged so far outlive this process; called before each checkpoint."""
        ...

    def close(self, *, finished: bool) -> None:
        """Ends the tracking.

        Args:
            finished: whether the run reached its last step; one that didn't can resume.
        """
        ...


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What a tracker is told of its run."""

    key: str
    """Content key of the checkpoint that the run makes; names the run, also when it resumes."""
    logs: Objects
    """Prefix for what trackers write by themselves."""
    first_step: int = 0
    """Steps that were done before this start."""
    recipe: Mapping[str, Json] = field(default_factory=dict[str, Json])
    """Resolved settings of the run; they hold no credentials."""


class LocalCopy:
    """A folder for a library that writes to local disks alone, copied to its prefix when asked to.

    Args:
        objects: where the files belong; a local folder is used itself, and nothing is copied.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._temporary = None if objects.local_path else tempfile.TemporaryDirectory(prefix="sailloft-logs-")
        self._copied: dict[str, tuple[int, int]] = {}
        self.folder = objects.local_path or Path(self._temporary.name if self._temporary else "")
        self.folder.mkdir(parents=True, exist_ok=True)

    def push(self) -> None:
        """Copies files that are new or have grown."""
        if self._temporary is None:
            return
        for path in sorted(self.folder.rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            name, state = path.relative_to(self.folder).as_posix(), path.stat()
            version = (state.st_size, state.st_mtime_ns)
            if self._copied.get(name) != version:
                self._objects.put(name, path.read_bytes())
                self._copied[name] = version

    def close(self) -> None:
        """Copies a last time and removes what was temporary."""
        self.push()
        if self._temporary is not None:
            self._temporary.cleanup()
