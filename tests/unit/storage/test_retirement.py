"""A retired corpus leaves word of its successor, whoever opened it before included, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from storage import local_files
from storage.corpus import Corpus
from storage.errors import CorruptObject, ManifestConflict, RetiredCorpus
from storage.objects import Objects
from storage.retirement import RETIRED_NAME, Retirement, SampleCount, delete_all, read_retirement, retire
from tests.small_corpora import noise_picture, write_corpus

NOTE = Retirement(
    key="c0",
    successor="c1",
    reason="asked to",
    removed={"f" * 64: (SampleCount("refcoco", "referring", "train", 2),)},
    recipe={"filters": {"share": 1.0}},
    inputs={"0:refs.p": "d"},
    parents=["b0"],
)


@pytest.fixture(params=["local", "memory"])
def curated(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """Prefix of a small corpus."""
    url = str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"
    objects = Objects.open(url).child("curate/c0")
    write_corpus(objects, [noise_picture(number, 16, 24) for number in range(3)], "c0")
    return objects


def test_nothing_stays_but_the_note(curated: Objects) -> None:
    retire(curated, NOTE)
    assert [info.key for info in curated.list()] == [RETIRED_NAME]
    found = read_retirement(curated)
    assert found is not None
    assert found.to_json() == NOTE.to_json()
    assert found.removed == NOTE.removed
    retire(curated, NOTE)
    with pytest.raises(ManifestConflict, match="expected the successor c2, found c1"):
        retire(curated, replace(NOTE, successor="c2"))


def test_readers_are_told_of_the_successor(curated: Objects) -> None:
    fresh, begun = Corpus.open(curated), Corpus.open(curated)
    first = next(begun.images()).image_id
    retire(curated, NOTE)
    for read in (lambda: Corpus.open(curated), lambda: fresh.image(first), lambda: list(begun.samples())):
        with pytest.raises(RetiredCorpus, match=rf"{curated.url}: this corpus was retired .*/curate/c1"):
            read()


def test_a_torn_note_is_named(curated: Objects) -> None:
    curated.create(RETIRED_NAME, b'{"key"')
    with pytest.raises(CorruptObject, match=r"retired\.json: JSONDecodeError"):
        read_retirement(curated)


def test_files_of_killed_writers_go_too(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    unfinished = local_files.NewFile(str(tmp_path / "deep/a"))
    unfinished.write(b"half")
    objects = Objects.open(tmp_path)
    objects.create("kept", b"")
    objects.create("deep/other", b"")
    assert delete_all(objects, keep=["kept"]) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]
