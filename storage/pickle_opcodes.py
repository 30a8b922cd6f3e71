"""A walk over a pickle's opcodes before any of them is run, and what damaged pickles raise."""

from __future__ import annotations

import pickle
import pickletools

from storage.errors import UnsafePickle

__all__ = ["MALFORMED_PICKLE", "check_opcodes"]

MALFORMED_PICKLE = (
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
"""What an unpickler raises on bytes that are no whole pickle."""


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


def check_opcodes(data: bytes, file_name: str) -> None:
    """Walks the opcodes once: lengths must lie inside the file, memo indices below its number of bytes.

    Args:
        data: the bytes of the file.
        file_name: how messages name it.

    Raises:
        UnsafePickle: it asks for a registered extension.
        ValueError: an unknown opcode, or a memo index that would make the interpreter allocate without bound.
        EOFError: a line without end.
    """
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
