"""Two ranks, as replicas and as shards, train what a single process with the same global batch does."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from model.config import StudentConfig
from model.lora import LoraConfig
from model.processor import Processor
from model.tokenizer import StudentTokenizer
from pipelines.training.config import MixtureEntry, TrainingConfig
from pipelines.training.feed import TrainingFeed
from storage.corpus import Corpus
from storage.features import FeatureStore
from tests.parallel_steps import Case, Outcome, run_ranks, train, train_all

MakeFeed = Callable[..., TrainingFeed]

EVERYTHING, TALK = (MixtureEntry(),), (MixtureEntry(families=("talk",)),)
CASES: dict[str, dict[str, object]] = {
    "plain": {},
    "packed": {"micro_batch_tokens": 200},
    "untied": {"student": {"tie_word_embeddings": False}},
    "separate weights": {"student": {"modality_weights": "separate"}},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "half precision": {"precision": "bfloat16"},
    "adapters": {"lora": LoraConfig(rank=4, train_embeddings=False), "student": {"tie_word_embeddings": False}},
    # The second rank has no micro-batch at all, and runs the first one's for nothing.
    "one micro-batch": {"batch_rows": 2},
    # No mask in any rank: what gets no gradient in one process must stay as it is in two.
    "talk": {"mixture": TALK},
}


def make_case(make_feed: MakeFeed, student: StudentConfig, fields: dict[str, object], world_size: int) -> Case:
    settings = {
        "num_steps": 3,
        "batch_rows": 5,
        "micro_batch_rows": 2,
        "learning_rate": 1e-3,
        "mask_points": 40,
        "clip_norm": 0.5,
        **{name: value for name, value in fields.items() if name != "student"},
    }
    config = TrainingConfig.model_validate(settings)
    feeds = [make_feed(config, rank, world_size) for rank in range(world_size)]
    steps = tuple(tuple(feed.step_batches(step) for step in range(3)) for feed in feeds)
    return Case(config, student.model_copy(update=dict(fields.get("student", {}))), steps)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def outcomes(
    make_module_feed: MakeFeed, student_config: StudentConfig, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Outcome]:
    """All cases by one pair of processes, each in both ways."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    cases = {name: make_case(make_module_feed, student_config, fields, 2) for name, fields in CASES.items()}
    (folder / "cases.pickle").write_bytes(pickle.dumps(cases))
    run_ranks(train_all, 2, folder)
    return pickle.loads((folder / "outcomes.pickle").read_bytes())


@pytest.fixture(scope="module")
def make_module_feed(
    corpus: Corpus, features: dict[str, FeatureStore], tokenizer: StudentTokenizer, student_config: StudentConfig
) -> MakeFeed:
    processor = Processor(student_config, tokenizer)

    def make(config: TrainingConfig, rank: int = 0, world_size: int = 1) -> TrainingFeed:
        return TrainingFeed(corpus, features, processor, config, rank, world_size)

    return make


@pytest.fixture(scope="module")
def single(make_module_feed: MakeFeed, student_config: StudentConfig) -> Callable[[str], Outcome]:
    """The same case by one process."""

    @cache
    def trained(name: str) -> Outcome:
        return train(make_case(make_module_feed, student_config, CASES[name], 1), "ddp")

    return trained


@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_one_process(
    name: str,
    way: str,
    outcomes: dict[tuple[str, str], Outcome],
    single: Callable[[str], Outcome],
) -> None:
    """Losses, gradients, weights and their average.

    Sums are rounded in another order. AdamW divides tiny gradients by their own size, so that rounding grows up
    to a step of the weights, here 1e-3.
    """
    expected, found = single(name), outcomes[name, way]
    # Shards are gathered as bfloat16: norms and products are rounded at other places than under autocast alone.
    half = name == "half precision"
    for ours, theirs in zip(found.metrics, expected.metrics, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours == pytest.approx(theirs, rel=2e-2 if half else 2e-5, abs=1e-6)
    assert found.gradients.keys() == expected.gradients.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.gradients.values())
    for parameter, gradient in expected.gradients.items():
        difference = (found.gradients[parameter] - gradient).abs().max()
        assert difference < scale * (5e-2 if half else 1e-4), parameter
    assert found.weights.keys() == expected.weights.keys()
    assert found.averages.keys() == expected.averages.keys()
    for ours, theirs in ((found.weights, expected.weights), (found.averages, expected.averages)):
        for parameter, weight in theirs.items():
            difference = (ours[parameter] - weight).abs()
            assert difference.max() < (3e-3 if half else 5e-5), parameter
            assert difference.mean() < (3e-4 if half else 2e-6), parameter


def test_only_large_matrices_are_sharded(outcomes: dict[tuple[str, str], Outcome]) -> None:
    assert not outcomes["plain", "ddp"].sharded
    sharded = outcomes["untied", "fsdp2"].sharded
    assert {"embed_tokens.weight", "lm_head.weight"} < sharded
    inside = {name for name in outcomes["untied", "fsdp2"].weights if name.startswith("layers.")}
    assert sharded - {"embed_tokens.weight", "lm_head.weight"} == {
        name for name in inside if outcomes["untied", "fsdp2"].weights[name].ndim == 2
    }


def test_frozen_weights_stay(outcomes: dict[tuple[str, str], Outcome]) -> None:
    replicas, shards = outcomes["adapters", "ddp"], outcomes["adapters", "fsdp2"]
    assert {name for name in shards.gradients if ".lora_" in name}
    frozen = [name for name in shards.weights if name not in shards.averages]
    assert "embed_tokens.weight" in frozen
    for name in frozen:
        torch.testing.assert_close(shards.weights[name], replicas.weights[name], rtol=0, atol=0)
