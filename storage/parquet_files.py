"""Parquet files at any URL as tables, of which only what is asked for is read."""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import CorruptObject
from storage.objects import Objects

__all__ = ["read_table"]


def read_table(
    objects: Objects, path: str, columns: Sequence[str] | None = None, row_groups: Sequence[int] | None = None
) -> pa.Table:
    """A Parquet file, or part of it.

    Args:
        objects: where it lies.
        path: its key.
        columns: None: all.
        row_groups: None: all.

    Raises:
        ObjectNotFound: no such file.
        CorruptObject: it is no Parquet file.
        InfrastructureError: the store can't be reached.
    """
    with objects.open_file(path) as file:
        try:
            with pq.ParquetFile(file) as table:
                groups = range(table.num_row_groups) if row_groups is None else row_groups
                return table.read_row_groups(list(groups), columns=None if columns is None else list(columns))
        except pa.ArrowInvalid as error:
            raise CorruptObject(
                f"{objects.url}/{path}: no Parquet file: {error}; delete it and rerun its stage"
            ) from error
