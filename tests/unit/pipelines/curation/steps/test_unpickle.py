"""Plain pickles are read as they were written, whoever wrote them."""

from __future__ import annotations

import pickle

import pytest

from pipelines.curation.steps.unpickle import load_plain_pickle
from storage.errors import SourceError

_PLAIN = [
    {"ref_id": 7, "raw": "THE CUP", "box": (1.5, -2, 3e10), "none": None, "yes": True, 12: [2**70, -(2**70)]},
    ["ü", "\u4e2d" * 300, ""],
]


@pytest.mark.parametrize("protocol", range(6))
def test_containers_strings_and_numbers(protocol: int) -> None:
    assert load_plain_pickle(pickle.dumps(_PLAIN, protocol), "refs.p") == _PLAIN


@pytest.mark.parametrize("protocol", range(6))
def test_builtin_sets_and_complex_numbers(protocol: int) -> None:
    value = [{1, 2}, frozenset({"a"}), 1 + 2j]
    assert load_plain_pickle(pickle.dumps(value, protocol), "refs.p") == value


def test_shared_objects_stay_shared() -> None:
    sentence = ["shared"]
    first, second = load_plain_pickle(pickle.dumps([sentence, sentence], 2), "refs.p")  # type: ignore[misc]
    assert first is second


def test_text_that_python_2_wrote_as_bytes() -> None:
    # [u'abc', 'caf\xc3\xa9' (UTF-8), 'caf\xe9' (Latin-1)] as Python 2's cPickle writes it in protocol 2
    data = b"\x80\x02]q\x01(X\x03\x00\x00\x00abcq\x02U\x05caf\xc3\xa9q\x03U\x04caf\xe9q\x04e."
    plain, utf8, latin = load_plain_pickle(data, "refs.p")  # type: ignore[misc]
    assert (plain, utf8) == ("abc", "café")
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        latin.encode()  # so that the record is rejected, not the file


def test_what_follows_the_end_is_not_looked_at() -> None:
    assert load_plain_pickle(pickle.dumps([1]) + b"cos\nsystem\n", "refs.p") == [1]


def test_messages_name_file_and_size() -> None:
    with pytest.raises(SourceError, match=r"refcoco/refs\(unc\)\.p: expected a whole pickle, got 3 bytes"):
        load_plain_pickle(b"abc", "refcoco/refs(unc).p")
