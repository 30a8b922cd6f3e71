"""Parquet files as records, batch by batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from io import BufferedIOBase
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import SourceError

__all__ = ["iterate_parquet"]

_BATCH_ROWS = 256
"""Rows may hold pictures."""


def iterate_parquet(file: BufferedIOBase, file_name: str, columns: Collection[str] | None = None) -> Iterator[object]:
    """The rows of a Parquet file as mappings of plain values.

    Args:
        file: seekable.
        file_name: how messages name it.
        columns: those that are read; one that isn't there is left out. None: all.

    Raises:
        SourceError: it is cut off, damaged, no Parquet file, or has none of the columns.
    """
    try:
        parquet = pq.ParquetFile(file)
        names = [name for name in parquet.schema_arrow.names if columns is None or name in columns]
        if not names:
            raise SourceError(
                f"{file_name}: expected columns {', '.join(columns or ('of any name',))}, got "
                f"{', '.join(parquet.schema_arrow.names[:20]) or 'none'}; is this the right file?"
            )
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=names):
            yield from cast("list[object]", batch.to_pylist())
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"{file_name}: expected a Parquet file, got bytes that can't be read as one ({error}); fetch the file again"
        ) from error
