"""Tables for a terminal: columns padded with blanks."""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["aligned", "table"]


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Lines whose columns stand below each other, two blanks apart.

    Args:
        rows: the cells of each line, the head first; all of one length.
        right: columns that end below each other, such as numbers, by their places; the others begin so.

    >>> print(*aligned([("score", "value"), ("gIoU", "7.1"), ("cIoU", "61.0")], right={1}), sep="\\n")
    score  value
    gIoU     7.1
    cIoU    61.0
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def table(head: tuple[str, ...], rows: Sequence[tuple[str | int, ...]]) -> list[str]:
    """Lines of a table below an empty one, words to the left and numbers to the right; nothing without rows."""
    if not rows:
        return []
    numbers = {place for place, cell in enumerate(rows[0]) if isinstance(cell, int)}
    return ["", *aligned([head, *(tuple(map(str, row)) for row in rows)], numbers)]
