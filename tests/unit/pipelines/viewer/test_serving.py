"""Serving: loopback alone, a port that is free, and the pages by kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.viewer.pages import PageOptions, open_page
from pipelines.viewer.serving import bound_socket
from storage.errors import ObjectNotFound, UsageError
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION


def test_only_loopback_is_bound() -> None:
    with bound_socket(0) as first:
        host, port = first.getsockname()
        assert host == "127.0.0.1"
        first.listen()
        with pytest.raises(UsageError, match=rf"--port {port}: expected a free port of 127.0.0.1, got"):
            bound_socket(port)


def test_an_output_that_no_page_shows(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound, match="expected the address of an output, as the command that made it"):
        open_page(str(tmp_path / "absent"), PageOptions())
    publish(Objects.open(tmp_path), Manifest("scenes", "f", SCHEMA_VERSION, {}, {}, ()))
    with pytest.raises(
        UsageError,
        match="kind benchmark_drafts, checkpoint, corpus, evaluation, features, report, teach, workspace, got scenes",
    ):
        open_page(str(tmp_path), PageOptions())
