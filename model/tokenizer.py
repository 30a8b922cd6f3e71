"""Tokenizers: the student's special tokens on top of a byte-level BPE."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

__all__ = ["END_OF_TEXT", "SEG", "StudentTokenizer", "name_prompts", "special_tokens"]

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_PATCH, VISION_END = "<vision>", "<vpatch>", "</vision>"
SEG = "[SEG]"
POOLED_REGION = "<|vis_cls|>"
"""Stands behind a `<Prompt..>` where regions are pooled; the released model has it and gives it no use."""


_PLACEHOLDER = re.compile(r"<region(\d+)>")


def special_tokens(num_visual_prompts: int) -> list[str]:
    """The student's tokens in the order of the released model, behind the base vocabulary."""
    return [
        VISION_START,
        VISION_PATCH,
        "<vrow_sep>",
        "<vframe_sep>",
        VISION_END,
        POOLED_REGION,
        SEG,
        "<p>",
        "</p>",
        *(f"<Prompt{number}>" for number in range(num_visual_prompts)),
        "<NO_Prompt>",
    ]


class StudentTokenizer:
    """Text to ids and back, special tokens kept whole.

    Args:
        tokenizer: a `tokenizers` tokenizer; missing special tokens are added behind its vocabulary.
        num_visual_prompts: number of `<Prompt..>` tokens.
    """

    def __init__(self, tokenizer: Tokenizer, num_visual_prompts: int) -> None:
        wanted = [END_OF_TEXT, TURN_START, TURN_END, *special_tokens(num_visual_prompts)]
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in wanted])
        self._tokenizer = tokenizer
        ids: dict[str, int] = {token: tokenizer.token_to_id(token) or 0 for token in wanted}
        self.end_of_text, self.seg, self.pooled_region = ids[END_OF_TEXT], ids[SEG], ids[POOLED_REGION]
        self.vision_start, self.vision_patch, self.vision_end = ids[VISION_START], ids[VISION_PATCH], ids[VISION_END]
        self.visual_prompts = [ids[f"<Prompt{number}>"] for number in range(num_visual_prompts)]

    @property
    def pixel_tokens(self) -> list[int]:
        """Ids of the tokens that only pixel tasks use: `[SEG]` and the visual prompts."""
        return [self.seg, self.pooled_region, *self.visual_prompts]

    @property
    def backend(self) -> Tokenizer:
        """The tokenizer of the `tokenizers` library."""
        return self._tokenizer

    @staticmethod
    def check(vocabulary: Container[str]) -> None:
        """Makes sure that a vocabulary has the student's special tokens.

        Raises:
            ValueError: some are missing.
        """
        wanted = [END_OF_TEXT, TURN_START, TURN_END, *special_tokens(0)]
        missing = [token for token in wanted if token not in vocabulary]
        if missing:
            raise ValueError(
                f"tokenizer: expected the student's special tokens, these are missing: {', '.join(missing)}; load the "
                "tokenizer of a student, or make a student of this language model with `sailloft convert`"
            )

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, num_visual_prompts: int) -> StudentTokenizer:
        """Learns a byte-level BPE from texts; any other text can still be encoded, byte by byte.

        Args:
            texts: what the vocabulary is learnt from; the result depends on its multiset alone.
            vocab_size: upper bound of the number of ids, special tokens included.
            num_visual_prompts: number of `<Prompt..>` tokens.

        Raises:
            ValueError: a bound too small for the 256 bytes and the special tokens.
        """
        num_special = len(special_tokens(num_visual_prompts)) + 3
        if vocab_size < 256 + num_special:
            raise ValueError(f"vocab_size: expected at least {256 + num_special}, got {vocab_size}")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - num_special,
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )
        tokenizer.train_from_iterator(sorted(texts), trainer)
        return cls(tokenizer, num_visual_prompts)

    @classmethod
    def from_json(cls, text: str, num_visual_prompts: int) -> StudentTokenizer:
        """Loads `tokenizer.json`."""
        return cls(Tokenizer.from_str(text), num_visual_prompts)

    def to_json(self) -> str:
        """The content of `tokenizer.json`."""
        return self._tokenizer.to_str()

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens written in it become their ids."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, special tokens written out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def name_prompts(text: str, numbers: Sequence[int]) -> str:
    """Replaces `<region1>` ... by the prompt tokens of the given numbers.

    Raises:
        ValueError: a placeholder without a visual prompt.

    >>> name_prompts("Is <region2> left of <region1>?", [7, 3])
    'Is <Prompt3> left of <Prompt7>?'
    """

    def token(match: re.Match[str]) -> str:
        place = int(match[1])
        if not 1 <= place <= len(numbers):
            raise ValueError(f"{match[0]}: expected one of {len(numbers)} visual prompts, got number {place}")
        return f"<Prompt{numbers[place - 1]}>"

    return _PLACEHOLDER.sub(token, text)
