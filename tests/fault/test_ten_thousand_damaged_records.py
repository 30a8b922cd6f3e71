"""Ten thousand damaged records over all families: each is a sample or a reject, none leads the reader astray.

Every family's suite writes its source; each list of records in it gets damaged copies of its own. A file that can't be
used as a whole is another matter: it ends the job by an error that names it.
"""

from __future__ import annotations

import gzip
import pickle
import random
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.curation.leakage import LeakageConfig
from pipelines.curation.registry import SourceUnion, known_kinds, source_config
from pipelines.curation.steps.filters import FilterConfig
from pipelines.curation.steps.paths import SourceFolder
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.testing import FamilyContract
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.errors import DataError
from storage.keys import bytes_key
from storage.objects import Objects
from tests.benchmarks.measuring import PeakMemory
from tests.damage import Damage, Payload, damaged, lay_traps
from tests.source_rows import RowList, row_lists
from tests.watched_folder import opened_in

_SEED = 20261128
_RECORDS = 60
"""Damaged records of each class in each suite."""
_MEMORY_BYTES = 2**28
"""What a run may take above what it began with."""


def _suites() -> dict[str, type[FamilyContract]]:
    """Every family's suites, so that a new family is among them by its own suite."""
    folder = Path(__file__).parents[1] / "contract"
    modules = [import_module(f"tests.contract.{path.stem}") for path in sorted(folder.glob("test_families*.py"))]
    return {
        name.removeprefix("Test"): value
        for module in modules
        for name, value in sorted(vars(module).items())
        if isinstance(value, type) and issubclass(value, FamilyContract) and value is not FamilyContract
    }


_SUITES = _suites()


@dataclass(frozen=True, slots=True)
class _Made:
    """A damaged record, and how to make it again."""

    seed: str
    damage: Damage
    record: object

    def __str__(self) -> str:
        return f"seed {self.seed!r}, {self.damage}: {self.record!r:.2000}"


class _Case:
    """A suite's source, with lists of its records by whether records come of them, and traps in its folders."""

    def __init__(self, suite: str, folder: Path) -> None:
        self.suite, self.root, self._folder = suite, folder / "in", folder
        self.root.mkdir(parents=True)
        self.source: SourceUnion = source_config({**_SUITES[suite]().write_source(self.root), "root": str(self.root)})
        folders = (*_SUITES[suite].folders, *getattr(self.source, "folders", {}).values())
        self.files = [self.root / name for name in dict.fromkeys(self.source.source_files())]
        found = {rows: rows.rows() for path in (*self.files, *(self.root / name for name in folders))
                 for rows in row_lists(path)}  # fmt: skip
        whole = self.outcomes().total()
        self.own = {rows: content for rows, content in found.items() if self._gives_records(rows, content, whole)}
        self.joined = {rows: content for rows, content in found.items() if rows not in self.own and content}
        self.traps = lay_traps(self.root, folder / "outside")
        self._num_runs = 0

    def outcomes(self) -> Counter[tuple[str, str]]:
        """What the reader makes of the source: files and locators."""
        files = SourceFiles(SourceFolder(self.source.root_url), self.source.source_files())
        return Counter((record.source_file, record.locator) for record in self.source.records(files))

    def write(self, damaged_rows: dict[RowList, Sequence[object]] | None = None) -> None:
        """Every list as it was, or as it is given."""
        for rows, content in (self.own | self.joined).items():
            rows.write((damaged_rows or {}).get(rows, content))

    def curate(self) -> Corpus:
        """The corpus of what is written."""
        config = CurationConfig(
            sources=(self.source,),
            max_reject_share=1,
            filters=FilterConfig(near_duplicate_expressions=False, near_duplicate_images=False),
            leakage=LeakageConfig(gate="off"),
        )
        self._num_runs += 1
        output = Objects.open(self._folder / f"out{self._num_runs}")
        curate_local(config, output, NullProgress())
        return Corpus.open(output)

    @contextmanager
    def watched(self) -> Generator[None]:
        """Within the block nothing gets out of the root, no pickle runs, and memory stays bounded."""
        opened: list[str] = []
        memory = PeakMemory()
        try:
            with opened_in(self.traps.outside) as opened, memory:
                yield
        finally:
            assert opened == []
            assert not self.traps.marker.exists()
            assert memory.peak_bytes < _MEMORY_BYTES

    def checked(self) -> Corpus:
        """Curates what is written; whatever the reader gives is a sample or a reject that says why."""
        corpus = self.curate()
        samples, rejects = list(corpus.samples()), list(corpus.rejects())
        assert Counter((record.source_file, record.locator) for record in (*samples, *rejects)) == self.outcomes()
        facts: Any = corpus.manifest.facts
        assert sum(facts["records_in"].values()) == len(samples) + len(rejects)
        assert all(reject.reason and reject.detail for reject in rejects)
        assert bytes_key(self.traps.secret) not in {image.image_id for image in corpus.images()}
        return corpus

    def _gives_records(self, rows: RowList, content: Sequence[object], whole: int) -> bool:
        """Whether a list holds records rather than what they refer to."""
        if rows.key is None:
            return True
        rows.write([*content, *content])
        is_more = self.outcomes().total() > whole
        rows.write(content)
        return is_more


def _made(case: _Case, damage: Damage, number: int) -> tuple[RowList, _Made]:
    """A damaged copy of one of the source's records, which the format of its file can hold."""
    seed = f"{_SEED}/{case.suite}/{damage}/{number}"
    draw = random.Random(seed)
    while True:
        rows = draw.choice([rows for rows, content in case.own.items() if content])
        record = _renamed(rows, draw.choice(case.own[rows]), f"{list(Damage).index(damage)}{number:03d}")
        found = damaged(record, damage, draw, case.traps)
        if found != record and rows.keeps(found):
            return rows, _Made(seed, damage, found)


def _renamed(rows: RowList, record: object, number: str) -> object:
    """The record under a name or number of its own, where its format has one."""
    own: dict[str, object] = {"name": f"m{number}"} if rows.key is None else {}
    own |= {"ref_id": int(f"9{number}")} | ({"id": int(f"9{number}")} if rows.key == "images" else {})
    return record | {key: value for key, value in own.items() if key in record} if isinstance(record, dict) else record


@pytest.mark.parametrize("suite", sorted(_SUITES))
def test_damaged_records_neither_crash_nor_vanish_nor_lead_astray(tmp_path: Path, suite: str) -> None:
    case = _Case(suite, tmp_path)
    made: dict[RowList, list[_Made]] = {rows: [] for rows in case.own}
    for damage in Damage:
        for number in range(_RECORDS):
            rows, one = _made(case, damage, number)
            made[rows].append(one)
    case.write({rows: [*case.own[rows], *(one.record for one in ones)] for rows, ones in made.items()})
    try:
        with case.watched():
            corpus = case.checked()
    except Exception as error:
        raise AssertionError(_culprit(case, made)) from error
    if all(rows.key is None for rows in case.own):  # else a damaged annotation can spoil a good picture
        found = Counter((sample.family, sample.task, sample.split) for sample in corpus.samples())
        assert found >= Counter(dict(_SUITES[suite].expected.samples))
    for rows, ones in made.items():
        for one in ones[::7] if not rows.path.is_dir() else ():
            rows.write([one.record])
            assert case.outcomes(), f"{one} vanishes"


def test_they_are_ten_thousand_of_all_families_and_classes(tmp_path: Path) -> None:
    sources = [
        suite().write_source(tmp_path / name) for name, suite in _SUITES.items() if not (tmp_path / name).mkdir()
    ]
    assert {source["kind"] for source in sources} == set(known_kinds())
    assert len(_SUITES) * len(Damage) * _RECORDS >= 10_000


@pytest.mark.parametrize("suite", sorted(_SUITES))
def test_damage_to_what_records_refer_to_is_theirs(tmp_path: Path, suite: str) -> None:
    """Pictures, annotations and categories of COCO files, which several records share."""
    case = _Case(suite, tmp_path)
    for damage in Damage if case.joined else ():
        seed = f"{_SEED}/{suite}/{damage}"
        draw = random.Random(seed)
        rows_of = {
            rows: [damaged(row, damage, draw, case.traps) if draw.random() < 0.6 else row for row in content]
            for rows, content in case.joined.items()
        }
        case.write(rows_of)
        try:
            with case.watched():
                case.checked()
        except Exception as error:
            raise AssertionError(f"seed {seed!r}, {damage}: {list(rows_of.values())!r:.4000}") from error


_WHOLE = {
    "cut": lambda data, case: data[: len(data) // 2],
    "almost whole": lambda data, case: data[:-1],
    "empty": lambda data, case: b"",
    "zeros": lambda data, case: bytes(len(data)),
    "packed": lambda data, case: gzip.compress(bytes(2**25) + data),
    "nested": lambda data, case: b"[" * 100_000 + b"]" * 100_000,
    "a pickle": lambda data, case: pickle.dumps([Payload(case.traps.marker)]),
    "a pickle in text": lambda data, case: pickle.dumps(Payload(case.traps.marker), protocol=0),
    "a number": lambda data, case: b"9" * 10_000,
    "a link": None,
}
"""Files that are damaged as a whole, by what they become; None: a link out of the root."""


@pytest.mark.parametrize("suite", sorted(_SUITES))
def test_a_file_damaged_as_a_whole_is_named_or_its_records_are_rejects(tmp_path: Path, suite: str) -> None:
    case = _Case(suite, tmp_path)
    unusable: dict[str, str] = {}
    with case.watched():
        for path in case.files:
            data = path.read_bytes()
            for what, made in _WHOLE.items():
                path.unlink()
                if made is None:
                    path.symlink_to(case.traps.outside / "canary.json")
                else:
                    path.write_bytes(made(data, case))
                try:
                    case.outcomes()
                    if made is None:
                        case.checked()
                except DataError as error:
                    unusable[f"{path.relative_to(case.root).as_posix()}: {what}"] = str(error)
                except Exception as error:
                    raise AssertionError(f"{path.name}: {what}") from error
            path.unlink()
            path.write_bytes(data)
    for what, error in unusable.items():
        assert what.partition(": ")[0] in error, what
    found = {what.partition(": ")[2] for what in unusable}
    assert not case.files or found >= {"cut", "nested", "a pickle", "a link"}


def _culprit(case: _Case, made: dict[RowList, list[_Made]]) -> str:
    """The record that ends the run when it alone is damaged."""
    for rows, ones in made.items():
        for one in ones:
            case.write({rows: [*case.own[rows], one.record]})
            try:
                with case.watched():
                    case.checked()
            except Exception as alone:  # noqa: BLE001 - whatever it is, it is told
                return f"{rows.path.name}: {one}: {alone!r}"
    return "no record by itself"
