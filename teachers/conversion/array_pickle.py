"""Reads pickles of numpy arrays, such as detectron2's checkpoints, without running what they ask for.

A pickle is a program that names functions to call. Here every name leads to a stand-in that only
notes its arguments; arrays are then made from the noted bytes, types and shapes by ourselves, so
not even numpy's own unpickling code runs.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import NoReturn, cast

import numpy as np
import numpy.typing as npt

from storage.errors import SourceError, UnsafePickle
from storage.pickle_opcodes import MALFORMED_PICKLE, check_opcodes

__all__ = ["PickledArray", "load_array_pickle"]

_KINDS = "biuf"
"""Plain dtypes: booleans, signed and unsigned integers, floats."""
_SIZES_BYTES = (1, 2, 4, 8)


class _DType:
    """Stand-in for `numpy.dtype`: a code such as `f4` and, from its state, the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: object) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: object) -> None:
        # (version, byte order, subarray, names, fields, item size, alignment, flags)
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise ValueError(f"dtype {self.code!r} isn't plain")
        self.order = str(cast("tuple[object, ...]", state)[1]).replace("|", "=")

    def to_numpy(self) -> np.dtype[np.generic]:
        """The real dtype.

        Raises:
            ValueError: it isn't one of plain numbers.
        """
        code = self.code
        if not isinstance(code, str) or code[:1] not in _KINDS or code[1:] not in map(str, _SIZES_BYTES):
            kind = "an object array" if isinstance(code, str) and code.startswith("O") else f"dtype {code!r}"
            raise ValueError(f"{kind}, which isn't plain numbers")
        return np.dtype(f"{'' if self.order == '=' else self.order}{code}")


class PickledArray:
    """Stand-in for `numpy.ndarray`: its bytes, dtype, shape and order as the pickle has them."""

    __slots__ = ("_data", "_dtype", "_is_fortran", "_shape")

    def __init__(
        self, data: object = b"", dtype: object = None, shape: object = (), is_fortran: object = False
    ) -> None:
        self._data, self._dtype, self._shape, self._is_fortran = data, dtype, shape, is_fortran

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(cast("tuple[object, ...]", state)) != 5:
            raise ValueError("an array's state isn't (version, shape, dtype, order, bytes)")
        _, self._shape, self._dtype, self._is_fortran, self._data = cast("tuple[object, ...]", state)

    def to_numpy(self) -> npt.NDArray[np.generic]:
        """A new array in this machine's byte order.

        Raises:
            ValueError: not plain numbers, or bytes that don't fill the shape.
        """
        if not isinstance(self._dtype, _DType):
            raise ValueError("an array without a dtype")
        dtype = self._dtype.to_numpy()
        data = self._data.encode("latin1") if isinstance(self._data, str) else self._data
        if not isinstance(data, bytes | bytearray):
            raise ValueError(f"an array of {type(data).__name__}, not of bytes")
        shape = self._shape
        if not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise ValueError(f"an array of shape {shape!r:.80}")
        sides = cast("tuple[int, ...]", shape)
        if math.prod(sides) * dtype.itemsize != len(data):
            raise ValueError(f"{len(data)} bytes for an array {dtype} {sides}")
        values = np.frombuffer(data, dtype).reshape(sides, order="F" if self._is_fortran else "C")
        return values.astype(dtype.newbyteorder("="), order="C")


class _Callable:
    """What a name of the pickle leads to; it can be called, and not be given a state."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> NoReturn:
        raise ValueError("a function was given a state")


def _reconstruct(subtype: object, shape: object, code: object) -> PickledArray:
    return PickledArray()


def _from_buffer(data: object, dtype: object, shape: object, order: object) -> PickledArray:
    return PickledArray(data, dtype, shape, order == "F")


def _encode(text: object, encoding: object) -> bytes:
    # Below protocol 3 bytes travel as text, one character for each.
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes that aren't spelt in latin1")
    return text.encode("latin1")


def _stand_ins() -> dict[tuple[str, str], _Callable]:
    calls: dict[tuple[str, str], Callable[..., object]] = {
        ("numpy", "dtype"): lambda code, *flags: _DType(code),
        ("numpy", "ndarray"): lambda *arguments: PickledArray(),
        ("_codecs", "encode"): _encode,
        ("collections", "OrderedDict"): lambda: OrderedDict[object, object](),
    }
    for core in ("numpy.core", "numpy._core"):
        calls[f"{core}.multiarray", "_reconstruct"] = _reconstruct
        calls[f"{core}.numeric", "_frombuffer"] = _from_buffer
    return {name: _Callable(call) for name, call in calls.items()}


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes, file_name: str) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._file_name = file_name
        self._stand_ins = _stand_ins()

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._stand_ins:
            self._refuse(f"{module}.{name}")
        return self._stand_ins[module, name]

    def persistent_load(self, pid: object) -> object:
        self._refuse("a persistent object")

    def _refuse(self, wanted: str) -> NoReturn:
        raise UnsafePickle(
            f"{self._file_name}: expected a pickle of numpy arrays and builtin containers, but it asks for {wanted}; "
            "nothing of it was run. Get the file from its publisher again; if you trust it, save its arrays plainly "
            "on a machine that may run it"
        )


def load_array_pickle(data: bytes, file_name: str) -> object:
    """Decodes a pickle of arrays of plain numbers, builtin containers, text and numbers.

    Args:
        data: the bytes of the file.
        file_name: how messages name it.

    Returns:
        The value, with a `PickledArray` for each array. It may be nested and cyclic: look only where the format
        says that something is.

    Raises:
        UnsafePickle: it asks for anything else; the message names it.
        SourceError: it is truncated or no pickle.
    """
    try:
        check_opcodes(data, file_name)
        return _ArrayUnpickler(data, file_name).load()
    except SourceError:
        raise
    except MALFORMED_PICKLE as error:
        raise SourceError(
            f"{file_name}: expected a whole pickle of numpy arrays, got {len(data)} bytes that can't be decoded "
            f"({type(error).__name__}: {error}); download it again"
        ) from error
