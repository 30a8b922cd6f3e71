"""Which code this is: the distribution's version, the commit where it can be known, and a key over all sources."""

from __future__ import annotations

import hashlib
import json
import subprocess
from functools import lru_cache
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any, cast

from sailloft import PACKAGES
from storage.stage_notes import CodeVersion

__all__ = ["code_version", "code_version_at"]

_DISTRIBUTION = "sailloft"
_GIT_TIMEOUT_S = 10


@lru_cache(maxsize=1)
def code_version() -> CodeVersion:
    """The code of this process, looked at once."""
    return code_version_at(Path(__file__).resolve().parents[1])


def code_version_at(folder: Path) -> CodeVersion:
    """The code in a folder.

    Args:
        folder: with the five packages in it: a working tree, or wherever they are installed.
    """
    version, commit = _installed()
    changed: bool | None = None
    # The folder of installed packages may lie in somebody else's working tree: ours tracks this file.
    if _git(folder, "ls-files", "--error-unmatch", "sailloft.py") is not None:
        commit = (_git(folder, "rev-parse", "HEAD") or "").strip() or None
        status = _git(folder, "status", "--porcelain", "--", *PACKAGES, "sailloft.py")
        changed = None if status is None else bool(status.strip())
    return CodeVersion(version, commit, changed, _sources_key(folder))


def _installed() -> tuple[str | None, str | None]:
    """Version of the distribution, and the commit that an installer fetched it at (PEP 610)."""
    try:
        distribution = Distribution.from_name(_DISTRIBUTION)
    except PackageNotFoundError:
        return None, None
    origin = cast("dict[str, Any]", json.loads(distribution.read_text("direct_url.json") or "{}"))
    return distribution.version, origin.get("vcs_info", {}).get("commit_id")


def _sources_key(folder: Path) -> str:
    digest = hashlib.sha256()
    paths = [folder / "sailloft.py", *(path for package in PACKAGES for path in (folder / package).rglob("*.py"))]
    for path in sorted(path for path in paths if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says about a folder; None: there is no git, or it refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
