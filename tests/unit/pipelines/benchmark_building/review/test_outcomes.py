"""Where items stand, and how far people agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.benchmark_building.records import Texts
from pipelines.benchmark_building.review.decisions import Decision, Verdict
from pipelines.benchmark_building.review.outcomes import State, agreement, cohens_kappa, outcome, outcomes

_DRAFT, _EDIT, _OTHER = (Texts(caption=text) for text in ("draft", "edit", "other edit"))
_BY_LETTER = {
    "a": (Verdict.ACCEPTED, _DRAFT),
    "e": (Verdict.EDITED, _EDIT),
    "f": (Verdict.EDITED, _OTHER),
    "r": (Verdict.REJECTED, None),
}


def decided(letters: str, item_id: str = "i") -> dict[str, Decision]:
    """Decisions of reviewers `0`, `1`, ... by letter: accepted, edited, edited otherwise, rejected."""
    return {
        str(number): Decision(
            reviewer=f"R{number}",
            number=0,
            item_id=item_id,
            verdict=_BY_LETTER[letter][0],
            texts=_BY_LETTER[letter][1],
            decided_at=f"2026-01-01T00:00:0{number}+00:00",
        )
        for number, letter in enumerate(letters)
    }


@pytest.mark.parametrize(
    ("letters", "state", "texts"),
    [
        ("", State.OPEN, None),
        ("a", State.OPEN, None),
        ("aa", State.ACCEPTED, _DRAFT),
        ("ee", State.ACCEPTED, _EDIT),
        ("rr", State.REJECTED, None),
        ("ar", State.DISPUTED, None),
        ("ae", State.DISPUTED, None),
        ("ef", State.DISPUTED, None),
        ("ara", State.ACCEPTED, _DRAFT),
        ("arr", State.REJECTED, None),
        ("aee", State.ACCEPTED, _EDIT),
        ("aer", State.DISPUTED, None),
        ("aera", State.ACCEPTED, _DRAFT),
    ],
)
def test_two_that_agree_settle_an_item_and_a_third_one_a_dispute(
    letters: str, state: State, texts: Texts | None
) -> None:
    found = outcome(decided(letters))
    assert (found.state, found.texts) == (state, texts)


def test_one_reviewer_may_be_enough() -> None:
    assert outcome(decided("e"), 1).texts == _EDIT
    assert outcome(decided("ar"), 1).state is State.DISPUTED
    assert outcome(decided("aar"), 3).state is State.DISPUTED


def test_items_nobody_decided_on_are_open_and_strange_ones_ignored() -> None:
    acts = {key: [decision] for key, decision in decided("aa").items()}
    found = outcomes(acts, ["i", "j"])
    assert {item: one.state for item, one in found.items()} == {"i": State.ACCEPTED, "j": State.OPEN}
    assert outcomes(acts, ["j"])["j"].decisions == {}


def test_agreement_of_two_people() -> None:
    letters = ["aa", "aa", "ae", "rr", "ar", "ef", "a"]
    found = agreement([outcome(decided(one, str(place))) for place, one in enumerate(letters)])
    assert found.num_pairs == 6
    assert found.equal_share == 3 / 6  # two edits with different texts are none
    assert found.num_reviewers == 2
    # By hand: labels aa aa ae rr ar ee; observed 4/6; expected (4*2 + 1*2 + 1*2) / 36.
    assert found.kappa == pytest.approx((4 / 6 - 12 / 36) / (1 - 12 / 36))


def test_a_third_look_is_not_counted() -> None:
    assert agreement([outcome(decided("ara"))]).equal_share == 0
    assert agreement([outcome(decided("a"))]).equal_share is None


@given(st.lists(st.tuples(st.sampled_from("aer"), st.sampled_from("aer")), min_size=1, max_size=30))
def test_kappa_is_symmetric_and_at_most_one(pairs: list[tuple[str, str]]) -> None:
    found = cohens_kappa(pairs)
    assert found == cohens_kappa([(second, first) for first, second in pairs])
    if found is None:
        assert len({label for pair in pairs for label in pair}) == 1
    else:
        assert found <= 1
        assert (found == 1) == all(first == second for first, second in pairs)
