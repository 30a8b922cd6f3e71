"""How alike two phrases are: by their words, or by a text encoder as published for grounded captions."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from storage.errors import UsageError
from storage.pickle_opcodes import told_by_torch

__all__ = ["PhraseEncoder", "word_f1"]

_MAX_TOKENS = 512
_TEXTS_AT_ONCE = 64


def word_f1(first: Collection[str], second: Collection[str]) -> float:
    """F1 of the different words of two phrases, between 0 and 1.

    >>> word_f1(["the", "brown", "dog"], ["a", "brown", "dog"])
    0.6666666666666666
    """
    one, other = set(first), set(second)
    return 2 * len(one & other) / (len(one) + len(other)) if one or other else 0.0


class PhraseEncoder:
    """A BERT on this machine; each text is encoded once.

    A text is the mean over all its tokens of the last hidden states, `[CLS]` and `[SEP]` among them, and two texts are
    compared by the cosine, as in GLaMM's evaluation (mbzuai-oryx/groundingLMM at dd7ad1a, `eval/gcg/evaluate.py`).

    Args:
        folder: of a checkpoint in transformers' format with its tokenizer; published scores take bert-base-uncased.
            Nothing is downloaded, and no code of the folder runs.

    Raises:
        UsageError: no such checkpoint there.
    """

    def __init__(self, folder: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        if not Path(folder, "config.json").is_file():
            raise UsageError(
                f"phrase_encoder {folder}: expected a folder with config.json, found none; download a text encoder "
                "such as bert-base-uncased and name its folder, or leave the field out"
            )
        tokenizers, models = cast(Any, AutoTokenizer), cast(Any, AutoModel)
        try:
            self._tokenizer: Any = tokenizers.from_pretrained(folder, local_files_only=True)
            self._model: Any = models.from_pretrained(folder, local_files_only=True, trust_remote_code=False).eval()
        # transformers tells of absent, foreign and broken checkpoints in all these ways.
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, pickle.UnpicklingError) as error:
            raise UsageError(
                f"phrase_encoder {folder}: expected a text encoder with its tokenizer, got {type(error).__name__}: "
                f"{told_by_torch(error)}; download one such as bert-base-uncased and name its folder"
            ) from error
        self._known: dict[str, NDArray[np.float32]] = {}

    def cosines(self, first: Sequence[str], second: Sequence[str]) -> NDArray[np.float64]:
        """Cosine of each text of the first with each of the second, (first, second)."""
        if not first or not second:
            return np.zeros((len(first), len(second)))
        self._encode({*first, *second} - self._known.keys())
        one, other = (np.array([self._known[text] for text in texts], np.float64) for texts in (first, second))
        lengths = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(other, axis=1)
        return one @ other.T / lengths

    def _encode(self, texts: Collection[str]) -> None:
        """Takes texts with equal numbers of tokens together: padding would change the last digits."""
        import torch

        by_length: dict[int, list[tuple[str, list[int]]]] = {}
        for text in sorted(texts):
            ids: list[int] = self._tokenizer(text, max_length=_MAX_TOKENS, truncation=True)["input_ids"]
            by_length.setdefault(len(ids), []).append((text, ids))
        for group in by_length.values():
            for start in range(0, len(group), _TEXTS_AT_ONCE):
                batch = group[start : start + _TEXTS_AT_ONCE]
                with torch.inference_mode():
                    states: Any = self._model(torch.tensor([ids for _, ids in batch])).last_hidden_state
                self._known |= dict(zip((text for text, _ in batch), states.mean(1).float().numpy(), strict=True))
