"""Scores of captions: METEOR (also as released, with its arguments swapped), CIDEr, and METEOR 1.5 where Java is there.

All take plain texts and cut them into words themselves, by `caption_words`: nltk's Penn Treebank rules in lower case
without punctuation. `pycocoevalcap` does the same with the Stanford tokenizer, which needs Java; brackets are words
there, because its list of punctuation has them in capitals and its texts are in lower case, and so they are here. The
two differ in rare cases (nltk splits off fewer abbreviations and keeps a final full stop within "e.g."). On ordinary
captions they agree, see tests/unit/pipelines/evaluation/test_captions.py.

Nothing here reaches beyond this machine. nltk takes a second to import, so that it is imported where it is used.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from storage.errors import UsageError

__all__ = ["caption_words", "check_java", "cider_scores", "meteor", "meteor_1_5_scores", "meteor_released"]

_PUNCTUATION = frozenset(
    [
        "''",
        "'",
        "``",
        "`",
        '"',
        ".",
        "?",
        "!",
        ",",
        ":",
        "-",
        "--",
        "...",
        ";",
    ]
)
"""Tokens that are no words: the list of pycocoevalcap, less its brackets (see above)."""
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
"""As the Stanford tokenizer writes them."""
_MAX_WORDS = 512
"""Words of a text that are looked at: a student that repeats itself without end mustn't hold an evaluation up."""


@cache
def _tokenizer() -> Any:
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()


def caption_words(text: str) -> list[str]:
    """Lower-cased words of a text by Penn Treebank rules, without punctuation.

    >>> caption_words("A man's red (old) car, parked.")
    ['a', 'man', "'s", 'red', '-lrb-', 'old', '-rrb-', 'car', 'parked']
    """
    tokens = cast("list[str]", _tokenizer().tokenize(text.lower()))
    return [_BRACKETS.get(token, token) for token in tokens if token not in _PUNCTUATION][:_MAX_WORDS]


def meteor(prediction: str, references: Sequence[str]) -> float:
    """METEOR of one text by nltk (alpha 0.9, beta 3, gamma 0.5; exact, Porter stems, WordNet 3.0), the best reference.

    Args:
        prediction: what was said.
        references: what might have been said, at least one.

    Returns:
        Between 0 and 1; 0 where no word matches.
    """
    words = caption_words(prediction)
    return _meteor([caption_words(reference) for reference in references], words)


def meteor_released(prediction: str, references: Sequence[str]) -> float:
    """METEOR as the released evaluation of PerBench takes it: the prediction as reference, the truth as hypothesis.

    Its parameters weigh recall nine times as much as precision, so that swapped it rewards long answers less. The
    published numbers are these. How the released code cuts texts into words isn't known; this takes `caption_words`.
    """
    words = caption_words(prediction)
    return max(_meteor([words], caption_words(reference)) for reference in references)


def _meteor(references: Sequence[list[str]], hypothesis: list[str]) -> float:
    from nltk.translate.meteor_score import meteor_score

    from pipelines.evaluation.metrics.synonyms import wordnet_synonyms

    return float(meteor_score(references, hypothesis, wordnet=cast(Any, wordnet_synonyms())))


def cider_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """CIDEr-D of each text by pycocoevalcap, with document frequencies over all of the references given.

    The score of a set is the mean. A text's score depends on the whole set through the frequencies of words, which
    resampling pictures keeps as they are: frequencies are a property of the benchmark, not of the answers.

    Args:
        predictions: what was said.
        references: for each, what might have been said, at least one.

    Returns:
        One score per prediction, between 0 and 10; published ones are its mean times 100 (or 1).
    """
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    if not predictions:
        return np.zeros(0)
    scorer = CiderScorer()
    for prediction, own in zip(predictions, references, strict=True):
        scorer += (" ".join(caption_words(prediction)), [" ".join(caption_words(text)) for text in own])
    _, scores = scorer.compute_score()
    return np.asarray(scores, dtype=np.float64)


def check_java() -> None:
    """Raises UsageError where METEOR 1.5 can't be computed: no `java` on the path."""
    if shutil.which("java") is None:
        raise UsageError("METEOR 1.5: expected `java` on the path, found none; install it, or leave `meteor_1_5` off")


def meteor_1_5_scores(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, NDArray[np.float64]]:
    """METEOR 1.5 by its authors' program, as published for region captions.

    Returns:
        The score of the set, which adds up counts over all texts and so isn't the mean, and that of each text.

    Raises:
        UsageError: no `java` on the path.
    """
    from pycocoevalcap.meteor.meteor import Meteor

    check_java()
    texts = {place: [" ".join(caption_words(text)) or "-"] for place, text in enumerate(predictions)}
    truths = {place: [" ".join(caption_words(text)) for text in own] for place, own in enumerate(references)}
    program = Meteor()
    try:
        score, scores = program.compute_score(truths, texts)
    finally:
        for stream in (program.meteor_p.stdout, program.meteor_p.stderr):
            if stream is not None:
                stream.close()
    return float(score), np.asarray(scores, dtype=np.float64)
