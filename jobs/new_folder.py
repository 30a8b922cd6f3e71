"""Folders that come to be whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import InfrastructureError, UsageError

__all__ = ["make_folder", "target_folder"]


def target_folder(output: Path) -> Path:
    """The folder that a command is to make, absolute.

    Args:
        output: what the user called it.

    Raises:
        UsageError: a URL, a file, or a folder with content.
    """
    if ":/" in str(output):
        raise UsageError(f"{output}: expected a local folder; write one and copy it to the store")
    target = output.expanduser().absolute()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UsageError(f"{output}: expected a new or empty folder, found content; name another one, or remove it")
    return target


@contextmanager
def make_folder(target: Path) -> Generator[Path]:
    """A hidden folder beside the target to write into, which at the end gets the target's name.

    After an error nothing is left of it.

    Args:
        target: from `target_folder`.

    Raises:
        InfrastructureError: writing failed.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(target)
    except OSError as error:
        raise InfrastructureError(f"write {target}: {error}; check permissions and free space") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
