"""The teachers that recipes can name; a new one is a module plus a line here and in the contract tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, TypeAlias

from pydantic import Field

from storage.errors import UnknownKind
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.sam2 import Sam2TeacherConfig

__all__ = ["TEACHERS", "TeacherCard", "TeacherConfig", "parse_teacher", "teacher_card"]

TeacherConfig: TypeAlias = Annotated[Mask2FormerTeacherConfig | Sam2TeacherConfig, Field(discriminator="kind")]
"""Any teacher, told apart by `kind`."""

TEACHERS: dict[str, type[Mask2FormerTeacherConfig] | type[Sam2TeacherConfig]] = {
    "mask2former": Mask2FormerTeacherConfig,
    "sam2": Sam2TeacherConfig,
}
"""Configuration class by `kind`."""


@dataclass(frozen=True, slots=True)
class TeacherCard:
    """What plans and stores need to know of a teacher's weights."""

    fingerprint: str
    num_channels: int


def teacher_card(config: Mask2FormerTeacherConfig | Sam2TeacherConfig) -> TeacherCard:
    """Reads the weights, once per process and on the CPU, and says what they are.

    Raises:
        DataError: the checkpoint lacks weights of the feature network.
        OSError: no checkpoint under that path or name.
    """
    return _card_of(config.model_dump_json())


@lru_cache(maxsize=16)
def _card_of(config: str) -> TeacherCard:
    teacher = parse_teacher(json.loads(config)).build("cpu")
    return TeacherCard(teacher.fingerprint, teacher.num_channels)


def parse_teacher(fields: Mapping[str, object]) -> Mask2FormerTeacherConfig | Sam2TeacherConfig:
    """A teacher's configuration from plain data such as a recipe or a manifest.

    Raises:
        UnknownKind: no teacher of that `kind`, or no `kind`.
        pydantic.ValidationError: a field that the teacher doesn't know or can't use.

    >>> parse_teacher({"kind": "sam2", "image_size_px": 256}).image_size_px
    256
    """
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in TEACHERS:
        raise UnknownKind("teacher", str(kind), TEACHERS)
    return TEACHERS[kind].model_validate(fields)
