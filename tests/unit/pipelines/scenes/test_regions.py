"""Texts about objects that are pointed at are true and can't be answered without looking there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from pipelines.scenes import DrawnScene
from pipelines.scenes.chance import Chance
from pipelines.scenes.meaning import SceneMeaning
from pipelines.scenes.regions import choice_question, describe_region, visual_text
from pipelines.scenes.world import Scene

Denoted = Callable[[str, Scene], set[int]]


def test_descriptions_hold(scenes: list[DrawnScene], denoted: Denoted) -> None:
    num_places = num_objects = 0
    for drawn in scenes:
        meaning, chance = SceneMeaning(drawn.scene), Chance("describe", drawn.scene.index)
        for number, item in enumerate(drawn.scene.objects):
            text = describe_region(meaning, chance, number)
            num_objects += 1
            num_places += "," in text
            looks = text.split(",")[0]
            assert looks == f"a {item.size} {item.texture} {item.colour} {item.shape}"
            assert number in denoted(text.removeprefix("a "), drawn.scene)
    assert num_places / num_objects > 0.9


def test_choice_questions_have_four_options_and_one_right_one(scenes: list[DrawnScene]) -> None:
    kinds: Counter[str] = Counter()
    letters: Counter[str] = Counter()
    for drawn in scenes:
        meaning, chance = SceneMeaning(drawn.scene), Chance("choice", drawn.scene.index)
        for number, item in enumerate(drawn.scene.objects):
            question = choice_question(meaning, chance, number)
            stem, *lines = question.question.split("\n")
            options = [line.removeprefix(f"{letter}. ") for letter, line in zip("ABCD", lines, strict=True)]
            assert question.number == number
            assert stem.count("<region1>") == 1
            assert len(set(options)) == 4
            found = re.search("colour|shape|texture|part", stem)
            assert found is not None
            kinds[found[0]] += 1
            letters["ABCD"[options.index(question.answer)]] += 1
            place = f"{'top' if item.y < 0.5 else 'bottom'} {'left' if item.x < 0.5 else 'right'}"
            truth = {"colour": item.colour, "shape": item.shape, "texture": item.texture, "part": place}
            assert question.answer == truth[found[0]]
    assert min(kinds.values()) > 150
    assert min(letters.values()) / letters.total() > 0.2


def test_visual_text_answers_are_what_the_question_asks_for(scenes: list[DrawnScene]) -> None:
    num_checked = num_several = 0
    for drawn in scenes:
        meaning, chance = SceneMeaning(drawn.scene), Chance("visual", drawn.scene.index)
        for _ in range(9):
            item = visual_text(meaning, chance)
            if item is None:
                continue
            num_checked += 1
            asked = re.findall("<region[0-9]+>", item.question)
            answered = re.findall("<region[0-9]+>", item.answer)
            assert asked + answered == list(item.tags) == [f"<region{n}>" for n in range(1, len(item.tags) + 1)]
            assert len(set(item.tags.values())) == len(item.tags)
            targets = [item.tags[tag] for tag in answered]
            assert set(targets) == _asked_for(item.question, [item.tags[tag] for tag in asked], drawn.scene)
            num_several += len(targets) > 1
            assert [drawn.scene.objects[n].x for n in targets] == sorted(drawn.scene.objects[n].x for n in targets)
    assert num_checked > 800
    assert 0.02 < num_several / num_checked < 0.3


def _asked_for(question: str, prompts: list[int], scene: Scene) -> set[int]:
    objects = scene.objects
    others = set(range(len(objects))) - set(prompts)
    first = objects[prompts[0]]
    if "of the same colour" in question:
        return {number for number in others if objects[number].colour == first.colour}
    if "of the same shape" in question:
        return {number for number in others if objects[number].shape == first.shape}
    if "with the colour of" in question:
        second = objects[prompts[1]]
        return {n for n in others if (objects[n].colour, objects[n].shape) == (first.colour, second.shape)}
    found = re.fullmatch(r"segment the (\w+) (left of|right of|above|below) <region1>", question)
    assert found is not None, question
    axis, sign = {"left of": ("x", -1), "right of": ("x", 1), "above": ("y", -1), "below": ("y", 1)}[found[2]]
    edge = sign * getattr(first, axis) + 0.06
    return {
        number
        for number in others
        if found[1] in ("object", objects[number].shape) and sign * getattr(objects[number], axis) > edge
    }
