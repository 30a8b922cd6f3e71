"""Texts about objects that are pointed at: descriptions, multiple-choice questions, visual-text questions.

Tags: a visual prompt is written `<region1>`, `<region2>`, ... in a question. In a visual-text item
the tags go on counting in the answer, where each stands for one object that is asked for:
"segment the object of the same shape as <region1>" is answered with "<region2>". Nothing else in
these texts is in angle brackets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.scenes.chance import Chance
from pipelines.scenes.grammar import anchor_phrase, say, say_beside
from pipelines.scenes.meaning import DIRECTIONS, Phrase, SceneMeaning, numbers
from pipelines.scenes.world import COLOURS, SHAPES, TEXTURES

__all__ = [
    "ASK_COLOUR",
    "ASK_SHAPE",
    "ChoiceQuestion",
    "VisualText",
    "choice_question",
    "describe_region",
    "visual_text",
]

_TRIES = 12
_SEVERAL = 0.25
"""Share kept of the draws with several objects alike: the order of their masks is a matter of place."""
_LETTERS = "ABCD"
_CORNERS = ("top left", "top right", "bottom left", "bottom right")
ASK_COLOUR = "what is the colour of <region1>?"
ASK_SHAPE = "what is the shape of <region1>?"
_QUESTIONS = {
    "colour": ASK_COLOUR,
    "shape": ASK_SHAPE,
    "texture": "what is the texture of <region1>?",
    "position": "in which part of the picture is <region1>?",
}
_OPTIONS: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    # No object is checked: four options need a fourth word.
    "texture": (*TEXTURES, "checked"),
    "position": _CORNERS,
}


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """A question about one object with four options, one per line; the answer is the right option's text."""

    number: int
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class VisualText:
    """A question that points at objects and asks for others.

    Attributes:
        question: names every prompt's tag.
        answer: names the tag of every object that is asked for, from left to right.
        tags: number of the object in `Scene.objects` by tag, prompts first.
    """

    question: str
    answer: str
    tags: dict[str, int]


def describe_region(meaning: SceneMeaning, chance: Chance, number: int) -> str:
    """All looks of an object and, where one can be told plainly, its place beside another.

    Args:
        meaning: the scene.
        chance: the draws.
        number: which object.

    Returns:
        For instance "a small striped red ring, left of the blue square".
    """
    text = _with_article(say(meaning.looks(number)))
    for _ in range(_TRIES):
        anchor, direction = chance.below(len(meaning.scene.objects)), chance.choice(DIRECTIONS)
        if anchor == number or not meaning.beside(direction, anchor, 1 << number):
            continue
        phrase = anchor_phrase(meaning, chance, anchor)
        if phrase is not None:
            return f"{text}, {say_beside(direction, phrase, chance)}"
    return text


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def choice_question(meaning: SceneMeaning, chance: Chance, number: int) -> ChoiceQuestion:
    """A question on colour, shape, texture or part of the picture of one object."""
    item = meaning.scene.objects[number]
    answers = {"colour": item.colour, "shape": item.shape, "texture": item.texture}
    corner = _corner(meaning, number)
    if corner is not None:
        answers["position"] = corner
    kind = chance.choice(tuple(answers))
    answer = answers[kind]
    others = [option for option in _OPTIONS[kind] if option != answer]
    options = chance.sample([answer, *chance.sample(others, 3)], 4)
    lines = [f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=True)]
    return ChoiceQuestion(number, "\n".join([_QUESTIONS[kind], *lines]), answer)


def _corner(meaning: SceneMeaning, number: int) -> str | None:
    """The quarter of the picture that an object plainly lies in."""
    bit = 1 << number
    left, top = meaning.on_side("left", bit), meaning.on_side("above", bit)
    if left is None or top is None:
        return None
    return f"{'top' if top else 'bottom'} {'left' if left else 'right'}"


def visual_text(meaning: SceneMeaning, chance: Chance) -> VisualText | None:
    """Draws one visual-text question, or None if this draw came to nothing."""
    return chance.weighted(_DRAWS)(meaning, chance)


def _alike(meaning: SceneMeaning, chance: Chance) -> VisualText | None:
    """Objects that share a prompt's colour or shape."""
    prompt = chance.below(len(meaning.scene.objects))
    name = chance.choice(("colour", "shape"))
    word: str = getattr(meaning.scene.objects[prompt], name)
    targets = meaning.word(word) & ~(1 << prompt)
    if not targets or (targets.bit_count() > 1 and not chance.happens(_SEVERAL)):
        return None
    what = "the object" if targets.bit_count() == 1 else "all objects"
    return _item(meaning, f"segment {what} of the same {name} as <region1>", (prompt,), targets)


def _beside(meaning: SceneMeaning, chance: Chance) -> VisualText | None:
    """One object beside a prompt, among several that the noun fits."""
    prompt = chance.below(len(meaning.scene.objects))
    shape = chance.choice(meaning.scene.objects).shape if chance.happens(0.6) else None
    phrase = Phrase(shape=shape)
    direction = chance.choice(DIRECTIONS)
    among = meaning.phrase(phrase)
    targets = meaning.beside(direction, prompt, among)
    if targets is None or targets.bit_count() != 1 or targets == among:
        return None
    place = {"left": "left of", "right": "right of"}.get(direction, direction)
    return _item(meaning, f"segment the {say(phrase)} {place} <region1>", (prompt,), targets)


def _mixed(meaning: SceneMeaning, chance: Chance) -> VisualText | None:
    """The object with one prompt's colour and another prompt's shape."""
    first, second = chance.sample(range(len(meaning.scene.objects)), 2)
    objects = meaning.scene.objects
    targets = meaning.phrase(Phrase(colour=objects[first].colour, shape=objects[second].shape))
    if targets.bit_count() != 1 or targets & (1 << first | 1 << second):
        return None
    question = "segment the object with the colour of <region1> and the shape of <region2>"
    return _item(meaning, question, (first, second), targets)


def _item(meaning: SceneMeaning, question: str, prompts: tuple[int, ...], targets: int) -> VisualText:
    objects = meaning.scene.objects
    ordered = (*prompts, *sorted(numbers(targets), key=lambda number: (objects[number].x, number)))
    tags = {f"<region{place}>": number for place, number in enumerate(ordered, start=1)}
    named = list(tags)[len(prompts) :]
    answer = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    return VisualText(question, answer, tags)


_DRAWS: dict[Callable[[SceneMeaning, Chance], VisualText | None], float] = {_alike: 0.5, _beside: 0.25, _mixed: 0.25}
