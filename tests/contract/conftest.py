"""Stores for the contract suites."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.s3_server import S3Server


@pytest.fixture
def s3_bucket(s3_server: S3Server, s3_variables: Callable[..., None]) -> str:
    s3_variables(**s3_server.environment)
    return f"s3://{s3_server.bucket}"
