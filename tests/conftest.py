"""Fixtures for every test; the one place that sets the environment of Ray and the hub."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.update(
    HF_HUB_OFFLINE="1",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_TRAIN_ENABLE_STATE_TRACKING="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real data and golden files (`data/`, `golden/`); the test skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("SAILLOFT_SHARED", default))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}; set SAILLOFT_SHARED to a folder with data/ and golden/")
    return folder
