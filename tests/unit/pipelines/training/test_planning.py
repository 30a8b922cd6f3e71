"""Bins by tokens, windows of shards, images without words: what a step is made of, decided without a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from model.config import StudentConfig
from model.objective import LossWeights, compute_losses
from model.processor import Processor
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from pipelines.training.config import MixtureEntry, TrainingConfig
from pipelines.training.feed import TrainingFeed
from pipelines.training.mixture import SHARD_IMAGES, build_mixture
from pipelines.training.planning import StepPlanner
from storage.corpus import Corpus
from storage.errors import DataError
from storage.features import FeatureStore
from storage.schema import Sample, Task, Turn

NUM_SOURCES = 17
MakeFeed = Callable[..., TrainingFeed]


def config(**fields: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {"num_steps": 4, "batch_rows": 6, "micro_batch_rows": 2, "absent_prompt_share": 0.3, **fields}
    )


def sample(name: str, image: str | None) -> Sample:
    return Sample(
        sample_id=name,
        image_id=image,
        family="refer",
        task=Task.REFERRING,
        split="train",
        turns=(Turn(text=name, targets=((),)),),
        source_file="f",
        locator=name,
    )


@pytest.fixture(scope="module")
def planner_of(student_config: StudentConfig, tokenizer: StudentTokenizer) -> Callable[[TrainingConfig], StepPlanner]:
    """Plans over images of many sizes and three texts, with two conversations of each."""
    processor = Processor(student_config, tokenizer)
    samples = [sample(f"s{number}", f"i{number:02}") for number in range(NUM_SOURCES - 3)]
    samples += [sample(f"t{number}", None) for number in range(3)]
    sizes_px = {f"i{number:02}": (8 + number, 8 + (7 * number) % 50) for number in range(NUM_SOURCES - 3)}

    def make(recipe: TrainingConfig) -> StepPlanner:
        return StepPlanner(build_mixture(samples, recipe, sorted(sizes_px)), sizes_px, processor, recipe)

    return make


def ids_of(planner: StepPlanner, steps: range, world_size: int) -> list[list[str]]:
    """Per step the samples of all ranks, by the number of their bin."""
    found: list[list[str]] = []
    for step in steps:
        bins = [group for rank in range(world_size) for group in planner.bins(step, rank, world_size)]
        assert sorted(group.number for group in bins) == list(range(len(bins)))
        ordered = sorted(bins, key=lambda group: group.number)
        found.append([name for group in ordered for row in group.rows for name in row.conversation.sample_ids])
    return found


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch_rows=st.integers(3, 14),
    budget=st.sampled_from([None, 90, 200, 1000]),
    worlds=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    shuffle_shards=st.sampled_from([None, 1, 3]),
)
def test_no_sample_is_lost_or_repeated_whatever_the_ranks(
    planner_of: Callable[[TrainingConfig], StepPlanner],
    batch_rows: int,
    budget: int | None,
    worlds: list[int],
    seed: int,
    shuffle_shards: int | None,
) -> None:
    """A run that is resumed every few steps, in the middle of epochs, each time with another number of ranks."""
    recipe = config(
        batch_rows=batch_rows,
        micro_batch_tokens=budget,
        seed=seed,
        shuffle_shards=shuffle_shards,
        mixture=(MixtureEntry(repeats=2),),
    )
    planner = planner_of(recipe)
    num_steps = -(-2 * NUM_SOURCES // batch_rows)
    whole = ids_of(planner, range(num_steps), 1)
    resumed: list[list[str]] = []
    for number, world_size in enumerate(worlds):
        start, stop = (num_steps * place // len(worlds) for place in (number, number + 1))
        resumed += ids_of(planner_of(recipe), range(start, stop), world_size)
    assert resumed == whole
    line = [planner.row(planner.place(row)).conversation.sample_ids[0] for row in range(num_steps * batch_rows)]
    assert Counter(name for step in whole for name in step) == Counter(line)
    # An epoch holds each sample twice.
    assert Counter(line[: 2 * NUM_SOURCES]) == dict.fromkeys(line, 2)


@pytest.mark.parametrize("budget", [130, 200, 400])
def test_bins_keep_within_their_tokens(make_feed: MakeFeed, budget: int) -> None:
    recipe = config(batch_rows=12, micro_batch_tokens=budget, mixture=(MixtureEntry(turns_per_row=3),))
    step = make_feed(recipe).step_batches(0)
    lengths = [batch.inputs.input_ids.shape for batch in step.micro_batches]
    assert all(rows == 1 and tokens <= budget for rows, tokens in lengths)
    assert sum(tokens for _, tokens in lengths) == step.num_tokens
    assert sum(batch.num_documents for batch in step.micro_batches) == 12
    assert sum(map(len, step.families)) == len(step.sample_ids) == 12
    # Of two bins that follow each other at least one is more than half full, as best fit leaves them.
    assert len(lengths) <= 2 * -(-step.num_tokens // budget)


def test_packed_and_counted_steps_hold_the_same(make_feed: MakeFeed) -> None:
    by_rows = make_feed(config()).step_batches(1)
    by_tokens = make_feed(config(micro_batch_tokens=300)).step_batches(1)
    assert sorted(by_rows.sample_ids) == sorted(by_tokens.sample_ids)
    assert by_rows.num_tokens == by_tokens.num_tokens


@pytest.mark.parametrize("turns", ["chained", "branched"])
@pytest.mark.parametrize("visual_prompt", ["injected", "pooled"])
def test_lengths_are_known_without_a_picture(
    corpus: Corpus, student_config: StudentConfig, tokenizer: StudentTokenizer, visual_prompt: str, turns: str
) -> None:
    processor = Processor(student_config.model_copy(update={"visual_prompt": visual_prompt}), tokenizer)
    feed = TrainingFeed(corpus, {}, processor, config(turns=turns))
    pooled = 0
    for row in range(20):
        talk, image = feed.conversation(feed.place(row))
        encoded = processor.encode(image, talk.turns, talk.visual_prompts, branched=turns == "branched")
        size_px = None if image is None else talk.size_px
        assert processor.num_tokens(size_px, talk.turns, talk.prompt_numbers) == len(encoded.input_ids)
        pooled += len(encoded.pooled_slots)
    assert (pooled > 0) == (visual_prompt == "pooled")


def test_a_conversation_that_fits_no_bin_is_named(make_feed: MakeFeed) -> None:
    recipe = config(micro_batch_tokens=40, mixture=(MixtureEntry(families=("chat",)),))
    with pytest.raises(
        DataError,
        match=r"samples \d-chat: expected a conversation of at most 40 tokens \(training\.micro_batch_tokens\), "
        r"got \d+ with 2 turns; raise the bound, lower the part's turns_per_row, or lower student\.max_side_px",
    ):
        make_feed(recipe).step_batches(0)


def windowed(num_shards: int, seed: int, epoch: int, window: int, repeats: float = 1.0) -> np.ndarray:
    """Shard of each row in the order of an epoch."""
    image_ids = [f"{number:05}" for number in range(num_shards * SHARD_IMAGES)]
    samples = [sample(name, name) for name in image_ids] + [sample("text", None)]
    mixture = build_mixture(samples, config(mixture=(MixtureEntry(repeats=repeats),)), image_ids)
    order = mixture.order(seed, epoch, window)
    assert Counter(np.bincount(order).tolist()) == {int(repeats): len(samples)}
    np.testing.assert_array_equal(order, mixture.order(seed, epoch, window))
    return mixture.shards[order]


def test_a_window_of_shards_is_shuffled_within() -> None:
    shards = windowed(12, seed=3, epoch=1, window=3)
    images = shards[shards >= 0]
    assert (images != np.sort(images)).any()
    met: dict[int, list[int]] = {}
    for place, shard in enumerate(images.tolist()):
        met.setdefault(shard, []).append(place)
    # A shard's rows lie within the window's length, and some four shards are open at a time.
    assert max(places[-1] - places[0] for places in met.values()) <= 4 * SHARD_IMAGES
    middle = images[4 * SHARD_IMAGES : -4 * SHARD_IMAGES].reshape(-1, SHARD_IMAGES)
    assert max(len(set(rows.tolist())) for rows in middle) <= 5
    assert min(len(set(rows.tolist())) for rows in middle) >= 3
    # The shards themselves come in another order each epoch, and by another seed.
    first = list(dict.fromkeys(images.tolist()))
    for seed, epoch in ((3, 2), (4, 1)):
        assert list(dict.fromkeys(windowed(12, seed, epoch, 3).tolist())) != first
    assert first != sorted(first)


def test_one_shard_after_the_other() -> None:
    shards = windowed(6, seed=0, epoch=0, window=1)
    images = shards[shards >= 0]
    assert np.count_nonzero(np.diff(images)) == 5


def test_repeats_of_an_image_come_with_visits_of_their_own() -> None:
    images = windowed(8, seed=0, epoch=0, window=1, repeats=2.0)
    runs = images[images >= 0]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(runs)) + 1])
    # 16 visits, fewer runs where two visits of a shard follow each other.
    assert 12 <= len(starts) <= 16
    assert Counter(runs.tolist()) == dict.fromkeys(range(8), 2 * SHARD_IMAGES)


def test_images_without_samples_teach_by_distillation_alone(
    make_feed: MakeFeed,
    image_ids: list[str],
    student: PixelSail,
) -> None:
    """Picture 0 has a sample of another split, so it stays out; the others have none in the mixture."""
    recipe = config(batch_rows=4, mixture=(MixtureEntry(families=("llava",)), MixtureEntry(images_only=True)))
    feed = make_feed(recipe)
    step = feed.step_batches(0)
    found = {feed.source(feed.place(row)).image_id for row in range(4)}
    assert found == {None, *image_ids[1:]}
    assert Counter(name for of_batch in step.families for name in of_batch) == {"llava": 1, "images": 3}
    assert Counter(step.sample_ids) == {("text",): 1, (): 3}
    for batch, families in zip(step.micro_batches, step.families, strict=True):
        losses = compute_losses(student, batch, LossWeights())
        words = [bool((batch.label_documents == document).any()) for document in range(batch.num_documents)]
        assert words == [family == "llava" for family in families]
        # Picture 3 has no features: it counts as a conversation without a loss.
        for document, family in enumerate(families):
            known = any(
                int(batch.image_documents[image]) == document
                for groups in batch.features["sam2"].values()
                for images, _ in groups
                for image in images
            )
            assert bool(losses.per_document[document] > 0) == (family == "llava" or known)


def test_no_image_without_samples_is_an_error(make_feed: MakeFeed) -> None:
    with pytest.raises(
        DataError, match=r"mixture\[1\]: expected images without samples in this mixture, found none among 4"
    ):
        make_feed(config(mixture=(MixtureEntry(), MixtureEntry(images_only=True))))


def test_images_without_samples_have_no_families() -> None:
    with pytest.raises(ValidationError, match="images_only: expected a part without families, tasks and task_weights"):
        MixtureEntry(images_only=True, families=("refer",))


@pytest.mark.parametrize("mode", ["online", "hybrid"])
def test_images_whose_features_are_missing_go_along(
    make_feed: MakeFeed, image_ids: list[str], features: dict[str, FeatureStore], mode: str
) -> None:
    feed = make_feed(config(teacher_mode=mode))
    places = [
        place
        for place in (feed.place(row) for row in range(10))
        if feed.source(place).samples[0].task is Task.REASONING
    ]
    batch = feed.batch(places)
    own = [feed.source(place).image_id for place in places]
    assert batch.missing.keys() == {"mask2former", "sam2"}
    for teacher, missing in batch.missing.items():
        known = [] if mode == "online" else [name for name in own if name in features[teacher]]
        assert [image_id for _, image_id, _ in missing] == [name for name in own if name not in known]
        for number, image_id, image in missing:
            assert own[number] == image_id
            assert image.dtype == torch.uint8
            np.testing.assert_array_equal(image.numpy(), feed.conversation(places[number])[1])
        counted = [image for groups in batch.features[teacher].values() for images, _ in groups for image in images]
        assert sorted(counted + [number for number, _, _ in missing]) == list(range(len(own)))
    assert make_feed(config()).batch(places).missing == {}
    assert set(own) == set(image_ids)
