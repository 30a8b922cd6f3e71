from __future__ import annotations

import io
import os
import pickle
import random
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from storage.errors import SourceError, UnsafePickle
from teachers.conversion.array_pickle import PickledArray, load_array_pickle


class Calls:
    """Asks the unpickler to call something."""

    def __init__(self, function: object, *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self._call


def arrays(content: object) -> dict[str, np.ndarray]:
    assert isinstance(content, dict)
    return {name: value.to_numpy() for name, value in content.items() if isinstance(value, PickledArray)}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "uint8", "bool", ">f4", "<i2"])
def test_arrays_of_plain_numbers_come_back(protocol: int, dtype: str) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    content = {"c": values, "fortran": np.asfortranarray(values[0]), "scalar": values[0, 0, 1:2].reshape(())}
    found = arrays(load_array_pickle(pickle.dumps(content, protocol), "here"))
    assert list(found) == list(content)
    for name, array in content.items():
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert found[name].shape == array.shape
        assert found[name].flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(found[name], array)


def test_containers_and_plain_values_come_back() -> None:
    content = OrderedDict(a=[1, 2.5, None, True, ("x", b"y")], b={"deep": {"er": []}})
    assert load_array_pickle(pickle.dumps(content), "here") == content


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (Calls(os.system, "true"), r"posix\.system"),
        (Calls(eval, "1"), r"__builtin__\.eval"),
        (Calls(np.frombuffer, b"abcd"), r"numpy.*frombuffer"),
        (np.float32(1), r"numpy\._core\.multiarray\.scalar"),
        (Path("x"), "pathlib"),
        (random.Random, r"random\.Random"),
        ({1, 2}, r"builtins\.set|__builtin__\.set"),
    ],
)
def test_everything_else_is_refused_by_name(wanted: object, name: str) -> None:
    with pytest.raises(UnsafePickle, match=rf"weights\.pkl: expected a pickle of numpy arrays .* asks for .*{name}"):
        load_array_pickle(pickle.dumps({"model": wanted}, 2), "weights.pkl")


def test_persistent_objects_are_refused() -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return "storage" if isinstance(obj, bytearray) else None

    stream = io.BytesIO()
    Pickler(stream, 2).dump({"a": bytearray(b"x")})
    with pytest.raises(UnsafePickle, match="a persistent object"):
        load_array_pickle(stream.getvalue(), "here")


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.array([{"a": 1}], dtype=object), "an object array"),
        (np.array(["text"]), "dtype 'U4'"),
        (np.zeros(2, "datetime64[s]"), "M8"),
        (np.zeros(2, [("x", "f4"), ("y", "i4")]), "isn't plain"),
        (np.zeros(2, "complex64"), "dtype 'c8'"),
    ],
)
def test_arrays_of_anything_else_are_refused(array: np.ndarray, what: str) -> None:
    def load() -> None:
        content = load_array_pickle(pickle.dumps({"a": array}, 2), "here")
        assert isinstance(content, dict)
        content["a"].to_numpy()

    with pytest.raises(ValueError, match=what):
        load()


def test_bytes_must_fill_the_shape() -> None:
    data = pickle.dumps({"a": np.arange(3, dtype=np.float64)}, 2)
    shape = b"K\x03\x85"  # the tuple (3,)
    assert data.count(shape) == 1
    content = load_array_pickle(data.replace(shape, b"K\x04\x85"), "here")
    with pytest.raises(ValueError, match=r"24 bytes for an array float64 \(4,\)"):
        arrays(content)


def test_a_state_cannot_be_given_to_a_function() -> None:
    # BUILD on the stand-in itself, which would set attributes on a plain function.
    data = b"\x80\x02cnumpy\ndtype\n}(X\x04\x00\x00\x00nameX\x01\x00\x00\x00aub."
    with pytest.raises(SourceError, match="can't be decoded"):
        load_array_pickle(data, "here")


def test_damaged_pickles_are_source_errors() -> None:
    data = pickle.dumps({"model": {"a": np.arange(100, dtype=np.float32)}}, 2)
    for length in (0, 1, 10, len(data) // 2, len(data) - 1):
        with pytest.raises(SourceError, match="here"):
            load_array_pickle(data[:length], "here")
    rng = random.Random(0)
    for _ in range(500):
        torn = bytearray(data)
        torn[rng.randrange(len(torn))] = rng.randrange(256)
        try:
            content = load_array_pickle(bytes(torn), "here")
            weights = content.get("model") if isinstance(content, dict) else None
            if isinstance(weights, dict):
                arrays(weights)
        except ValueError:  # SourceError is one
            continue
