"""Which picture is in which shard: once each, beside its other names, and archives in one piece."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.curation.drafts import IDENTITY_BITS, ImageFile, identity
from pipelines.curation.intake import NamedFile
from pipelines.curation.records import RecordError, SourceImage
from pipelines.curation.shards import plan_shards
from storage.schema import RejectReason

_MISSING = RecordError(RejectReason.IMAGE_MISSING, "gone")


def _named(image: SourceImage) -> NamedFile:
    return NamedFile(ImageFile(0, image.path, image.extent or ()), identity(image), image.coco_id)


@given(
    digests=st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=30),
    images_per_shard=st.integers(1, 5),
)
def test_every_name_is_in_one_shard_that_reads_its_drafts(digests: list[str | None], images_per_shard: int) -> None:
    names = [_named(SourceImage(path=f"{n}.jpg")) for n in range(len(digests))]
    found = {name.file: digest or _MISSING for name, digest in zip(names, digests, strict=True)}
    shards = plan_shards(names, found, images_per_shard)
    placed = [file for shard in shards for file, _ in shard.files]
    assert sorted(placed) == sorted(name.file for name in names)
    identities = {name.file: name.identity for name in names}
    for shard in shards:
        for file, _ in shard.files:
            assert any(start <= (identities[file] or 0) < end for start, end in shard.ranges)
        assert len({digest for _, digest in shard.files if isinstance(digest, str)}) <= images_per_shard
    homes = [digest for shard in shards for digest in {d for _, d in shard.files if isinstance(d, str)}]
    assert len(homes) == len(set(homes))


def test_two_releases_of_one_picture_have_one_identity() -> None:
    old = SourceImage(path="train2014/COCO_train2014_000000000025.jpg", coco_id=25)
    new = SourceImage(path="train2017.zip/000000000025.jpg", coco_id=25)
    assert identity(old) == identity(new) < 2**IDENTITY_BITS


def test_pictures_of_an_archive_lie_side_by_side_in_its_order() -> None:
    tars = [SourceImage(path=f"{n}.tar", extent=(512 * place, 100)) for n in range(3) for place in range(20)]
    parquet = [SourceImage(path=f"web.parquet/{n}.jpg") for n in range(20)]
    loose = [SourceImage(path=f"photos/{n}.jpg") for n in range(20)]
    ordered = sorted([*parquet, *reversed(tars), *loose], key=identity)
    for n in range(3):
        places = [place for place, image in enumerate(ordered) if image.path == f"{n}.tar"]
        assert places == list(range(places[0], places[0] + 20))
        offsets = [ordered[place].extent for place in places]
        assert offsets == sorted(offsets, key=lambda extent: extent or ())
    places = [place for place, image in enumerate(ordered) if image.path.startswith("web.parquet")]
    assert places == list(range(places[0], places[0] + 20))
    assert len({identity(image) for image in ordered}) == len(ordered)
