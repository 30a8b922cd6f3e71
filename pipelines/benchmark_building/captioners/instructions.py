"""What a model is asked for each task, and how its reply is read."""

from __future__ import annotations

import json
import re
from typing import TypeVar

from pydantic import Field, ValidationError

from pipelines.benchmark_building.captioners.base import DraftError, DraftRequest
from pipelines.benchmark_building.records import BenchmarkTask, Record, Texts
from storage.schema import Mask

__all__ = ["SYSTEM", "instruction", "marked_regions", "read_reply"]

SYSTEM = (
    "You write items for a benchmark that examines how well a model understands regions of pictures. "
    "You are exact, say only what is seen in the picture, and answer with one JSON object and nothing else."
)
_SHOWN_BYTES = 200

_REGION = "The region that is meant is outlined in the picture. The outline is not part of the scene: never mention it."
_CAPTION = (
    f"{_REGION} Describe the object in it in 30 to 80 words: what it is, colours, material, parts, what it does, "
    'how it lies to its surroundings. Reply as {"caption": "..."}.'
)
_CHOICE = (
    f"{_REGION} Write a multiple-choice question on it that can only be answered by looking closely. Call it <region1> "
    "in the question, exactly so. Give NUM short options without letters, of which exactly one is right; no option may "
    "contain another one, and the question must not give the answer away. "
    'Reply as {"question": "... <region1> ...?", "options": ["...", ...], "right": 0}, where right counts from 0.'
)
_EXPRESSION = (
    "Two regions are outlined: 1 is given, 2 is to be found. The outlines are not part of the scene: never mention "
    "them. Write an expression that leads from region 1, called exactly <region1>, to region 2, and to no other object "
    'of the picture, such as "the cup that the man at <region1> holds". Don\'t call region 2 by a number. '
    'Reply as {"expression": "..."}.'
)


class _Caption(Record):
    caption: str


class _Choice(Record):
    question: str
    options: tuple[str, ...] = Field(min_length=1)
    right: int


class _Expression(Record):
    expression: str


_ReplyT = TypeVar("_ReplyT", bound=Record)


def instruction(request: DraftRequest) -> str:
    """What is asked for a request; the category is told where the corpus knows it."""
    text = {
        BenchmarkTask.DETAILED_CAPTION: _CAPTION,
        BenchmarkTask.MULTIPLE_CHOICE: _CHOICE.replace("NUM", str(request.num_options)),
        BenchmarkTask.VISUAL_TEXT_REFERRING: _EXPRESSION,
    }[request.task]
    if request.subject.category is not None:
        which = "Region 2" if request.task is BenchmarkTask.VISUAL_TEXT_REFERRING else "The region"
        text += f" {which} is annotated as: {request.subject.category}."
    return text


def marked_regions(request: DraftRequest) -> list[Mask]:
    """Masks that are outlined for the model, in the order of their numbers."""
    picture = request.candidate.picture
    return [picture.regions[place].mask for place in (*request.candidate.prompts, *request.candidate.targets)]


def read_reply(request: DraftRequest, reply: str) -> Texts:
    """The draft in a model's reply: the first JSON object in it, whatever stands around.

    Raises:
        DraftError: no such object, or one of another form.
    """
    if request.task is BenchmarkTask.DETAILED_CAPTION:
        return Texts(caption=_parsed(_Caption, reply).caption)
    if request.task is BenchmarkTask.MULTIPLE_CHOICE:
        choice = _parsed(_Choice, reply)
        return Texts(question=choice.question, options=choice.options, right=choice.right)
    return Texts(question=_parsed(_Expression, reply).expression, answer="It is [SEG].")


def _parsed(model: type[_ReplyT], reply: str) -> _ReplyT:
    expected = ", ".join(model.model_fields)
    for match in re.finditer(r"\{", reply):
        try:
            value, _ = json.JSONDecoder().raw_decode(reply, match.start())
            return model.model_validate(value)
        except json.JSONDecodeError:
            continue
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise DraftError(f"reply: {where}: {first['msg']}; expected {expected}, got {_shown(reply)}") from error
    raise DraftError(f"reply: expected one JSON object with {expected}, got {_shown(reply)}")


def _shown(reply: str) -> str:
    return ascii(reply if len(reply) <= _SHOWN_BYTES else reply[:_SHOWN_BYTES] + "...")
