"""The contract that every dataset family meets, as a suite to subclass (see tests/contract/test_families.py).

A subclass writes a small source with good and bad records, and says by hand what must come out of it.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import CARD_NAME, curate_local, curate_with
from pipelines.curation.leakage import LeakageConfig
from pipelines.curation.records import Draft
from pipelines.curation.registry import SourceUnion, source_config
from pipelines.curation.steps.assemble import sample_key
from pipelines.curation.steps.filters import FilterConfig
from pipelines.curation.steps.paths import SourceFolder
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.manifest import verify_manifest
from storage.masks import area_px, decode_mask, encode_mask
from storage.objects import Objects
from storage.prompts import prompt_mask
from storage.schema import ImageRecord, Reject, RejectReason, Sample, Task

__all__ = [
    "Backwards",
    "Expected",
    "FamilyContract",
    "Killed",
    "KilledAfter",
    "polygon_of",
    "rle_of",
    "write_coco",
    "write_panoptic",
    "write_parquet_pictures",
    "write_picture",
    "write_shard",
    "write_zip",
]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in px, exclusive end."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What must come out of a source, counted by hand."""

    samples: Mapping[tuple[str, Task, str], int]
    """Samples by (family, task, split)."""
    masks: Mapping[tuple[str, int], Box | None]
    """Boxes of rectangular targets by (locator, number of the `[SEG]` or prompt); None: no target."""
    rejects: Mapping[tuple[str, str], RejectReason]
    """Reasons by (source file, locator); every bad record once."""


class FamilyContract:
    """Subclass it, set `expected` and write the source."""

    expected: Expected
    """What must come out of the source."""
    folders: tuple[str, ...] = ()
    """Folders of pictures that the source lists, besides its files."""

    def write_source(self, root: Path) -> dict[str, object]:
        """Writes the source below `root` and returns its configuration, `root` left out."""
        raise AssertionError(f"{type(self).__name__} writes no source into {root}")

    def test_registered(self, tmp_path: Path) -> None:
        """The registry knows the family, and its configuration survives JSON and pickling."""
        source = self._source(tmp_path)
        assert source_config(json.loads(source.model_dump_json())) == source
        assert pickle.loads(pickle.dumps(source)) == source
        assert "root" not in source.hashed_fields()

    def test_round_trip(self, tmp_path: Path) -> None:
        """What is read back from the corpus is what was counted by hand, with the masks drawn by hand."""
        corpus = self._curated(tmp_path)
        samples = list(corpus.samples())
        found = Counter((sample.family, sample.task, sample.split) for sample in samples)
        assert found == Counter(dict(self.expected.samples))
        by_locator = {sample.locator: sample for sample in samples}
        for (locator, number), box in self.expected.masks.items():
            sample = by_locator[locator]
            assert sample.image_id is not None
            image = corpus.image(sample.image_id)
            assert _drawn(sample, number, image) == _rectangle(box, image), locator
        for sample in samples:
            assert sample.sample_id == sample_key(sample)
            assert sample.image_id is not None
            image = corpus.image(sample.image_id)
            for region in sample.regions:
                assert (region.mask.height, region.mask.width) == (image.height, image.width)
                assert area_px(region.mask) > 0
        verify_manifest(corpus.objects)

    def test_records_survive_pickling(self, tmp_path: Path) -> None:
        """Drafts and rejects travel to tasks unchanged."""
        records = self._records(tmp_path)
        assert pickle.loads(pickle.dumps(records)) == records

    def test_accounting(self, tmp_path: Path) -> None:
        """Records in are samples and rejects, for each file, and the manifest and the card say so."""
        corpus = self._curated(tmp_path)
        facts = cast("dict[str, dict[str, int]]", corpus.manifest.facts)
        out = Counter(sample.source_file for sample in corpus.samples())
        assert dict(out) == facts["samples_by_source"]
        out.update(reject.source_file for reject in corpus.rejects())
        assert dict(out) == facts["records_in"]
        num_records = sum(self.expected.samples.values()) + len(self.expected.rejects)
        assert out.total() == num_records == len(self._records(tmp_path))
        card = corpus.objects.read(CARD_NAME).decode()
        assert f"{sum(self.expected.samples.values())} samples" in card
        assert all(name in card for name in facts["records_in"])

    def test_rejects(self, tmp_path: Path) -> None:
        """Every bad record is a reject with file, locator, reason and detail."""
        rejects = list(self._curated(tmp_path).rejects())
        assert {(reject.source_file, reject.locator): reject.reason for reject in rejects} == dict(
            self.expected.rejects
        )
        assert len(rejects) == len(self.expected.rejects)
        assert all(reject.detail for reject in rejects)

    def test_determinism(self, tmp_path: Path) -> None:
        """Two runs over copies of the source in different places give the same bytes."""
        first, second = (self._curated(tmp_path / name) for name in ("here", "elsewhere"))
        assert _bytes_of(first.objects) == _bytes_of(second.objects)

    def test_order_independence(self, tmp_path: Path) -> None:
        """Neither the order in which shards are made nor the order of records in a file changes a sample."""
        config = self._config(tmp_path, images_per_shard=1)
        forward = curate_local(config, Objects.open(tmp_path / "forward"), NullProgress())
        backward = Objects.open(tmp_path / "backward")
        assert curate_with(Backwards(), config, backward, NullProgress()) == forward
        assert _bytes_of(backward) == _bytes_of(Objects.open(tmp_path / "forward"))
        source = self._source(tmp_path)
        in_order = _facts_of(source.records(self._files(source)))
        self.shuffle(tmp_path / "source", source)
        assert _facts_of(source.records(self._files(source))) == in_order

    def shuffle(self, root: Path, source: SourceUnion) -> None:
        """Brings the records of every source file below `root` into another order."""
        for name in (*source.source_files(), *self.folders):
            _shuffle(root / name)

    def _source(self, tmp_path: Path) -> SourceUnion:
        root = tmp_path / "source"
        root.mkdir(parents=True, exist_ok=True)
        return source_config({**self.write_source(root), "root": str(root)})

    def _files(self, source: SourceUnion) -> SourceFiles:
        return SourceFiles(SourceFolder(source.root_url), source.source_files())

    def _records(self, tmp_path: Path) -> list[Draft | Reject]:
        source = self._source(tmp_path)
        return list(source.records(self._files(source)))

    def _config(self, tmp_path: Path, images_per_shard: int) -> CurationConfig:
        # What is left out is the recipe's business, not the family's.
        unfiltered = FilterConfig(near_duplicate_expressions=False, near_duplicate_images=False)
        return CurationConfig(
            sources=(self._source(tmp_path),),
            max_reject_share=1,
            images_per_shard=images_per_shard,
            filters=unfiltered,
            leakage=LeakageConfig(gate="off"),
        )

    def _curated(self, tmp_path: Path) -> Corpus:
        output = Objects.open(tmp_path / "corpus")
        curate_local(self._config(tmp_path, images_per_shard=2), output, NullProgress())
        return Corpus.open(output)


class Killed(Exception):
    """Stands for the end of the process."""


class KilledAfter:
    """Workers of which the process is killed.

    Args:
        num_items: that are done before, counted over all steps.
    """

    def __init__(self, num_items: int) -> None:
        self.left = num_items

    def map(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[tuple[int, _Result]]:
        """One after the other, as far as it goes."""
        for place, item in enumerate(items):
            if self.left == 0:
                raise Killed
            self.left -= 1
            yield place, function(item)


class Backwards:
    """Workers that begin at the end."""

    def map(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[tuple[int, _Result]]:
        """One after the other, the last first."""
        return ((place, function(items[place])) for place in reversed(range(len(items))))


def write_picture(path: Path, height: int = 24, width: int = 32, seed: int = 0) -> None:
    """Writes a picture of noise, in the format of the path's suffix; other seeds give other bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, height, width]).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_shard(path: Path, members: Mapping[str, bytes | Path]) -> None:
    """Writes a WebDataset shard; a path as a member's content makes it a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, Path):
                member.type, member.linkname = tarfile.SYMTYPE, str(content)
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    """Writes a zip archive, every other member of it deflated."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, content) in enumerate(members.items()):
            # At one time, so that two archives of the same members have the same bytes.
            archive.writestr(zipfile.ZipInfo(name), content, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2])


def write_parquet_pictures(path: Path, pictures: Mapping[str, bytes | None], row_group_size: int = 2) -> None:
    """Writes pictures by name into Parquet, as Hugging Face's datasets do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": content, "path": name} for name, content in pictures.items()]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), path, row_group_size=row_group_size)


def polygon_of(box: Box) -> list[list[float]]:
    """A rectangle as a COCO `segmentation` of one polygon, which covers exactly the box."""
    x0, y0, x1, y1 = (float(side) for side in box)
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def rle_of(box: Box, height: int = 24, width: int = 32) -> dict[str, object]:
    """A rectangle as a COCO `segmentation` in compressed RLE, in an image of `write_picture`'s size."""
    bitmap: npt.NDArray[np.bool_] = np.zeros((height, width), np.bool_)
    bitmap[box[1] : box[3], box[0] : box[2]] = True
    return {"size": [height, width], "counts": encode_mask(bitmap).counts.decode()}


def write_panoptic(path: Path, segments: Mapping[int, Box], height: int = 24, width: int = 32) -> None:
    """Writes a panoptic PNG of rectangular segments by their id."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for segment_id, (x0, y0, x1, y1) in segments.items():
        pixels[y0:y1, x0:x1] = (segment_id % 256, segment_id // 256 % 256, segment_id // 65536)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_coco(path: Path, images: Sequence[object], annotations: Sequence[object]) -> None:
    """Writes a COCO file with two categories, 1 "cup" (a thing) and 2 "wall-other-merged" (stuff)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    categories = [{"id": 1, "name": "cup", "isthing": 1}, {"id": 2, "name": "wall-other-merged", "isthing": 0}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def _drawn(sample: Sample, number: int, image: ImageRecord) -> bytes:
    """The bitmap of one `[SEG]`, or of one prompt in a sample that has no targets."""
    turn = sample.turns[0]
    if turn.targets:
        masks = [decode_mask(sample.regions[place].mask) for place in turn.targets[number]]
    else:
        masks = [prompt_mask(sample.prompts[number], sample.regions, image.height, image.width)]
    return np.logical_or.reduce(masks).tobytes() if masks else b""


def _rectangle(box: Box | None, image: ImageRecord) -> bytes:
    if box is None:
        return b""
    bitmap: npt.NDArray[np.bool_] = np.zeros((image.height, image.width), np.bool_)
    bitmap[box[1] : box[3], box[0] : box[2]] = True
    return bitmap.tobytes()


def _bytes_of(objects: Objects) -> dict[str, bytes]:
    return {info.key: objects.read(info.key) for info in objects.list()}


def _shuffle(path: Path) -> None:
    """Brings the records of a file, or the files of a folder, into another order."""
    draw = random.Random(0)
    if path.is_dir():
        files = [(file, file.read_bytes()) for file in sorted(path.rglob("*")) if file.is_file()]
        for file, _ in files:
            file.unlink()
        for file, data in draw.sample(files, len(files)):
            file.write_bytes(data)
    elif path.suffix == ".tar":
        with tarfile.open(path) as archive:
            members = [(member, archive.extractfile(member) if member.isfile() else None) for member in archive]
            content = [(member, data.read() if data is not None else b"") for member, data in members]
        with tarfile.open(path, "w") as archive:
            for member, data in draw.sample(content, len(content)):
                archive.addfile(member, io.BytesIO(data))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            packed = [(info, archive.read(info)) for info in archive.infolist()]
        with zipfile.ZipFile(path, "w") as archive:
            for info, data in draw.sample(packed, len(packed)):
                archive.writestr(info, data)
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
        pq.write_table(table.take(draw.sample(range(table.num_rows), table.num_rows)), path, row_group_size=3)
    elif path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        path.write_text("\n".join(draw.sample(lines, len(lines))))
    elif path.suffix == ".p":
        rows = cast("list[object]", pickle.loads(path.read_bytes()))
        path.write_bytes(pickle.dumps(draw.sample(rows, len(rows))))
    elif path.suffix == ".json":
        content = cast("object", json.loads(path.read_text()))
        if isinstance(content, list):
            path.write_text(json.dumps(draw.sample(cast("list[object]", content), len(cast("list[object]", content)))))
        else:
            lists = cast("dict[str, list[object]]", content)
            path.write_text(json.dumps({key: draw.sample(lists[key], len(lists[key])) for key in sorted(lists)}))


def _facts_of(records: Iterable[Draft | Reject]) -> Counter[str]:
    """Records less their locators, which may count rows, and places in archives."""
    return Counter(repr(_without_place(record)) for record in records)


def _without_place(record: Draft | Reject) -> Draft | Reject:
    if isinstance(record, Draft):
        return replace(record, locator="", image=replace(record.image, extent=None))
    return replace(record, locator="")
