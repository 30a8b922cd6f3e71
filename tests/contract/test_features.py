"""The feature store keeps its contract on local and in-memory stores, with every encoding."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from storage.objects import Objects
from storage.testing import FeatureStoreContract


@pytest.fixture(params=["raw16", "int8", "klt"])
def encoding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestLocalFeatureStore(FeatureStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Objects:
        return Objects.open(tmp_path / "features")


class TestMemoryFeatureStore(FeatureStoreContract):
    @pytest.fixture
    def store(self) -> Objects:
        return Objects.open(f"memory://{uuid.uuid4().hex}/features")
