"""Fields of untrusted records come out typed, or as a reject that names field, expectation and value."""

from __future__ import annotations

import pickle

import pytest

from pipelines.curation.records import RecordError
from pipelines.curation.steps.fields import integer, mapping, numbers, optional_integer, sequence, shown, string, within
from storage.schema import RejectReason


def test_good_fields() -> None:
    record: dict[str, object] = {"id": 7, "name": "cup", "rows": (1, 2), "height": None}
    assert integer(record, "id") == 7
    assert string(record, "name") == "cup"
    assert sequence(record, "rows") == [1, 2]
    assert optional_integer(record, "height") is None
    assert optional_integer(record, "id") == 7
    assert mapping(record, "record") is record


@pytest.mark.parametrize("value", [True, "7", 7.0, -1, 2**53, None, [7]])
def test_what_is_no_identifier(value: object) -> None:
    with pytest.raises(RecordError, match="field_invalid: id: expected an integer >= 0, got ") as caught:
        integer({"id": value}, "id")
    assert caught.value.reason is RejectReason.FIELD_INVALID


@pytest.mark.parametrize("value", [None, 5, b"cup", ["cup"]])
def test_what_is_no_text(value: object) -> None:
    with pytest.raises(RecordError, match="name: expected text, got "):
        string({"name": value}, "name")


def test_text_must_be_unicode() -> None:
    with pytest.raises(RecordError, match=r"name: expected valid Unicode, got 'caf\\udce9'"):
        string({"name": "caf\udce9"}, "name")


def test_numbers() -> None:
    assert numbers({"bbox": (1, 2.5, -3, 0)}, "bbox", 4) == [1.0, 2.5, -3.0, 0.0]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([1, 2, 3], "3 values"),
        ([], "0 values"),
        ([1, 2, True, 4], "1, 2, True, 4"),
        ([1, 2, float("nan"), 4], "1, 2, nan, 4"),
        ([1, 2, float("inf"), 4], "1, 2, inf, 4"),
        ([1, 2, 10**400, 4], "1, 2, int of 1329 bits, 4"),
        ([1, "2", None, 4], "1, '2', None, 4"),
    ],
)
def test_what_are_no_numbers(value: object, found: str) -> None:
    with pytest.raises(RecordError, match=f"bbox: expected 4 finite numbers, got {found}"):
        numbers({"bbox": value}, "bbox", 4)


def test_absent_fields_and_other_containers() -> None:
    with pytest.raises(RecordError, match="rows: expected in the record, but absent"):
        sequence({}, "rows")
    with pytest.raises(RecordError, match="rows: expected a list, got 'ab'"):
        sequence({"rows": "ab"}, "rows")
    with pytest.raises(RecordError, match="segment: expected a mapping, got list of 2"):
        mapping([1, 2], "segment")


def test_values_in_messages_stay_short_and_printable() -> None:
    assert shown({"a": 1}) == "dict of 1"
    assert shown(10**500) == "int of 1661 bits"
    assert shown("a\x00\u4e2d") == r"'a\x00\u4e2d'"
    assert len(shown("x" * 10**6)) == 80


def test_record_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(RecordError(RejectReason.TEXT_EMPTY, "nothing")))
    assert (error.reason, error.detail) == (RejectReason.TEXT_EMPTY, "nothing")


def test_the_place_of_a_part_stands_before_what_is_wrong_with_it() -> None:
    with (
        pytest.raises(
            RecordError, match=r"^field_invalid: answers\[0\]: shapes\[2\]: label: expected text, got 5$"
        ) as caught,
        within("answers[0]"),
        within("shapes[2]"),
    ):
        string({"label": 5}, "label")
    assert caught.value.reason is RejectReason.FIELD_INVALID
    with pytest.raises(KeyError, match="other"), within("answers[0]"):
        raise KeyError("other")
