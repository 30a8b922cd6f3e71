"""What saw an image: by the rows of corpora and parts, and by what checkpoints were trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.curation.corpus_images import find_in_corpus, ids_with_prefix
from pipelines.lineage.outputs import Kind, Output, read_outputs
from pipelines.lineage.sightings import ImageSightings, Role, find_sightings, role_of
from pipelines.training.config import TrainingConfig
from storage.manifest import Manifest, read_manifest
from storage.objects import Objects
from storage.retirement import Retirement, SampleCount, retire
from tests.small_corpora import noise_picture, write_corpus
from tests.small_workspaces import SmallWorkspace


@pytest.fixture
def small(tmp_path: Path) -> SmallWorkspace:
    return SmallWorkspace(Objects.open(f"memory://{tmp_path.name}/workspace"), tmp_path / "sources")


def sightings(small: SmallWorkspace, image_id: str) -> ImageSightings:
    return find_sightings(read_outputs(small.workspace), [image_id])[image_id]


TRAIN, VAL = SampleCount("a", "referring", "train", 1), SampleCount("a", "referring", "val", 2)


@pytest.mark.parametrize(
    ("mixture", "samples", "role"),
    [
        ([{}], [TRAIN], Role.TRAINED),
        ([{}], [TRAIN, VAL], Role.TRAINED),
        ([{}], [VAL], Role.HELD_OUT),
        ([{}], [], Role.UNUSED),
        ([{"families": ["a"]}], [TRAIN], Role.TRAINED),
        ([{"families": ["b"]}], [TRAIN], Role.UNUSED),
        ([{"families": ["b"]}], [TRAIN, VAL], Role.HELD_OUT),
        ([{"tasks": ["caption"]}, {"tasks": ["referring"]}], [TRAIN], Role.TRAINED),
        ([{"families": ["b"]}, {"images_only": True}], [TRAIN], Role.DISTILLED),
        ([{"families": ["b"]}, {"images_only": True}], [TRAIN, VAL], Role.HELD_OUT),
        ([{"families": ["b"]}, {"images_only": True}], [], Role.UNUSED),
    ],
)
def test_roles_follow_splits_and_mixture(
    mixture: list[dict[str, object]], samples: list[SampleCount], role: Role
) -> None:
    config = TrainingConfig.model_validate({"num_steps": 1, "mixture": mixture})
    checkpoint = Output(Kind.CHECKPOINT, "k", "", recipe={"training": config.model_dump(mode="json")})
    assert role_of(checkpoint, samples) is role


def test_everything_that_saw_an_image_is_found_and_nothing_else(small: SmallWorkspace) -> None:
    trained, held_out, other = (small.picture(number) for number in (0, 4, 9))
    small.rows("a.jsonl", (0, "the cup", "train"), (0, "a dog", "train"), (1, "the cup", "train"), (4, "it", "val"))
    small.rows("b.jsonl", (9, "the cup", "train"))
    first = small.curate("a.jsonl")
    second = small.curate("a.jsonl", "b.jsonl", parent=first)
    unrelated = small.curate("b.jsonl")
    small.teach(first)
    small.teach(second, failing=[other])
    base = small.train(first)
    tuned = small.train(unrelated, init=f"x/train/{base}")
    apart = small.train(unrelated)
    of_base = small.evaluate(first, base, [held_out, held_out])
    of_tuned = small.evaluate(unrelated, tuned, [])
    small.evaluate(unrelated, apart, [])
    report = small.report(first, base)

    seen = sightings(small, trained)
    count = SampleCount("a", "referring", "train", 2)
    assert {item.key: item.samples for item in seen.corpora} == {first: (count,), second: (count,)}
    assert [(item.state, item.status) for item in seen.parts] == [("live", "ok")]
    assert {item.key: (item.role, item.base) for item in seen.checkpoints} == {
        base: (Role.TRAINED, None),
        tuned: (Role.BASE, base),
    }
    assert {item.key: (item.num_predictions, item.role) for item in seen.scores} == {
        of_base: (0, Role.TRAINED),
        of_tuned: (0, Role.BASE),
    }
    assert seen.may_show == (("report", f"report/{report}"),)

    examined = sightings(small, held_out)
    assert {item.key: item.role for item in examined.checkpoints} == {base: Role.HELD_OUT}
    assert {item.key: (item.num_predictions, item.role) for item in examined.scores} == {of_base: (2, Role.HELD_OUT)}

    late = sightings(small, other)
    assert {item.key for item in late.corpora} == {second, unrelated}
    assert [(item.state, item.status) for item in late.parts] == [("live", "rejected")]
    assert {item.key: item.role for item in late.checkpoints} == {tuned: Role.TRAINED, apart: Role.TRAINED}
    assert sightings(small, "0" * 64) == ImageSightings("0" * 64)


def test_retired_corpora_and_unfinished_parts_count_too(small: SmallWorkspace) -> None:
    image_id = small.picture(0)
    small.rows("a.jsonl", (0, "the cup", "train"))
    corpus = small.curate("a.jsonl")
    checkpoint = small.train(corpus)
    part = small.write_part([image_id], publishes=False)
    manifest = small.corpus(corpus).manifest
    removed = {image_id: (SampleCount("a", "referring", "train", 1),)}
    note = Retirement(corpus, "next", "asked to", removed, manifest.recipe, manifest.inputs, [])
    retire(small.workspace.child(f"curate/{corpus}"), note)
    seen = sightings(small, image_id)
    assert [(item.key, item.presence, item.successor) for item in seen.corpora] == [(corpus, "retired", "next")]
    assert [(item.part, item.state) for item in seen.parts] == [(part, "unfinished")]
    assert {item.key: item.role for item in seen.checkpoints} == {checkpoint: Role.TRAINED}


def test_corpora_without_looks_are_searched_by_their_rows(tmp_path: Path) -> None:
    images = [noise_picture(number, 16, 24) for number in range(3)]
    objects = Objects.open(tmp_path)
    files = write_corpus(objects, images, "k").manifest.files
    first = images[0].image_id
    assert set(find_in_corpus(objects, files, [first, "0" * 64])) == {first}
    assert ids_with_prefix(objects, files, first[:12]) == {first}
    assert ids_with_prefix(objects, files, "") == {image.image_id for image in images}


def test_a_picture_without_a_sample_is_known_by_its_looks(small: SmallWorkspace) -> None:
    image_id = small.picture(0)
    small.rows("a.jsonl", (0, "the cup", "val"), (0, "the cup", "train"))
    corpus = small.curate("a.jsonl", filters={"min_words": 3, "near_duplicate_expressions": False})
    objects = small.workspace.child(f"curate/{corpus}")
    manifest = read_manifest(objects)
    assert isinstance(manifest, Manifest)
    held = find_in_corpus(objects, manifest.files, [image_id])[image_id]
    assert [(item.split, item.num_samples) for item in held.samples] == [("val", 1)]
