"""The teachers that recipes can name; a new one is a module plus a line here and in the contract tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import Field

from storage.errors import UnknownKind
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.sam2 import Sam2TeacherConfig

__all__ = ["TEACHERS", "TeacherConfig", "parse_teacher"]

TeacherConfig: TypeAlias = Annotated[Mask2FormerTeacherConfig | Sam2TeacherConfig, Field(discriminator="kind")]
"""Any teacher, told apart by `kind`."""

TEACHERS: dict[str, type[Mask2FormerTeacherConfig] | type[Sam2TeacherConfig]] = {
    "mask2former": Mask2FormerTeacherConfig,
    "sam2": Sam2TeacherConfig,
}
"""Configuration class by `kind`."""


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
