"""Reads pickles of plain data without running anything that they ask for.

A pickle is a program. Two guards stand before it: a walk over its opcodes, which refuses counts and
memo indices that would make the interpreter allocate memory without bound, and an unpickler that
admits no global but the builtin sets.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import NoReturn

from storage.errors import SourceError, UnsafePickle

__all__ = ["load_plain_pickle"]

_ADMITTED = {
    (module, name): kind
    for module in ("builtins", "__builtin__")
    for name, kind in (("set", set), ("frozenset", frozenset), ("complex", complex))
}
_MALFORMED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,  # includes UnicodeDecodeError
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
)


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
        _check_opcodes(data, file_name)
        return _PlainUnpickler(data, file_name).load()
    except SourceError:
        raise
    except _MALFORMED as error:
        raise SourceError(
            f"{file_name}: expected a whole pickle, got {len(data)} bytes that can't be decoded "
            f"({type(error).__name__}: {error}); fetch the file again"
        ) from error


def _opcode_sizes() -> tuple[list[int], list[int], set[int]]:
    """Per opcode: bytes of its fixed argument, bytes of its length prefix, and whether lines follow."""
    fixed, prefix, lines = [-1] * 256, [0] * 256, set[int]()
    for opcode in pickletools.opcodes:
        code = ord(opcode.code)
        size = 0 if opcode.arg is None else opcode.arg.n
        fixed[code] = max(size, 0)
        if size in (pickletools.TAKEN_FROM_ARGUMENT1, pickletools.TAKEN_FROM_ARGUMENT4):
            prefix[code] = 1 if size == pickletools.TAKEN_FROM_ARGUMENT1 else 4
        elif size == pickletools.TAKEN_FROM_ARGUMENT4U:
            prefix[code] = 4
        elif size == pickletools.TAKEN_FROM_ARGUMENT8U:
            prefix[code] = 8
        elif size == pickletools.UP_TO_NEWLINE:
            lines.add(code)
    return fixed, prefix, lines


_FIXED, _PREFIX, _LINES = _opcode_sizes()
_TWO_LINES = frozenset(b"ci")  # GLOBAL and INST name a module and an attribute
_PUT = ord("p")
_LONG_BINPUT = ord("r")
_EXTENSIONS = frozenset(b"\x82\x83\x84")
_STOP = ord(".")


def _check_opcodes(data: bytes, file_name: str) -> None:
    """Walks the opcodes once: lengths must lie inside the file, memo indices below its number of bytes."""
    position, end = 0, len(data)
    fixed, prefix, lines = _FIXED, _PREFIX, _LINES
    while position < end:
        code = data[position]
        position += 1
        if code == _STOP:
            return
        size = fixed[code]
        if size < 0:
            raise ValueError(f"unknown opcode {code:#04x} at byte {position - 1}")
        if prefix[code]:
            width = prefix[code]
            size = width + int.from_bytes(data[position : position + width], "little")
        elif code in lines:
            stop = position
            for _ in range(2 if code in _TWO_LINES else 1):
                stop = data.find(b"\n", stop) + 1
                if not stop:
                    raise EOFError(f"line without end at byte {position}")
            size = stop - position
        if code in (_PUT, _LONG_BINPUT):
            argument = data[position : position + size]
            index = int(argument) if code == _PUT else int.from_bytes(argument, "little")
            if index > end:
                raise ValueError(f"memo index {index} in a file of {end} bytes")
        elif code in _EXTENSIONS:
            raise UnsafePickle(f"{file_name}: expected plain data, but it asks for a registered extension; refused")
        position += size
    raise EOFError("no STOP opcode")
