"""What the checks object to, code by code, and what they let pass."""

from __future__ import annotations

import pytest

from pipelines.benchmark_building.checks import Limits, Subject, check, normalised
from pipelines.benchmark_building.records import BenchmarkTask, Code, ObjectRegion, Texts
from pipelines.benchmark_building.regions import distinct_regions
from tests.object_corpora import HEIGHT_PX, OBJECTS, WIDTH_PX
from tests.small_corpora import box_region

_LONG = "A small red cup with a thin handle stands at the upper left of a wooden table."


def region(place: int) -> ObjectRegion:
    name, box, _ = OBJECTS[place]
    return distinct_regions([box_region(box, HEIGHT_PX, WIDTH_PX, name)])[0]


LEFT_CUP, RIGHT_CUP, DOG, TABLE = map(region, range(4))


def codes(task: BenchmarkTask, texts: Texts, limits: Limits | None = None) -> list[Code]:
    """What is found in texts on the left cup; of an expression, with the dog as the prompt."""
    subject = (
        Subject(task, (DOG,), (LEFT_CUP,), (RIGHT_CUP, TABLE))
        if task is BenchmarkTask.VISUAL_TEXT_REFERRING
        else Subject(task, (LEFT_CUP,), (), (RIGHT_CUP, DOG, TABLE))
    )
    return [finding.code for finding in check(subject, normalised(texts), limits or Limits())]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (_LONG, []),
        (" ... ", [Code.TEXT_EMPTY]),
        ("A red cup.", [Code.CAPTION_SHORT]),
        (" ".join(["word"] * 151), [Code.CAPTION_LONG]),
        (f"{_LONG} See <region1>.", [Code.PLACEHOLDERS]),
        (f"{_LONG} [SEG]", [Code.PLACEHOLDERS]),
        (f"{_LONG} It is outlined in yellow.", [Code.MENTIONS_DRAWING]),
        ("The highlighted cup.", [Code.CAPTION_SHORT, Code.MENTIONS_DRAWING]),
    ],
)
def test_captions(caption: str, expected: list[Code]) -> None:
    assert codes(BenchmarkTask.DETAILED_CAPTION, Texts(caption=caption)) == expected


def test_lengths_of_captions_are_settings() -> None:
    assert codes(BenchmarkTask.DETAILED_CAPTION, Texts(caption="A cup."), Limits(2, 3)) == []
    assert Limits.of({"min_caption_words": 3, "max_caption_words": 9}) == Limits(3, 9)
    assert Limits.of({}) == Limits()


@pytest.mark.parametrize(
    ("question", "options", "right", "expected"),
    [
        ("What is <region1>?", ("a cup", "a mug"), 0, []),
        ("What is <Region 1> ?", ("a cup", "a mug"), 1, []),
        ("What is it?", ("a cup", "a mug"), 0, [Code.PLACEHOLDERS]),
        ("What is <region1> beside <region2>?", ("a cup", "a mug"), 0, [Code.PLACEHOLDERS]),
        ("What is <region1>?", ("a cup", "<region1>"), 0, [Code.TEXT_EMPTY, Code.PLACEHOLDERS]),
        ("What is <region1>?", ("a cup",), 0, [Code.OPTIONS_COUNT, Code.FORMAT_UNSAFE]),
        ("What is <region1>?", ("a cup", "A cup."), 0, [Code.OPTIONS_REPEAT]),
        ("What is <region1>?", ("a cup", "a mug"), 2, [Code.RIGHT_OPTION]),
        ("What is <region1>?", ("a cup", "a mug"), -1, [Code.RIGHT_OPTION]),
        ("What is <region1>?", ("red", "dark red"), 0, [Code.OPTION_HOLDS_ANSWER]),
        ("What is <region1>?", ("red", "dark red"), 1, []),
        ("Which cup is <region1>, the red cup?", ("the red cup", "none"), 0, [Code.ANSWER_LEAKS]),
        ("What is <region1>?", ("a cup,", "a mug"), 0, [Code.FORMAT_UNSAFE]),
        ("Is vitamin A. in <region1>?", ("yes", "no"), 0, [Code.FORMAT_UNSAFE]),
        ("What is in the outline of <region1>?", ("a cup", "a mug"), 0, [Code.MENTIONS_DRAWING]),
        ("What is <region1>?", ("a cup", "[SEG]"), 0, [Code.TEXT_EMPTY, Code.PLACEHOLDERS]),
        ("<region1>?", ("a cup", " "), 0, [Code.TEXT_EMPTY, Code.TEXT_EMPTY, Code.FORMAT_UNSAFE]),
    ],
)
def test_multiple_choice(question: str, options: tuple[str, ...], right: int, expected: list[Code]) -> None:
    assert codes(BenchmarkTask.MULTIPLE_CHOICE, Texts(question=question, options=options, right=right)) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("the cup to the left of <region1>", []),
        ("Find the leftmost cup in the same picture as <region1>.", []),
        ("the smallest cup near <region1>", []),
        ("the cup near <region1>", [Code.NOT_UNIQUE]),
        ("the cup above <region1>", [Code.NOT_UNIQUE]),
        ("the cup right of <region1>", [Code.NAMES_ANOTHER]),
        ("the table below <region1>", [Code.NAMES_ANOTHER]),
        ("the cup from which the man at <region1> drinks", [Code.UNIQUENESS_UNCHECKED]),
        ("what <region1> looks at", [Code.UNIQUENESS_UNCHECKED]),
        ("the cup to the left of it", [Code.PLACEHOLDERS, Code.NOT_UNIQUE]),
        ("the cup to the left of <region1>, <region2>", [Code.PLACEHOLDERS]),
        ("the cup to the left of <region1> [SEG]", [Code.ANSWER_LEAKS]),
        ("the outlined cup to the left of <region1>", [Code.MENTIONS_DRAWING]),
        ("<region1>", [Code.TEXT_EMPTY]),
    ],
)
def test_expressions(expression: str, expected: list[Code]) -> None:
    texts = Texts(question=expression, answer="It is [SEG].")
    assert codes(BenchmarkTask.VISUAL_TEXT_REFERRING, texts) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("It is [SEG].", []),
        ("It is the cup.", [Code.PLACEHOLDERS]),
        ("[SEG] [SEG]", [Code.PLACEHOLDERS]),
        ("<region2> is [SEG]", [Code.PLACEHOLDERS]),
        ("<target1> is [SEG]", [Code.FORMAT_UNSAFE]),
    ],
)
def test_answers(answer: str, expected: list[Code]) -> None:
    texts = Texts(question="the cup to the left of <region1>", answer=answer)
    assert codes(BenchmarkTask.VISUAL_TEXT_REFERRING, texts) == expected


def test_a_prompt_on_the_target_shows_the_answer() -> None:
    subject = Subject(BenchmarkTask.VISUAL_TEXT_REFERRING, (LEFT_CUP,), (LEFT_CUP,), (DOG,))
    found = check(subject, Texts(question="the cup at <region1>", answer="[SEG]"), Limits())
    assert found[0].code is Code.ANSWER_LEAKS
    assert found[0].detail == "prompt: overlaps with the target by 100%, so it shows the answer"


def test_objects_without_a_category_are_left_to_people() -> None:
    bare = [ObjectRegion(one.mask, one.area_px, one.box_xyxy_px) for one in (LEFT_CUP, RIGHT_CUP, TABLE)]
    subject = Subject(BenchmarkTask.VISUAL_TEXT_REFERRING, (DOG,), (bare[0],), tuple(bare[1:]))
    found = check(subject, Texts(question="the cup left of <region1>", answer="[SEG]"), Limits())
    assert [finding.code for finding in found] == [Code.UNIQUENESS_UNCHECKED]


def test_texts_come_into_their_normal_form() -> None:
    texts = normalised(Texts(caption=" a\tcup\x00 ", question="Is\n< region 1 > red ?", options=(" a  b ",), right=3))
    assert texts == Texts(caption="a cup", question="Is <region1> red ?", options=("a b",), right=3)


def test_only_formal_findings_can_not_be_overruled() -> None:
    assert {code for code in Code if code.is_formal} == {
        *(Code.DRAFT_FAILED, Code.TEXT_EMPTY, Code.PLACEHOLDERS, Code.OPTIONS_COUNT, Code.OPTIONS_REPEAT),
        *(Code.RIGHT_OPTION, Code.FORMAT_UNSAFE),
    }
    assert [code for code in Code if code.is_note] == [Code.UNIQUENESS_UNCHECKED]
