"""Every kind of object store keeps the contract."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from storage.objects import Objects
from storage.testing import ObjectStoreContract


class TestLocalObjects(ObjectStoreContract):
    @pytest.fixture
    def objects(self, tmp_path: Path) -> Objects:
        return Objects.open(tmp_path / "store with space")


class TestFileUrlObjects(ObjectStoreContract):
    @pytest.fixture
    def objects(self, tmp_path: Path) -> Objects:
        return Objects.open(tmp_path.as_uri() + "/store%20with%20space")


class TestMemoryObjects(ObjectStoreContract):
    @pytest.fixture
    def objects(self) -> Objects:
        return Objects.open(f"memory://{uuid.uuid4().hex}/some/prefix")
