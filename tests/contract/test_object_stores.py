"""Every kind of object store keeps the contract, a real S3 server among them."""

from __future__ import annotations

import os
import traceback
import uuid
from pathlib import Path

import pytest

from storage.errors import InfrastructureError
from storage.features import FeatureStore
from storage.objects import Objects
from storage.testing import ObjectStoreContract, example_features, publish_example_part


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


class TestS3Objects(ObjectStoreContract):
    @pytest.fixture
    def objects(self, s3_bucket: str) -> Objects:
        return Objects.open(f"{s3_bucket}/{uuid.uuid4().hex}/some/prefix")


def test_features_on_s3(s3_bucket: str) -> None:
    store = Objects.open(f"{s3_bucket}/{uuid.uuid4().hex}")
    rows = example_features()
    publish_example_part(store, "part", rows, "int8")
    features = FeatureStore.open(store.url)
    assert features["image1"].shape == (6, 7, 9)
    features.verify()


def test_a_whole_bucket_is_a_prefix_too(s3_bucket: str) -> None:
    objects, key = Objects.open(s3_bucket), f"{uuid.uuid4().hex}/a"
    assert objects.create(key, b"1")
    assert objects.read(key) == b"1"
    assert key in [info.key for info in objects.list()]
    assert [info.key for info in objects.list(key.split("/")[0])] == [key]


def test_an_absent_bucket_is_named(s3_bucket: str) -> None:
    objects = Objects.open("s3://no-such-bucket/prefix")
    with pytest.raises(InfrastructureError, match=r"s3://no-such-bucket/prefix.*the bucket doesn't exist"):
        objects.create("a", b"1")
    with pytest.raises(InfrastructureError, match="s3://no-such-bucket/prefix"):
        objects.read("a")


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_name_the_variables_not_their_values(
    s3_bucket: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "wrong-" + uuid.uuid4().hex)
    values = [os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]]
    for action in (lambda objects: objects.read("a"), lambda objects: objects.create("a", b"1")):
        with pytest.raises(InfrastructureError, match=f"access refused, .*check {variable}") as caught:
            action(Objects.open(f"{s3_bucket}/prefix"))
        told = "".join(traceback.format_exception(caught.value))
        assert not [value for value in values if value in told]


def test_an_unreachable_endpoint_is_named(s3_bucket: str, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setattr("storage.object_clients._RETRY", {"max_retries": 1})
    with pytest.raises(InfrastructureError, match="unreachable, the connection is refused; check AWS_ENDPOINT_URL"):
        Objects.open(f"{s3_bucket}/prefix").read("a")


def test_absent_credentials_are_told_at_once(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(InfrastructureError, match=r"no credentials are; set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"):
        Objects.open(f"{s3_bucket}/prefix").read("a")
