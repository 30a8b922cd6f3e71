"""Reads pickles of plain data without running anything that they ask for.

A pickle is a program. Two guards stand before it: a walk over its opcodes, which refuses counts and
memo indices that would make the interpreter allocate memory without bound, and an unpickler that
admits no global but the builtin sets.
"""

from __future__ import annotations

import io
import pickle
from typing import NoReturn

from storage.errors import SourceError, UnsafePickle
from storage.pickle_opcodes import MALFORMED_PICKLE, check_opcodes

__all__ = ["load_plain_pickle"]

_ADMITTED = {
    (module, name): kind
    for module in ("builtins", "__builtin__")
    for name, kind in (("set", set), ("frozenset", frozenset), ("complex", complex))
}


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes, file_name: str) -> None:
        # Python 2 wrote text as bytes; bytes that aren't UTF-8 become surrogates, and so a reject of their record.
        super().__init__(io.BytesIO(data), encoding="utf-8", errors="surrogateescape")
        self._file_name = file_name

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ADMITTED:
            self._refuse(f"the global {module}.{name}")
        return _ADMITTED[module, name]

    def persistent_load(self, pid: object) -> object:
        self._refuse("a persistent object")

    def _refuse(self, wanted: str) -> NoReturn:
        raise UnsafePickle(
            f"{self._file_name}: expected a pickle of builtin containers, strings and numbers, but it asks for "
            f"{wanted}; nothing of it was run. Get the file from its publisher again, or convert it to plain lists "
            "and dictionaries on a machine that may run it"
        )


def load_plain_pickle(data: bytes, file_name: str) -> object:
    """Decodes a pickle that holds only builtin containers, strings and numbers.

    Args:
        data: the bytes of the file.
        file_name: how messages name it.

    Returns:
        The plain value. It may be nested and cyclic: look only where the format says something is.

    Raises:
        UnsafePickle: it asks for a global, an extension or a persistent object.
        SourceError: it is truncated or no pickle.
    """
    try:
        check_opcodes(data, file_name)
        return _PlainUnpickler(data, file_name).load()
    except SourceError:
        raise
    except MALFORMED_PICKLE as error:
        raise SourceError(
            f"{file_name}: expected a whole pickle, got {len(data)} bytes that can't be decoded "
            f"({type(error).__name__}: {error}); fetch the file again"
        ) from error
