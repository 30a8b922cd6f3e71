"""JSON record by record: what the standard decoder gives, whatever the size of the window."""

from __future__ import annotations

import io
import json
import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.curation.steps import json_stream
from pipelines.curation.steps.json_stream import NoElement, iterate_json, iterate_json_lines
from pipelines.curation.steps.source_files import iterate_rows, iterate_tables
from storage.errors import SourceError

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def _rows(data: bytes, name: str = "a.json") -> list[object]:
    return list(iterate_rows(io.BytesIO(data), name))


@pytest.fixture(params=[1, 7, 4096])
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", request.param)
    return request.param


@given(rows=st.lists(_VALUES, max_size=5), indent=st.sampled_from([None, 1]), chunk=st.integers(1, 64))
def test_rows_are_those_of_the_standard_decoder(rows: list[object], indent: int | None, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK_BYTES", chunk)
        for ascii_only in (True, False):
            data = json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode(errors="surrogatepass")
            if ascii_only or "\\ud" not in json.dumps(rows):
                assert _rows(data) == json.loads(data)
        lines = "\n".join(json.dumps(row) for row in rows).encode()
        assert list(iterate_json_lines(io.BytesIO(lines), "a.jsonl")) == rows


@pytest.mark.usefixtures("chunk_bytes")
def test_lists_by_name_come_in_the_order_of_the_file() -> None:
    data = b'{"info": {"a": [1]}, "b": [ 1, {"c": [2]} ] , "empty": [], "d": ["]", null]}'
    assert list(iterate_tables(io.BytesIO(data), "a.json", ["d", "b", "empty"], ["b", "d"])) == [
        ("b", 1),
        ("b", {"c": [2]}),
        ("d", "]"),
        ("d", None),
    ]
    assert next(iterate_json(io.BytesIO(data), "a.json")) == ("info", NoElement({"a": [1]}))


@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_encodings(encoding: str) -> None:
    text = "Käse 杯 \U0001f9c0"
    assert _rows(f'[{{"text": "{text}"}}, -1.5e3]'.encode(encoding)) == [{"text": text}, -1500.0]


def test_numbers_that_python_or_json_have_no_room_for_spoil_their_record_alone() -> None:
    huge = b"9" * 5000
    first, second, third = _rows(b'[{"id": ' + huge + b', "n": 3}, NaN, [-Infinity]]')
    assert first == {"id": huge.decode(), "n": 3}
    assert math.isnan(second)  # type: ignore[arg-type]
    assert third == [-math.inf]


@pytest.mark.usefixtures("chunk_bytes")
@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"", 0),
        (b"[1, 2", 5),
        (b"[1, 2 3]", 6),
        (b"[1, 2] 3", 7),
        (b'[{"a": "never ends]', 7),
        (b'[{"a": tru}]', 7),
        (b'{"a": [1}', 8),
        (b'{"a" [1]}', 5),
        (b"{1: 2}", 1),
        (b'["\xff"]', None),
    ],
)
def test_damage_is_named_with_its_place(data: bytes, place: int | None) -> None:
    where = r"\d+" if place is None else place
    with pytest.raises(SourceError, match=rf"^a\.json: expected JSON, got text .* at character {where} .*fetch"):
        list(iterate_json(io.BytesIO(data), "a.json"))


@pytest.mark.parametrize("data", [b'{"a": [1]}', b"3", b'"text"', b"{}"])
def test_what_is_no_list_of_records_is_named(data: bytes) -> None:
    if data == b"{}":
        assert _rows(data) == []
        return
    with pytest.raises(SourceError, match=r"^a\.json: expected a list of records, got"):
        _rows(data)


def test_memory_follows_the_largest_record() -> None:
    rows = 40_000
    data = b"[" + b",".join(b'{"id": %d, "text": "%s"}' % (n, b"x" * 500) for n in range(rows)) + b"]"
    file = io.BytesIO(data)
    tracemalloc.start()
    assert sum(1 for _ in iterate_rows(file, "a.json")) == rows
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data) > 20e6
    assert peak < 16e6, peak
