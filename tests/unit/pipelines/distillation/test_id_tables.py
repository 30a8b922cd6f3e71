"""Tables that windows share: fetched once, and only looked at where they may matter."""

from __future__ import annotations

import errno
import os
from unittest.mock import patch

import pyarrow as pa
import pytest

from pipelines.distillation.id_tables import IdTables
from storage.errors import InfrastructureError

TABLE = pa.table({"image_id": ["a", "b", "c"], "detail": ["", "torn", ""]})


def test_each_table_is_fetched_once() -> None:
    tables, other = IdTables(2), pa.table({"image_id": ["d"]})
    assert tables.read("one", lambda: TABLE).equals(TABLE)
    assert tables.read("two", lambda: other).equals(other)
    for name, expected in (("one", TABLE), ("two", other), ("one", TABLE)):
        assert tables.read(name, lambda: pytest.fail("fetched again")).equals(expected)


def test_a_single_window_keeps_nothing() -> None:
    tables, fetched = IdTables(1), list[int]()
    for _ in range(2):
        tables.read("one", lambda: fetched.append(1) or TABLE)
        tables.note("one", 0, 3)
        assert tables.may_hold("one", 0)
    assert len(fetched) == 2


def test_a_table_that_was_found_elsewhere_holds_nothing_else() -> None:
    tables = IdTables(3)
    assert tables.may_hold("one", 2)
    tables.read("one", lambda: TABLE)
    tables.note("one", 0, 2)
    assert tables.may_hold("one", 2)
    tables.note("one", 1, 1)
    assert not tables.may_hold("one", 2)
    assert tables.may_hold("one", 0)
    assert tables.may_hold("one", 1)


def test_a_full_disk_is_told_and_loses_nothing() -> None:
    tables = IdTables(2)
    tables.read("one", lambda: TABLE)
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        patch.object(os, "pwrite", side_effect=full),
        pytest.raises(InfrastructureError, match=r"no room for .*TMPDIR"),
    ):
        tables.read("two", lambda: TABLE)
    assert tables.read("one", lambda: pytest.fail("fetched again")) == TABLE
