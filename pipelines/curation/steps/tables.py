"""Parquet files as records, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedIOBase
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import SourceError

__all__ = ["iterate_parquet"]

_BATCH_ROWS = 256
"""Rows may hold pictures."""


def iterate_parquet(file: BufferedIOBase, file_name: str) -> Iterator[object]:
    """The rows of a Parquet file as mappings of plain values.

    Args:
        file: seekable.
        file_name: how messages name it.

    Raises:
        SourceError: it is cut off, damaged, or no Parquet file.
    """
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=_BATCH_ROWS):
            yield from cast("list[object]", batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"{file_name}: expected a Parquet file, got bytes that can't be read as one ({error}); fetch the file again"
        ) from error
