"""Batches from the corpus and the feature stores, in an order that only the position decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.objective import TrainingBatch
from model.processor import IGNORED, Processor
from model.tokenizer import StudentTokenizer
from pipelines.training.config import MixtureEntry, TrainingConfig
from pipelines.training.feed import StepBatches, TrainingFeed
from pipelines.training.mixture import Place
from pipelines.training.rows import target_masks
from storage.corpus import Corpus, write_images, write_samples
from storage.errors import DataError
from storage.features import FeatureStore
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, ImageRecord, Region, Task
from tests.same_batches import assert_same

MakeFeed = Callable[..., TrainingFeed]
Row = tuple[list[int], list[int], list[float], list[int]]


def config(**fields: object) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {"num_steps": 4, "batch_rows": 6, "micro_batch_rows": 2, "absent_prompt_share": 0.3, **fields}
    )


def masks_of(batch: TrainingBatch) -> dict[int, torch.Tensor]:
    """Target masks of each image that has any."""
    found: dict[int, torch.Tensor] = {}
    for grid, images in batch.inputs.images_by_grid().items():
        if grid in batch.targets:
            owners = batch.targets[grid].owner.unique().tolist()
            found |= {images[owner]: masks for owner, masks in zip(owners, batch.targets[grid].masks, strict=True)}
    return found


def rows_of(step: StepBatches) -> list[Row]:
    """Each row without its padding: tokens, labels, sums of its patches, sums of its masks."""
    rows: list[Row] = []
    for batch in step.micro_batches:
        sizes = [height * width for height, width in batch.inputs.grids]
        image_rows = batch.image_documents.tolist()
        patches = dict(zip(image_rows, batch.inputs.patches.split(sizes), strict=True))
        masks = {image_rows[image]: masks for image, masks in masks_of(batch).items()}
        for row, real in enumerate(batch.inputs.document >= 0):
            rows.append(
                (
                    batch.inputs.input_ids[row][real].tolist(),
                    batch.labels[row][real].tolist(),
                    patches[row].sum(1).tolist() if row in patches else [],
                    masks[row].sum((1, 2)).tolist() if row in masks else [],
                )
            )
    return rows


def places_of(feed: TrainingFeed, task: Task, number: int = 0) -> list[Place]:
    """Places of the first epoch at which a sample of a task stands; `number` begins its id."""
    places = [Place(0, row) for row in range(200) if feed.place(row).epoch == 0]
    return [
        place
        for place in places
        if feed.source(place).samples[0].task is task and feed.source(place).samples[0].sample_id[0] == str(number)
    ]


@pytest.mark.parametrize("batch_rows", [6, 5])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_micro_batches_exactly(make_feed: MakeFeed, world_size: int, batch_rows: int) -> None:
    recipe = config(batch_rows=batch_rows)
    whole = make_feed(recipe)
    ranks = [make_feed(recipe, rank, world_size) for rank in range(world_size)]
    for step in range(4):
        expected = whole.step_batches(step)
        assert len(rows_of(expected)) == len(expected.sample_ids) == batch_rows
        assert expected.bins == (0, 1, 2)
        assert [len(batch.labels) for batch in expected.micro_batches] == [2, 2, batch_rows - 4]
        for rank, feed in enumerate(ranks):
            mine = feed.step_batches(step)
            assert mine.step == step
            assert mine.bins == expected.bins[rank::world_size]
            assert mine.families == expected.families[rank::world_size]
            for found, batch in zip(mine.micro_batches, expected.micro_batches[rank::world_size], strict=True):
                assert_same(found, batch)


def test_more_ranks_than_micro_batches(make_feed: MakeFeed) -> None:
    recipe = config(batch_rows=4)
    assert len(rows_of(make_feed(recipe, 1, 3).step_batches(0))) == 2
    assert make_feed(recipe, 2, 3).step_batches(0).micro_batches == ()


def test_a_restart_goes_on_where_it_was(make_feed: MakeFeed) -> None:
    before = make_feed(config())
    batches = before.batches(0)
    steps = [rows_of(next(batches)) for _ in range(6)]
    later = make_feed(config()).batches(3)
    assert [rows_of(next(later)) for _ in range(3)] == steps[3:]
    assert rows_of(before.step_batches(1)) == steps[1]
    assert steps[0] != steps[1]


def test_every_row_stands_once_in_every_epoch(make_feed: MakeFeed) -> None:
    recipe = config(mixture=(MixtureEntry(), MixtureEntry(families=("refer",), repeats=2)))
    feed = make_feed(recipe)
    # 4 pictures' single turns, 4 chats, the text and the lone picture; the expressions again, twice.
    length = 4 + 4 + 2 + 2 * 4
    for epoch in range(3):
        places = [feed.place(row) for row in range(epoch * length, (epoch + 1) * length)]
        assert places == [Place(epoch, row) for row in range(length)]
        counts = Counter(feed.source(place) for place in places)
        assert sorted(counts.values()) == [1] * 10 + [2] * 4


def test_epochs_and_seeds_differ(make_feed: MakeFeed) -> None:
    feed, other = make_feed(config()), make_feed(config(seed=1))

    def epoch(feed: TrainingFeed, number: int) -> list[str]:
        return [feed.source(Place(number, row)).samples[0].sample_id for row in range(10)]

    assert epoch(feed, 0) != epoch(feed, 1) != epoch(other, 1)
    assert sorted(epoch(feed, 0)) == sorted(epoch(feed, 1)) == sorted(epoch(other, 1))


def test_only_the_splits_of_the_recipe(make_feed: MakeFeed) -> None:
    feed = make_feed(config(splits=("val",)))
    assert {s.sample_id for row in range(5) for s in feed.source(feed.place(row)).samples} == {"held-out"}
    trained = make_feed(config())
    assert "held-out" not in {s.sample_id for row in range(10) for s in trained.source(trained.place(row)).samples}


def test_a_batch_is_what_its_conversations_say(
    make_feed: MakeFeed, tokenizer: StudentTokenizer, processor: Processor
) -> None:
    feed = make_feed(config())
    (place,) = places_of(feed, Task.REASONING, 2)
    conversation, image = feed.conversation(place)
    assert image is not None
    assert image.shape == (32, 16, 3)
    batch = feed.batch([place])
    expected = processor.encode(image, conversation.turns)
    assert batch.inputs.input_ids[0].equal(expected.input_ids)
    assert batch.inputs.patches.equal(expected.patches)
    assert batch.inputs.grids == ((4, 2),)
    labelled = batch.labels[0][batch.labels[0] != IGNORED]
    assert tokenizer.decode(labelled.tolist()) == "Red [SEG].<|endoftext|>two<|endoftext|>"
    assert masks_of(batch)[0].equal(torch.from_numpy(target_masks([conversation])[0]))
    assert int(masks_of(batch)[0].sum()) == 7 * 6
    assert batch.inputs.input_ids.flatten()[batch.targets[4, 2].seg_slots].tolist() == [tokenizer.seg]


def test_branched_turns(make_feed: MakeFeed) -> None:
    chained, branched = (make_feed(config(turns=turns)) for turns in ("chained", "branched"))
    (place,) = places_of(chained, Task.REASONING)
    assert not chained.batch([place]).inputs.branch.any()
    assert branched.batch([place]).inputs.branch.unique().tolist() == [0, 1, 2]


def test_text_and_a_lone_picture_are_rows(make_feed: MakeFeed) -> None:
    feed = make_feed(config(mixture=(MixtureEntry(families=("llava", "plain")),)))
    batch = feed.batch([Place(0, 0), Place(0, 1)])
    text = 1 - int(batch.image_documents)
    assert batch.inputs.grids == ((2, 3),)
    assert batch.targets == {}
    assert batch.num_documents == 2
    assert batch.label_documents.unique().tolist() == [text]
    assert (batch.labels[text] != IGNORED).any()
    assert (batch.labels[1 - text] == IGNORED).all()


def test_features_are_stacked_by_grid(
    make_feed: MakeFeed, image_ids: list[str], features: dict[str, FeatureStore]
) -> None:
    feed = make_feed(config())
    places = [places_of(feed, Task.REASONING, number)[0] for number in (3, 2, 1, 0)]
    batch = feed.batch(places)
    assert batch.inputs.grids == ((2, 3), (4, 2), (2, 3), (2, 3))
    first, second, third = (torch.from_numpy(features["mask2former"][image_id]) for image_id in image_ids[:3])
    # The second picture's map is twice as large as the first one's: they stand in groups of their own.
    tall = batch.features["mask2former"][4, 2]
    assert [images for images, _ in tall] == [[1]]
    assert tall[0][1].features().equal(third[None])
    wide = batch.features["mask2former"][2, 3]
    assert [images for images, _ in wide] == [[2], [3]]
    assert [group.features().equal(of[None]) for (_, group), of in zip(wide, (second, first), strict=True)] == [
        True
    ] * 2
    sam2 = [torch.from_numpy(features["sam2"][image_id]) for image_id in image_ids[:3]]
    ((images, stacked),) = batch.features["sam2"][2, 3]
    assert images == [2, 3]
    assert stacked.features().equal(torch.stack([sam2[1], sam2[0]]))
    assert batch.features["sam2"][4, 2][0][1].features().equal(sam2[2][None])


def test_pictures_without_features_are_no_target(make_feed: MakeFeed) -> None:
    feed = make_feed(config())
    batch = feed.batch(places_of(feed, Task.REASONING, 3))
    assert batch.inputs.grids == ((2, 3),)
    assert batch.features == {"mask2former": {}, "sam2": {}}


def test_a_corpus_without_bytes_is_refused(
    processor: Processor, pictures: list[tuple[ImageRecord, dict[str, Region]]], corpus: Corpus
) -> None:
    record = pictures[0][0]
    bare = replace(record, data=None, uri="s3://bucket/a.png")
    objects = Objects.open("memory://training-tests/bare")
    samples = [sample for sample in corpus.samples() if sample.image_id == record.image_id]
    files = (write_images(objects, "0", [bare]), write_samples(objects, "0", samples))
    publish(objects, Manifest("corpus", "b" * 64, SCHEMA_VERSION, {}, {}, files, {}))
    feed = TrainingFeed(Corpus.open(objects), {}, processor, config())
    with pytest.raises(DataError, match=r"expected its bytes in the corpus, got the URI 's3://bucket/a\.png'"):
        feed.step_batches(0)


def test_features_travel_as_they_are_stored(make_feed: MakeFeed) -> None:
    feed = make_feed(config())
    batch = feed.batch(places_of(feed, Task.REASONING, 0))
    stacks = [group.values for maps in batch.features.values() for groups in maps.values() for _, group in groups]
    assert [stack.dtype for stack in stacks] == [torch.float16] * 2
    assert np.isfinite(batch.inputs.patches.numpy()).all()
