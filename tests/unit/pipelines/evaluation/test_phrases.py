"""Phrases by a text encoder, as published for grounded captions; a small BERT with random weights takes its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from pipelines.evaluation.benchmarks.grounded import GroundedCaptionConfig
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.metrics.phrases import PhraseEncoder, word_f1
from pipelines.evaluation.pipeline import evaluate
from pipelines.evaluation.records import Prediction, Variant
from storage.errors import UsageError
from storage.objects import Objects
from tests.toy_predictions import toy_prediction

_WORDS = ("a", "red", "square", "green", "one", "two", "dogs", "sky", "the", "##s")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose embeddings are far enough apart that cosines lie on both sides of 0.5."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
    )
    model = BertModel(config)
    embedded = model.embeddings
    with torch.no_grad():
        # Words count, not their places; and what every text has in common cancels out.
        embedded.word_embeddings.weight *= 50
        embedded.word_embeddings.weight[3] = -embedded.word_embeddings.weight[2]
        embedded.position_embeddings.weight.zero_()
        embedded.token_type_embeddings.weight.zero_()
    model.save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def _cosine(folder: Path, first: str, second: str) -> float:
    """As GLaMM's evaluation takes it: text by text."""
    tokenizer, model = BertTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()

    def embedding(text: str) -> np.ndarray:
        inputs: Any = tokenizer(text, return_tensors="pt", max_length=512, truncation=True)
        with torch.no_grad():
            return torch.mean(model(**inputs).last_hidden_state[0], dim=0).numpy()

    one, other = embedding(first), embedding(second)
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def test_cosines_are_those_of_the_texts_one_by_one(bert: Path) -> None:
    encoder = PhraseEncoder(str(bert))
    said, meant = ["A red square", "two dogs", "", "the sky"], ["a red square", "the green one"]
    found = encoder.cosines(said, meant)
    expected = [[_cosine(bert, one, other) for other in meant] for one in said]
    assert found == pytest.approx(np.array(expected), abs=1e-5)
    assert found[0, 0] == pytest.approx(1.0, abs=1e-6), "case is folded by the tokenizer"
    assert found.min() < 0.5 < found.max()
    assert encoder.cosines([], meant).shape == (0, 2)


def _row(said: list[str], meant: list[str], ious: list[list[float]]) -> Prediction:
    return toy_prediction(
        0,
        answer=" ".join(f"<p>{phrase}</p> [SEG]" for phrase in said),
        truth_text=" ".join(f"<p>{phrase}</p> [SEG]" for phrase in meant),
        num_targets=len(meant),
        ious=tuple(np.ravel(ious).tolist()),
        mask_scores=(1.0,) * len(said),
    )


def test_recall_is_counted_until_the_first_pair_whose_phrases_differ(bert: Path) -> None:
    like, other = "a red square", "the sky"
    assert _cosine(bert, like, other) < 0.5
    benchmark = GroundedCaptionConfig(phrase_encoder=str(bert)).build()

    def scores(*rows: Prediction) -> dict[str, float]:
        return {name: score.value for name, score in benchmark.metrics(Variant.STANDARD, rows, rows).items()}

    # The best pair differs, so that the second, which doesn't, isn't looked at.
    row = _row([other, like], [like, like], [[0.9, 0.0], [0.0, 0.8]])
    assert scores(row)["mask_recall"] == 0.0
    assert scores(row)["mask_recall_word_F1"] == 0.5
    assert scores(row)["mask_recall_iou"] == 1.0
    # The best pair is alike, the second differs.
    row = _row([like, other], [like, like], [[0.9, 0.0], [0.0, 0.8]])
    assert scores(row)["mask_recall"] == 0.5
    # A third target has no mask of its own; a mask below the threshold finds nothing.
    row = _row([like, like], [like, like, like], [[0.6, 0.55, 0.0], [0.0, 0.49, 0.4]])
    assert scores(row)["mask_recall"] == pytest.approx(1 / 3)


def test_without_an_encoder_the_published_recall_is_left_out() -> None:
    row = _row(["a dog"], ["a dog"], [[0.9]])
    assert "mask_recall" not in GroundedCaptionConfig().build().metrics(Variant.STANDARD, [row], [row])


def test_what_scoring_lacks_is_told_before_anything_is_asked(scenes, save_corpus, tmp_path: Path) -> None:
    checkpoint = Objects.open(f"memory://{tmp_path.name}-student")
    checkpoint.create("config.json", b"{}")
    output = Objects.open(f"memory://{tmp_path.name}-scores")
    config = EvaluationConfig(benchmarks=(GroundedCaptionConfig(phrase_encoder=str(tmp_path / "none")),))
    with pytest.raises(UsageError, match=r"phrase_encoder .*none: expected a folder with config.json, found none"):
        evaluate(save_corpus(scenes), checkpoint, config, output, load=lambda *_: pytest.fail("asked"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UsageError, match="expected a text encoder with its tokenizer, got"):
        GroundedCaptionConfig(phrase_encoder=str(tmp_path / "broken")).check()


def test_words_are_compared_as_sets() -> None:
    assert word_f1(["a", "dog"], ["a", "dog", "dog"]) == 1.0
    assert word_f1([], []) == 0.0
