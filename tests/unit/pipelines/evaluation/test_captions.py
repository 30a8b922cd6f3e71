"""Caption scores against values worked out by hand and against the libraries they are published with."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation.metrics import captions
from pipelines.evaluation.metrics.captions import (
    caption_words,
    cider_scores,
    meteor,
    meteor_1_5_scores,
    meteor_released,
)
from pipelines.evaluation.metrics.synonyms import Synonyms, packed_wordnet, wordnet_synonyms
from storage.errors import UsageError


def test_meteor_by_hand() -> None:
    # "a red dog" against "a red cat sits": two words match in one run. P = 2/3, R = 2/4,
    # F = PR / (0.9 P + 0.1 R), penalty = 0.5 (1 run / 2 words)^3.
    precision, recall = 2 / 3, 2 / 4
    expected = precision * recall / (0.9 * precision + 0.1 * recall) * (1 - 0.5 * (1 / 2) ** 3)
    assert meteor("a red dog", ["a red cat sits"]) == pytest.approx(expected, abs=1e-12)


def test_released_meteor_weighs_what_the_right_one_does_not() -> None:
    precision, recall = 2 / 4, 2 / 3  # the truth is the hypothesis
    expected = precision * recall / (0.9 * precision + 0.1 * recall) * (1 - 0.5 * (1 / 2) ** 3)
    assert meteor_released("a red dog", ["a red cat sits"]) == pytest.approx(expected, abs=1e-12)
    assert meteor_released("a red dog", ["a red cat sits"]) == meteor("a red cat sits", ["a red dog"])


def test_meteor_takes_the_best_reference_and_none_for_nothing_said() -> None:
    assert meteor("a red dog", ["a tall building", "a red dog"]) == pytest.approx(1 - 0.5 / 27)
    assert meteor("", ["a red dog"]) == meteor("...", ["a red dog"]) == 0.0


def test_meteor_knows_stems_and_synonyms_without_a_download() -> None:
    # One word of one, in one run: 1 - 0.5. nltk looks for synonyms of stems, so that "automobile" has none.
    assert meteor("autos", ["car"]) == 0.5
    assert meteor("parking", ["parked"]) == 0.5
    assert meteor("cars", ["banana"]) == 0.0


def test_synonyms_are_found_through_irregular_forms() -> None:
    def words(word: str) -> set[str]:
        return {lemma.name() for synset in wordnet_synonyms().synsets(word) for lemma in synset.lemmas()}

    assert "goose" in words("geese")
    assert {"car", "auto", "automobile", "machine", "motorcar"} <= words("cars")
    assert "ran" not in words("ran")
    assert "run" in words("ran")
    assert words("zyxxy") == set()


def test_packed_wordnet_answers_as_nltks_reader_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a WordNet of six synsets; see `packed_wordnet` for all of WordNet 3.0."""
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Reader(WordNetCorpusReader):
        def map_wn(self, version: str = "wordnet") -> None:
            """Nothing to map to: there is no other WordNet here."""

    folder = tmp_path / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    _write_wordnet(folder)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.warns(UserWarning, match="multilingual functions are not available"):
        theirs = Reader(str(folder), None)
    ours = Synonyms(packed_wordnet(folder))
    for word in ("dog", "dogs", "hound", "Rex", "mice", "mouse", "run", "running", "ran", "near", "x"):
        expected, found = (
            {lemma.name() for synset in reader.synsets(word) for lemma in synset.lemmas()} for reader in (theirs, ours)
        )
        lower_single = {name for name in expected if "_" not in name and name == name.lower()}
        assert {name for name in found if name == name.lower()} == lower_single, word
    for stream in theirs._data_file_map.values():
        stream.close()


def _write_wordnet(folder: Path) -> None:
    synsets = {
        "noun": [("n", ["dog", "hound", "hot_dog"]), ("n", ["Rex"]), ("n", ["mouse", "Mickey"])],
        "verb": [("v", ["run", "go"])],
        "adj": [("a", ["near(ip)", "close"])],
        "adv": [("r", ["fast"])],
    }
    irregular = {"noun": "mice mouse\nhot_dogs hot_dog\n", "verb": "ran run\n", "adj": "", "adv": ""}
    for name, entries in synsets.items():
        data, index = "  1 the licence\n", dict[str, list[int]]()
        for pos, words in entries:
            offset = len(data)
            listed = " ".join(f"{word} 0" for word in words)
            frames = " 00" if pos == "v" else ""
            data += f"{offset:08d} 03 {pos} {len(words):02x} {listed} 000{frames} | a gloss\n"
            for word in words:
                index.setdefault(word.split("(")[0].lower(), []).append(offset)
        (folder / f"data.{name}").write_text(data)
        pos = entries[0][0]
        lines = [
            f"{word} {pos} {len(at)} 0 {len(at)} 0 {' '.join(f'{o:08d}' for o in at)}" for word, at in index.items()
        ]
        (folder / f"index.{name}").write_text("  1 the licence\n" + "\n".join(sorted(lines)) + "\n")
        (folder / f"{name}.exc").write_text(irregular[name])
    (folder / "lexnames").write_text("".join(f"{place:02d}\tnoun.all\t1\n" for place in range(4)))
    (folder / "cntlist.rev").write_text("")


def test_cider_by_hand() -> None:
    """Two pictures, unigrams alone matter: ln 2 of weight for a word of one picture, none for one of both."""
    scores = cider_scores(["cat", "cat"], [["cat"], ["dog"]])
    # n-grams of one word give 1 for the first, those of two to four none: a mean of 1/4, times 10.
    assert scores == pytest.approx([2.5, 0.0])


def test_cider_punishes_another_length() -> None:
    scores = cider_scores(["cat on mat", "x"], [["cat on mat here now"], ["y"]])
    same = cider_scores(["cat on mat", "x"], [["cat on mat"], ["y"]])
    assert same[0] == pytest.approx(7.5)
    assert 0 < scores[0] < same[0] * math.exp(-(2**2) / (2 * 6.0**2))


def test_cider_equals_the_librarys_own_score_of_the_same_words() -> None:
    from pycocoevalcap.cider.cider import Cider

    said = ["a small dog on grass", "two men ride horses", "the red car"]
    truths = [["a little dog lies on grass", "dog"], ["two men riding horses"], ["a red car", "the car"]]
    mean, each = Cider().compute_score(dict(enumerate(truths)), {place: [text] for place, text in enumerate(said)})
    scores = cider_scores([text.upper() + "." for text in said], truths)
    assert scores == pytest.approx(each)
    assert scores.mean() == pytest.approx(mean)


def test_cider_of_nothing_is_nothing() -> None:
    assert cider_scores([], []).shape == (0,)


def test_words_are_those_of_the_treebank_without_punctuation() -> None:
    assert caption_words("Don't stop; the man's U.S. flag (red), -- 3.5 m!") == [
        *("do", "n't", "stop", "the", "man", "'s", "u.s.", "flag", "-lrb-", "red", "-rrb-", "3.5", "m")
    ]


def test_meteor_1_5_without_java_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="expected `java` on the path, found none; install it, or leave `meteor_1_5`"):
        meteor_1_5_scores(["a"], [["a"]])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_meteor_1_5_and_the_stanford_tokenizer_agree_with_ours() -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = [
        "A man's red (old) car, parked.",
        "two dogs don't run; they sit",
        "A woman in a white t-shirt, smiling!",
        "a [red] {old} car",
    ]
    listed = {place: [{"caption": text}] for place, text in enumerate(texts)}
    assert [found[0].split() for found in PTBTokenizer().tokenize(listed).values()] == [*map(caption_words, texts)]
    score, scores = meteor_1_5_scores(["a red car", ""], [["a red car", "red car"], ["a dog"]])
    assert scores == pytest.approx(np.array([1.0, 0.0]))
    assert 0 < score < 1
