"""The test server itself: conditional puts and refused credentials, as the real thing."""

from __future__ import annotations

import uuid

import pytest

from storage.errors import InfrastructureError
from storage.objects import Objects


def test_create_only_and_refused_credentials(s3_server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{s3_server.bucket}/{uuid.uuid4().hex}"
    objects = Objects.open(url)
    assert objects.create("a/b", b"first")
    assert not objects.create("a/b", b"second")
    assert objects.read("a/b") == b"first"
    assert [info.key for info in objects.list()] == ["a/b"]

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-one")
    with pytest.raises(InfrastructureError, match="access refused"):
        Objects.open(url).read("a/b")
