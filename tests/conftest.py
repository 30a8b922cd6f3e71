"""Fixtures for every test; sets the environment of the hub, and of Ray as the command does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.session import set_ray_environment

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it once, when it is first imported
set_ray_environment()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real data and golden files (`data/`, `golden/`); the test skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("SAILLOFT_SHARED", default))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}; set SAILLOFT_SHARED to a folder with data/ and golden/")
    return folder
