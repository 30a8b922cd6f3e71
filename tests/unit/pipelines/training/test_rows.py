"""Facts as conversations: turns, prompts and mask targets."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.training.mixture import RowSource
from pipelines.training.rows import Conversation, draw_conversation, target_masks
from storage.errors import DataError
from storage.masks import encode_mask
from storage.schema import PromptKind, Region, Sample, Task, Turn, VisualPrompt

SIZE = (12, 10)


def region(y0: int, y1: int, x0: int, x1: int) -> Region:
    bitmap = np.zeros(SIZE, np.bool_)
    bitmap[y0:y1, x0:x1] = True
    return Region(mask=encode_mask(bitmap))


TOP, LEFT, SMALL = region(0, 4, 0, 10), region(0, 12, 0, 3), region(10, 12, 8, 10)


def sample(name: str, task: Task, *turns: Turn, prompts: int = 0) -> Sample:
    return Sample(
        sample_id=name,
        image_id="i",
        family="toy",
        task=task,
        split="train",
        regions=(TOP, LEFT, SMALL),
        prompts=tuple(VisualPrompt(kind=PromptKind.MASK, region=number) for number in range(prompts)),
        turns=turns,
        source_file="f",
        locator=name,
    )


def described(name: str, prompts: int = 1) -> Sample:
    return sample(name, Task.DESCRIPTION, Turn(text="", answer="<region1>: it"), prompts=prompts)


def draw(*samples: Sample, turns: int = 1, seed: int = 0, tokens: int = 8, absent: float = 0.0) -> Conversation:
    source = RowSource("i", samples, turns, 1.0)
    return draw_conversation(source, SIZE, tokens, absent, "short", np.random.default_rng(seed))


def masks_of(conversation: Conversation) -> NDArray[np.uint8]:
    (masks,) = target_masks([conversation])
    return masks


def test_masks_of_several_conversations_are_those_of_each() -> None:
    several = [draw(sample("s", Task.REFERRING, Turn(text="", targets=(of,))), seed=9) for of in ((0,), (), (1, 2))]
    for masks, conversation in zip(target_masks(several), several, strict=True):
        np.testing.assert_array_equal(masks, masks_of(conversation))
    assert target_masks([]) == []


def test_target_is_the_union_of_its_regions() -> None:
    found = draw(sample("s", Task.REFERRING, Turn(text="corner", targets=((0, 1),))))
    expected = np.zeros(SIZE, np.uint8)
    expected[:4] = 1
    expected[:, :3] = 1
    np.testing.assert_array_equal(masks_of(found), expected[None])
    assert masks_of(found).dtype == np.uint8
    assert found.turns == (("corner", "[SEG]"),)
    assert found.sample_ids == ("s",)
    assert found.visual_prompts == ()


def test_no_target_is_an_empty_mask() -> None:
    found = draw(sample("s", Task.REFERRING, Turn(text="cow", targets=((),))))
    assert found.turns == (("cow", "No target [SEG]."),)
    assert masks_of(found).shape == (1, *SIZE)
    assert not masks_of(found).any()


def test_masks_stand_in_the_order_of_the_answers() -> None:
    turns = (
        Turn(text="first?", answer="[SEG] and [SEG]", targets=((2,), (0,))),
        Turn(text="words?", answer="none"),
        Turn(text="second?", answer="[SEG]", targets=((1,),)),
    )
    found = draw(sample("s", Task.REASONING, *turns))
    assert [answer for _, answer in found.turns] == ["[SEG] and [SEG]", "none", "[SEG]"]
    assert masks_of(found).sum((1, 2)).tolist() == [4, 40, 36]


def test_turns_are_drawn_without_repeats_while_there_are_enough() -> None:
    pool = [sample(f"s{n}", Task.REFERRING, Turn(text=str(n), targets=((n % 3,),))) for n in range(6)]
    for seed in range(5):
        found = draw(*pool, turns=5, seed=seed)
        assert len(set(found.sample_ids)) == len(found.turns) == len(masks_of(found)) == 5
    few = draw(*pool[:2], turns=5)
    assert len(few.turns) == 5
    assert set(few.sample_ids) <= {"s0", "s1"}
    assert len({draw(*pool, turns=5, seed=seed).sample_ids for seed in range(5)}) > 1


def test_weights_decide_how_often_a_sample_is_drawn() -> None:
    pool = tuple(sample(f"s{n}", Task.REFERRING, Turn(text=str(n), targets=((n,),))) for n in range(3))
    drawn: Counter[str] = Counter()
    for seed in range(600):
        source = RowSource("i", pool, 2, 1.0, weights=(8.0, 1.0, 1.0))
        drawn.update(draw_conversation(source, SIZE, 8, 0.0, "short", np.random.default_rng(seed)).sample_ids)
    assert drawn["s0"] / 600 == pytest.approx(0.8 + 0.2 * 8 / 9, abs=0.03)
    assert drawn["s1"] / 600 == pytest.approx(drawn["s2"] / 600, abs=0.08)


def pointing(name: str, *regions: int) -> Sample:
    prompts = tuple(VisualPrompt(kind=PromptKind.MASK, region=number) for number in regions)
    return replace(described(name), prompts=prompts)


def test_turns_on_one_object_share_its_token() -> None:
    for seed in range(10):
        found = draw(pointing("a", 0), pointing("b", 1), pointing("c", 0), turns=3, seed=seed)
        assert len(found.visual_prompts) == 2
        asked = dict(zip(found.sample_ids, (question for question, _ in found.turns), strict=True))
        assert asked["a"] == asked["c"] != asked["b"]
    twice = draw(replace(pointing("a", 0, 0), turns=(Turn(text="<region1> <region2>?", answer="yes"),)))
    assert len(set(twice.turns[0][0].removesuffix("?").split())) == 2


def test_prompts_get_tokens_of_their_own() -> None:
    pool = [pointing(f"s{n}", n) for n in range(3)]
    for seed in range(10):
        found = draw(*pool, turns=3, seed=seed)
        numbers = [number for number, _ in found.visual_prompts]
        assert len(set(numbers)) == 3
        assert set(numbers) <= set(range(8))
        assert {q for q, _ in found.turns} == {f"describe <Prompt{number}>" for number in numbers}
        assert all(answer == question.split()[1] + ": it" for question, answer in found.turns)


def test_prompts_are_painted_from_the_largest_to_the_smallest() -> None:
    found = draw(replace(described("s", prompts=3), turns=(Turn(text="<region3> <region1>?", answer="<region2>"),)))
    assert [int(mask.sum()) for _, mask in found.visual_prompts] == [40, 36, 4]
    by_area = {int(mask.sum()): number for number, mask in found.visual_prompts}
    assert found.turns[0][1] == f"<Prompt{by_area[36]}>"


def test_an_absent_prompt_is_asked_for() -> None:
    for seed in range(20):
        found = draw(described("s"), seed=seed, absent=1.0)
        ((shown, _),) = found.visual_prompts
        (_, _), (question, answer) = found.turns
        asked = question.removeprefix("describe ")
        assert asked != f"<Prompt{shown}>"
        assert answer == f"{asked} is not in the image."


def test_an_absent_prompt_is_never_in_the_image() -> None:
    """Samples behind the question take none of the tokens that were asked for."""
    pool = [described(f"s{n}") for n in range(4)]
    for seed in range(60):
        found = draw(*pool, turns=4, seed=seed, tokens=9, absent=0.5)
        shown = {f"<Prompt{number}>" for number, _ in found.visual_prompts}
        absent = {answer.split()[0] for _, answer in found.turns if answer.endswith("is not in the image.")}
        assert not shown & absent


def test_no_prompt_no_question_for_an_absent_one() -> None:
    found = draw(sample("s", Task.REFERRING, Turn(text="corner", targets=((0,),))), absent=1.0)
    assert len(found.turns) == 1


def test_share_of_absent_prompts() -> None:
    extra = sum(len(draw(described("s"), seed=seed, absent=0.25).turns) - 1 for seed in range(160))
    assert extra == pytest.approx(40, abs=20)


def test_a_row_ends_when_its_prompt_tokens_do() -> None:
    pool = [pointing(f"s{n}", n) for n in range(3)]
    found = draw(*pool, turns=3, tokens=3)
    assert len(found.turns) == 2
    assert len(found.visual_prompts) == 2


def test_too_many_prompts_for_the_student() -> None:
    with pytest.raises(DataError, match=r"sample s: expected fewer than 3 visual prompts, got 3; raise student\.num_"):
        draw(described("s", prompts=3), tokens=3)


def test_wrong_number_of_mask_tokens_is_refused() -> None:
    with pytest.raises(DataError, match=r"sample s, turn 1: expected 1 \[SEG\] in the answer, got 2"):
        draw(
            sample(
                "s",
                Task.REASONING,
                Turn(text="a", answer="b"),
                Turn(text="q", answer="[SEG] [SEG]", targets=((0,),)),
            )
        )


def test_a_picture_alone_is_a_row_without_turns() -> None:
    found = draw(sample("s", Task.UNLABELLED), turns=0)
    assert found.turns == ()
    assert masks_of(found).shape == (0, *SIZE)


def test_same_generator_same_row() -> None:
    pool = [described(f"s{n}") for n in range(5)]
    first, again = (draw(*pool, turns=3, seed=4, absent=0.5) for _ in range(2))
    assert first.turns == again.turns
    np.testing.assert_array_equal(masks_of(first), masks_of(again))
