"""The feature store keeps its contract on local and in-memory stores and on a real S3 server, with every encoding."""

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


class TestS3FeatureStore(FeatureStoreContract):
    @pytest.fixture
    def store(self, s3_bucket: str) -> Objects:
        return Objects.open(f"{s3_bucket}/{uuid.uuid4().hex}/features")
