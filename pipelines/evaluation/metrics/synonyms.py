"""Synonyms of WordNet 3.0 for METEOR, from one small file of the package: nothing is fetched, nothing installed beside.

nltk's METEOR asks a WordNet reader for the synsets of a word and for the single words among their lemmas, and for
nothing else. `data/wordnet-3.0.txt.xz` holds just that: no glosses, no lemmas of several words, no synsets of names
alone. The file is an extract of WordNet, whose licence lies beside it.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from nltk.corpus.reader.wordnet import WordNetCorpusReader

__all__ = ["Lemma", "Synonyms", "Synset", "packed_wordnet", "wordnet_synonyms"]

_FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
"""Parts of speech in the order in which nltk looks through them, and WordNet's names of their files."""
_MARKER = re.compile(r"\([a-z]+\)$")
"""Where an adjective may stand, behind its lemma: `galore(ip)`."""


@dataclass(frozen=True, slots=True)
class Lemma:
    """A word of a synset, as nltk's METEOR reads one."""

    word: str

    def name(self) -> str:
        """The word as WordNet writes it."""
        return self.word


@dataclass(frozen=True, slots=True)
class Synset:
    """Words of one meaning, as nltk's METEOR reads them."""

    words: tuple[str, ...]

    def lemmas(self) -> list[Lemma]:
        """Its single words."""
        return [Lemma(word) for word in self.words]


class Synonyms:
    """The part of a WordNet reader that nltk's `meteor_score` uses.

    Args:
        lines: what `packed_wordnet` gives.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._synsets: dict[str, dict[str, list[Synset]]] = {}
        self._exceptions: dict[str, dict[str, list[str]]] = {}
        synsets, exceptions = dict[str, list[Synset]](), dict[str, list[str]]()
        into_exceptions = False
        for line in lines:
            if line[0] in "=!":
                into_exceptions = line[0] == "!"
                if not into_exceptions:
                    synsets, exceptions = (
                        self._synsets.setdefault(line[1], {}),
                        self._exceptions.setdefault(line[1], {}),
                    )
                continue
            words = line.split()
            if into_exceptions:
                exceptions[words[0]] = words[1:]
                continue
            synset = Synset(tuple(words))
            for form in dict.fromkeys(word.lower() for word in words):
                synsets.setdefault(form, []).append(synset)

    def synsets(self, word: str) -> list[Synset]:
        """Meanings of a word or of its base form, of every part of speech; those of names alone are left out."""
        word = word.lower()
        return [
            synset
            for pos, known in self._synsets.items()
            for form in self._base_forms(word, pos)
            for synset in known[form]
        ]

    def _base_forms(self, word: str, pos: str) -> list[str]:
        """WordNet's morphology: irregular forms by its lists, else its endings, each taken off once."""
        forms = self._exceptions[pos].get(word)
        if forms is None:
            endings = WordNetCorpusReader.MORPHOLOGICAL_SUBSTITUTIONS[pos]
            forms = [word[: -len(old)] + new for old, new in endings if word.endswith(old)]
        return [form for form in dict.fromkeys([word, *forms]) if form in self._synsets[pos]]


@cache
def wordnet_synonyms() -> Synonyms:
    """The synonyms of the package; read once, in a third of a second."""
    data = files("pipelines.evaluation").joinpath("data/wordnet-3.0.txt.xz").read_bytes()
    return Synonyms(lzma.decompress(data).decode().splitlines())


def packed_wordnet(folder: Path) -> Iterator[str]:
    """The lines that `Synonyms` reads, from WordNet's own files `data.noun`, `noun.exc` ... in a folder.

    `=n` opens the synsets of nouns, one per line; `!n` the irregular forms, each before its base forms. Compared with
    nltk's reader over all single words of WordNet 3.0 and 24,000 inflected forms (112,082 in all), the synonyms that
    METEOR can match differ for two, "comics" and "bases-on-balls", whose base forms are several words.
    """
    for pos, name in _FILES.items():
        yield f"={pos}"
        for line in (folder / f"data.{name}").read_text(encoding="utf-8").splitlines():
            if line.startswith(" "):  # the licence, which opens each file
                continue
            fields = line.partition(" | ")[0].split()
            # offset, lexicographer's file, type, number of words (hexadecimal), then word and sense in turn
            words = [_MARKER.sub("", word) for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
            words = [word for word in words if "_" not in word]
            if any(word == word.lower() for word in words):
                yield " ".join(words)
        yield f"!{pos}"
        for line in (folder / f"{name}.exc").read_text(encoding="utf-8").splitlines():
            if "_" not in line:
                yield line
