"""A walk over a pickle's opcodes before any of them is run, and what damaged pickles raise."""

from __future__ import annotations

import pickle
import pickletools
import re

from storage.errors import SourceError, UnsafePickle

__all__ = ["MALFORMED_PICKLE", "check_opcodes", "refused_tensors", "told_by_torch"]

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


_REFUSED = re.compile(r"\bGLOBAL (\S+)")


def refused_tensors(error: pickle.UnpicklingError, where: str, remedy: str, asker: str = "it") -> SourceError:
    """Our error for a file of tensors that torch refuses, or can't make sense of.

    Torch's own text advises to load the file with the guard off, and isn't passed on.

    Args:
        error: torch's.
        where: the file, or what it belongs to.
        remedy: what to do about one that asks for more than tensors.
        asker: how the message names what asks for more.
    """
    wanted = _wanted(error)
    if wanted is None:
        return SourceError(f"{where}: expected tensors, it can't be read; download it again")
    return UnsafePickle(
        f"{where}: expected tensors alone, but {asker} asks for {wanted}; nothing of it was run. {remedy}"
    )


def told_by_torch(error: Exception) -> str:
    """What loading a model raised, in one line and without torch's advice, see `refused_tensors`."""
    if not isinstance(error, pickle.UnpicklingError):
        return str(error).partition("\n")[0]
    wanted = _wanted(error)
    return "a damaged file" if wanted is None else f"it asks for {wanted}"


def _wanted(error: pickle.UnpicklingError) -> str | None:
    """The name that a file asked for beside tensors, such as `posix.system`; None: it is damaged."""
    found = _REFUSED.search(str(error))
    return None if found is None else found[1]


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
_SPECIAL = {_STOP, _PUT, _LONG_BINPUT, *_EXTENSIONS, *_LINES}
# Nearly all opcodes of nearly all pickles: all that is to be known of them is how long they are. Unknown ones give 0.
_PLAIN = [0 if code in _SPECIAL or _PREFIX[code] else 1 + _FIXED[code] for code in range(256)]


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
    plain, prefix = _PLAIN, _PREFIX
    while position < end:
        code = data[position]
        if plain[code]:
            position += plain[code]
        elif prefix[code]:
            start = position + 1 + prefix[code]
            position = start + int.from_bytes(data[position + 1 : start], "little")
        elif code == _STOP:
            return
        else:
            position = _behind_special(data, position, file_name)
    raise EOFError("no STOP opcode")


def _behind_special(data: bytes, start: int, file_name: str) -> int:
    """Where an opcode ends that isn't known by its size alone."""
    code, position = data[start], start + 1
    if _FIXED[code] < 0:
        raise ValueError(f"unknown opcode {code:#04x} at byte {start}")
    if code in _EXTENSIONS:
        raise UnsafePickle(f"{file_name}: expected plain data, but it asks for a registered extension; refused")
    if code in _LINES:
        for _ in range(2 if code in _TWO_LINES else 1):
            position = data.find(b"\n", position) + 1
            if not position:
                raise EOFError(f"line without end at byte {start + 1}")
    else:
        position += _FIXED[code]
    if code in (_PUT, _LONG_BINPUT):
        argument = data[start + 1 : position]
        index = int(argument) if code == _PUT else int.from_bytes(argument, "little")
        if index > len(data):
            raise ValueError(f"memo index {index} in a file of {len(data)} bytes")
    return position
