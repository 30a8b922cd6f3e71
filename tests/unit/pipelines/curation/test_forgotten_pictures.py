"""Pictures that somebody has asked to remove: a curation makes rejects of their records, and a corpus made before has a
successor without them."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest
from PIL import Image

from pipelines.curation import successors
from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import CorpusTarget, curate_local, find_target
from pipelines.curation.corpus_images import find_in_corpus
from pipelines.curation.parents import LATEST
from pipelines.curation.successors import in_place_of, successor_key, write_successor
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.errors import RetiredCorpus, UsageError
from storage.forgotten import forgotten_digest
from storage.manifest import Manifest, verify_manifest
from storage.objects import Objects
from storage.retirement import Retirement, retire
from storage.schema import RejectReason
from tests.small_corpora import noise_picture, write_corpus
from tests.small_workspaces import SmallWorkspace

CUP, DOG = "the cup", "a dog"


@pytest.fixture(params=["local", "memory"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> SmallWorkspace:
    url = str(tmp_path / "work") if request.param == "local" else f"memory://{tmp_path.name}/work"
    return SmallWorkspace(Objects.open(url), tmp_path / "sources")


def rejected(corpus: Corpus) -> Counter[tuple[str, str]]:
    """Source file and locator of records on removed pictures."""
    rows = [row for row in corpus.rejects() if row.reason is RejectReason.FORGOTTEN]
    assert {row.detail for row in rows} <= {"the picture was removed on request"}
    return Counter((row.source_file, row.locator) for row in rows)


def succeed(small: SmallWorkspace, key: str, *image_ids: str) -> Corpus:
    """The successor of a corpus, published beside it."""
    corpus = small.corpus(key)
    held = find_in_corpus(corpus.objects, corpus.manifest.files, image_ids)
    output = small.workspace.child(f"curate/{successor_key(key, held)}")
    assert write_successor(corpus, output, held).key == successor_key(key, held)
    return Corpus.open(output)


def mentions(corpus: Corpus, image_id: str) -> list[str]:
    """Files of a corpus that hold an image's id, its first digits or its name."""
    words = [image_id[:12].encode(), image_id.encode()]
    return [info.key for info in corpus.objects.list() if any(w in corpus.objects.read(info.key) for w in words)]


# Curation


def test_records_on_a_removed_picture_become_rejects(small: SmallWorkspace) -> None:
    gone, same = small.picture(0), small.sources / "same.png"
    same.write_bytes((small.sources / "0.png").read_bytes())
    small.rows("a.jsonl", (0, CUP, "train"), (0, DOG, "val"), (1, CUP, "train"), (2, "", "train"))
    lines = (small.sources / "a.jsonl").read_text()
    (small.sources / "a.jsonl").write_text(lines + "\n" + lines.partition("\n")[0].replace("0.png", "same.png"))
    config = small.config("a.jsonl", max_reject_share=0.1)
    target = find_target(config, forgotten=[gone])
    output = small.workspace.child(f"curate/{target.key}")
    manifest = curate_local(config, output, NullProgress(), forgotten=[gone, "f" * 64])
    assert manifest.key == target.key
    assert target.before == find_target(config).key
    assert target.forgotten == {gone}
    corpus = Corpus.open(output)
    assert {sample.image_id for sample in corpus.samples()} == {small.picture(1), small.picture(2)}
    assert rejected(corpus) == Counter([("a.jsonl", "row=0"), ("a.jsonl", "row=1"), ("a.jsonl", "row=4")])
    assert manifest.facts["rejects_by_reason"] == {"forgotten": 3}
    assert mentions(corpus, gone) == []
    verify_manifest(output)


def test_the_address_changes_if_the_sources_have_the_picture_and_only_then(small: SmallWorkspace) -> None:
    gone, elsewhere = small.picture(0), small.picture(9)
    small.rows("a.jsonl", (0, CUP, "train"), (1, CUP, "train"))
    config = small.config("a.jsonl")
    before = find_target(config)
    assert find_target(config, forgotten=[elsewhere]) == before
    assert find_target(config, forgotten=[gone]).key != before.key
    given = {"scenes": "s"}
    assert find_target(config, given, [elsewhere]) == find_target(config, given)
    with_scenes = find_target(config, given, [gone, elsewhere])
    assert (with_scenes.before, with_scenes.forgotten) == (find_target(config, given).key, {gone})
    assert with_scenes.key != with_scenes.before
    output = small.workspace.child("curate/of-scenes")
    assert curate_local(config, output, NullProgress(), given, [gone]).key == with_scenes.key
    assert curate_local(config, output, NullProgress(), given, [gone]).key == with_scenes.key


def test_new_records_on_a_removed_picture_of_the_parent_are_rejects(small: SmallWorkspace) -> None:
    gone = small.picture(0)
    small.rows("a.jsonl", (0, CUP, "train"), (1, CUP, "train"), (2, CUP, "train"))
    parent = succeed(small, small.curate("a.jsonl"), gone)
    small.rows("b.jsonl", (0, DOG, "train"), (1, DOG, "train"), (3, DOG, "train"))
    config = small.config("a.jsonl", "b.jsonl", parent=parent.manifest.key)
    output = small.workspace.child("curate/child")
    manifest = curate_local(config, output, NullProgress(), forgotten=[gone])
    child = Corpus.open(output)
    assert manifest.facts["since_parent"]["parts_kept"] == 1
    assert rejected(child) == Counter([("a.jsonl", "row=0"), ("b.jsonl", "row=0")])
    assert mentions(child, gone) == []
    fresh = small.workspace.child("curate/fresh")
    curate_local(small.config("a.jsonl", "b.jsonl"), fresh, NullProgress(), forgotten=[gone])
    for rows in ("samples", "rejects"):
        ours, theirs = (list(getattr(corpus, rows)()) for corpus in (child, Corpus.open(fresh)))
        assert Counter(map(repr, ours)) == Counter(map(repr, theirs))
    again = small.config("a.jsonl", parent=parent.manifest.key)
    assert find_target(again, forgotten=[gone]).present == parent.objects, "nothing is new"


def test_a_parent_that_holds_the_picture_is_not_continued(small: SmallWorkspace) -> None:
    gone = small.picture(0)
    small.rows("a.jsonl", (0, CUP, "train"), (1, CUP, "train"))
    small.rows("b.jsonl", (2, CUP, "train"))
    parent = small.curate("a.jsonl")
    output = small.workspace.child("curate/child")
    config = small.config("a.jsonl", "b.jsonl", parent=parent)
    manifest = curate_local(config, output, NullProgress(), forgotten=[gone])
    assert manifest.facts["parents"] == []
    assert mentions(Corpus.open(output), gone) == []


def test_folders_of_pictures_stay_as_they_are(small: SmallWorkspace) -> None:
    gone, _, _ = (small.picture(number) for number in range(3))
    source = {"kind": "images", "pictures": [""], "images": ""}
    rows = {"root": str(small.sources), "sources": [source], "max_reject_share": 1}
    key = find_target(CurationConfig.model_validate(rows)).key
    curate_local(CurationConfig.model_validate(rows), small.workspace.child(f"curate/{key}"), NullProgress())
    after = succeed(small, key, gone)
    again = CurationConfig.model_validate({**rows, "parent": after.objects.url})
    assert find_target(again, forgotten=[gone]).present == after.objects


# Successors


def test_a_successor_is_the_corpus_less_the_picture(small: SmallWorkspace) -> None:
    gone = small.picture(1)
    small.rows("a.jsonl", (0, CUP, "train"), (1, CUP, "train"), (1, CUP, "train"), (1, DOG, "val"), (2, "", "train"))
    small.rows("b.jsonl", (1, "", "train"), (3, CUP, "val"), (4, CUP, "train"))
    key = small.curate("a.jsonl", "b.jsonl")
    before = small.corpus(key)
    assert mentions(before, gone)
    after = succeed(small, key, gone)
    assert mentions(after, gone) == []
    kept = [sample for sample in before.samples() if sample.image_id != gone]
    assert list(after.samples()) == kept
    assert [image.image_id for image in after.images()] == [i.image_id for i in before.images() if i.image_id != gone]
    assert rejected(after) == Counter([*(("a.jsonl", f"row={row}") for row in (1, 2, 3)), ("b.jsonl", "row=0")])
    facts = after.manifest.facts
    assert facts["records_in"] == before.manifest.facts["records_in"]
    assert facts["num_samples"] == len(kept)
    assert facts["parents"] == [key]
    assert facts["since_parent"]["samples_taken_out"] == before.manifest.facts["num_samples"] - len(kept)
    assert facts["forgotten"] == {"images": [forgotten_digest(gone)]}
    assert after.manifest.inputs == {**before.manifest.inputs, "predecessor": key}
    verify_manifest(after.objects)
    card = after.objects.read("README.md").decode()
    assert f"| forgotten | {rejected(after).total()} |" in card
    assert after.manifest.key[:12] in card


def test_what_others_are_told_of_the_picture_is_unsaid(small: SmallWorkspace) -> None:
    gone = small.picture(0)
    small.rows("a.jsonl", (0, CUP, "val"), (1, CUP, "train"))
    (small.sources / "worse.jpg").write_bytes(_as_jpeg(small.sources / "0.png"))
    box = {"segmentation": {"box_xyxy_px": [2, 3, 20, 20]}}
    rows = [
        {"image": "worse.jpg", "expression": CUP, "split": "train", **box},
        {"image": "0.png", "expression": DOG, "split": "val", "segmentation": {"box_xyxy_px": [50, 50, 60, 60]}},
    ]
    (small.sources / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    key = small.curate("a.jsonl", "b.jsonl", images_per_shard=1)
    told = [row.detail for row in small.corpus(key).rejects() if row.reason is RejectReason.LEAKAGE]
    assert [gone[:12] in detail for detail in told] == [True]
    after = succeed(small, key, gone)
    told = [row.detail for row in after.rejects() if row.reason is RejectReason.LEAKAGE]
    assert [detail.startswith("looks like a picture that was removed (") for detail in told] == [True]
    assert mentions(after, gone) == []


def _as_jpeg(path: Path) -> bytes:
    sink = io.BytesIO()
    Image.open(path).save(sink, "JPEG", quality=80)
    return sink.getvalue()


def test_shards_without_the_picture_are_links(tmp_path: Path) -> None:
    small = SmallWorkspace(Objects.open(tmp_path / "work"), tmp_path / "sources")
    gone = small.picture(0)
    small.rows("a.jsonl", *((number, CUP, "train") for number in range(6)))
    key = small.curate("a.jsonl")
    after = succeed(small, key, gone)
    (home,) = find_in_corpus(small.corpus(key).objects, small.corpus(key).manifest.files, [gone])[gone].shards
    places = {entry.path: tmp_path / "work/curate" / key / entry.path for entry in after.manifest.files}
    linked = {
        path for path, place in places.items() if place.exists() and place.samefile(after.objects.url + "/" + path)
    }
    names = [f"{number:05d}" for number in range(3)]
    assert home in names
    assert linked == {
        f"{folder}/{name}.parquet"
        for folder in ("images", "samples", "rejects", "looks")
        for name in names
        if name != home
    }


def test_layers_and_children_have_successors_of_their_own(small: SmallWorkspace) -> None:
    gone, late = small.picture(0), small.picture(3)
    small.rows("a.jsonl", (0, CUP, "train"), (1, CUP, "train"))
    small.rows("b.jsonl", (3, CUP, "train"), (0, DOG, "train"))
    parent = small.curate("a.jsonl")
    child = small.curate("a.jsonl", "b.jsonl", parent=parent)
    after_child = succeed(small, child, gone, late)
    assert {sample.image_id for sample in after_child.samples()} == {small.picture(1)}
    assert after_child.manifest.facts["parents"] == [child, parent]
    after_parent = succeed(small, parent, gone, late)
    assert after_parent.manifest.facts["forgotten"] == {"images": [forgotten_digest(gone)]}
    twice = succeed(small, succeed(small, child, gone).manifest.key, late)
    assert list(twice.samples()) == list(after_child.samples())
    both = {"images": sorted(map(forgotten_digest, (gone, late)))}
    assert twice.manifest.facts["forgotten"] == after_child.manifest.facts["forgotten"] == both


def test_a_killed_successor_is_continued_to_the_same_bytes(
    small: SmallWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = small.picture(0)
    small.rows("a.jsonl", *((number, CUP, "train") for number in range(4)))
    key = small.curate("a.jsonl")

    def killed(*_: object, **__: object) -> Manifest:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(successors, "publish", killed)
        with pytest.raises(RuntimeError, match="killed"):
            succeed(small, key, gone)
    after = succeed(small, key, gone)
    verify_manifest(after.objects)


def test_corpora_of_other_versions_are_named(small: SmallWorkspace) -> None:
    images = [noise_picture(number, 16, 24) for number in range(2)]
    corpus = write_corpus(small.workspace.child("curate/k"), images, "k")
    held = find_in_corpus(corpus.objects, corpus.manifest.files, [images[0].image_id])
    with pytest.raises(UsageError, match="curate/k: holds pictures that are to be forgotten, and another version"):
        write_successor(corpus, small.workspace.child("curate/after"), held)


# Recipes whose corpus was retired


def retired(small: SmallWorkspace, key: str, removed: Collection[str]) -> Corpus:
    """Retires a corpus in favour of its successor, which is returned."""
    after = succeed(small, key, *removed)
    manifest = small.corpus(key).manifest
    note = Retirement(key, after.manifest.key, "asked", {i: () for i in removed}, manifest.recipe, manifest.inputs, [])
    retire(small.workspace.child(f"curate/{key}"), note)
    return after


def test_a_recipe_finds_the_successor_of_its_retired_corpus(small: SmallWorkspace) -> None:
    gone, also = small.picture(0), small.picture(1)
    small.rows("a.jsonl", (0, CUP, "train"), (1, CUP, "train"), (2, CUP, "train"))
    config, folder = small.config("a.jsonl"), small.workspace.child("curate")
    key = small.curate("a.jsonl")
    assert in_place_of(find_target(config, forgotten=[gone]), folder).present is None, "it isn't retired yet"
    after = retired(small, key, [gone])
    target = in_place_of(find_target(config, forgotten=[gone]), folder)
    assert (target.key, target.present) == (after.manifest.key, after.objects)
    without_both = find_target(config, forgotten=[gone, also])
    assert in_place_of(without_both, folder) == without_both, "the successor still has one of them"
    last = retired(small, after.manifest.key, [also])
    assert in_place_of(without_both, folder).key == last.manifest.key
    assert in_place_of(CorpusTarget("other", None), folder) == CorpusTarget("other", None)


def test_the_latest_corpus_is_the_successor(small: SmallWorkspace) -> None:
    gone = small.picture(0)
    small.rows("a.jsonl", (0, CUP, "train"), (1, CUP, "train"))
    key = small.curate("a.jsonl")
    folder = small.workspace.child("curate")
    config = small.config("a.jsonl").model_copy(update={"parent": LATEST})
    unfinished = find_target(config, forgotten=[gone], corpora=folder)
    assert (unfinished.present, unfinished.parent) == (None, None), "the one that holds it isn't gone on from"
    after = retired(small, key, [gone])
    assert find_target(config, forgotten=[gone], corpora=folder).present == after.objects


def test_a_retired_corpus_does_not_come_back(small: SmallWorkspace) -> None:
    gone = small.picture(0)
    small.rows("a.jsonl", (0, CUP, "train"), (1, CUP, "train"))
    key = small.curate("a.jsonl")
    after = retired(small, key, [gone])
    with pytest.raises(
        RetiredCorpus, match=f"this corpus was retired .asked.; read its successor, .*{after.manifest.key}"
    ):
        curate_local(small.config("a.jsonl"), small.workspace.child(f"curate/{key}"), NullProgress())
    config = small.config("a.jsonl").model_copy(update={"parent": f"{small.workspace.url}/curate/{key}"})
    with pytest.raises(RetiredCorpus, match="read its successor"):
        find_target(config, forgotten=[gone])
