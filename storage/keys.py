"""Content keys: SHA-256 over canonical JSON, the only way outputs get their addresses."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

__all__ = ["Json", "bytes_key", "canonical_json", "content_key"]

Json: TypeAlias = "None | bool | int | float | str | Sequence[Json] | Mapping[str, Json]"


def canonical_json(value: Json) -> bytes:
    """Encodes a value as JSON in the one way that is hashed: sorted keys, no spaces, UTF-8.

    A float that is a whole number is written as that integer, so that `1` and `1.0` (which a
    YAML file and a command line may each produce for the same setting) give the same key.

    Raises:
        ValueError: the value holds NaN or an infinity.
        TypeError: the value holds something that JSON can't, or a mapping key that is no string.

    >>> canonical_json({"b": 1.0, "a": [True, None]})
    b'{"a":[true,null],"b":1}'
    """
    return json.dumps(
        _normalise(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _normalise(value: Json) -> Json:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"canonical JSON has no {value!r}; give a finite number")
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"canonical JSON needs string keys, got {key!r}")
        return {key: _normalise(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_normalise(item) for item in value]
    return value


def content_key(value: Json) -> str:
    """SHA-256 of the canonical JSON of `value`, as 64 hex digits."""
    return bytes_key(canonical_json(value))


def bytes_key(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 of `data`, as 64 hex digits; the identity of a file is the key of its bytes."""
    return hashlib.sha256(data).hexdigest()
