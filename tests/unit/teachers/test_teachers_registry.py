from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from storage.errors import UnknownKind
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.registry import TEACHERS, TeacherConfig, parse_teacher, teacher_card
from teachers.sam2 import Sam2TeacherConfig


def test_kind_decides_the_class() -> None:
    assert isinstance(parse_teacher({"kind": "mask2former"}), Mask2FormerTeacherConfig)
    assert isinstance(parse_teacher({"kind": "sam2", "image_size_px": 64}), Sam2TeacherConfig)


@pytest.mark.parametrize("fields", [{"kind": "radio9"}, {}, {"kind": 3}])
def test_unknown_kind_lists_the_known_ones(fields: dict[str, object]) -> None:
    with pytest.raises(UnknownKind, match=r"unknown teacher .*; known: mask2former, radio, sam2"):
        parse_teacher(fields)


def test_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="image_side"):
        parse_teacher({"kind": "sam2", "image_side": 64})


def test_a_recipe_node_takes_any_teacher() -> None:
    class Node(BaseModel):
        teachers: tuple[TeacherConfig, ...]

    node = Node.model_validate({"teachers": [{"kind": kind} for kind in TEACHERS]})
    assert [type(teacher) for teacher in node.teachers] == list(TEACHERS.values())


def test_card_says_what_the_built_teacher_says() -> None:
    config = Sam2TeacherConfig(image_size_px=64)
    teacher = config.build()
    card = teacher_card(config)
    assert (card.fingerprint, card.num_channels) == (teacher.fingerprint, teacher.num_channels)
    assert teacher_card(Sam2TeacherConfig(image_size_px=64)) is card
