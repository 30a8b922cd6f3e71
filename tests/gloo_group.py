"""The process group of a few ranks on this machine; for the processes of tests to import."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from torch import distributed

__all__ = ["gloo_group"]


@contextmanager
def gloo_group(folder: Path, rank: int, world_size: int) -> Generator[None]:
    """The group over loopback as long as the context lasts; its ranks meet in a file of the folder."""
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=60),
    )
    yield
    distributed.destroy_process_group()
