"""The teachers that recipes can name; a new one is a module plus a line here and in the contract tests.

Teachers of other distributions join through entry points (`teachers/plugins.py`), without a line here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, TypeAlias, cast

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from storage.errors import UnknownKind, UsageError
from storage.plugins import distribution_name
from storage.recipe import NodeError
from teachers.base import BaseTeacherConfig
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.plugins import PLUGINS
from teachers.radio import RadioTeacherConfig
from teachers.sam2 import Sam2TeacherConfig

__all__ = ["TEACHERS", "TeacherCard", "TeacherConfig", "known_kinds", "parse_teacher", "teacher_card", "teacher_class"]

logger = logging.getLogger(__name__)

TEACHERS: dict[str, type[BaseTeacherConfig]] = {
    "mask2former": Mask2FormerTeacherConfig,
    "radio": RadioTeacherConfig,
    "sam2": Sam2TeacherConfig,
}
"""Configuration class of the built-in teachers by `kind`."""


@dataclass(frozen=True, slots=True)
class TeacherCard:
    """What plans and stores need to know of a teacher's weights."""

    fingerprint: str
    num_channels: int


def known_kinds() -> list[str]:
    """Kinds of all teachers, built in or installed."""
    return sorted({*TEACHERS, *PLUGINS.points()})


def teacher_class(kind: str) -> type[BaseTeacherConfig]:
    """The configuration class of a kind. A built-in teacher is never replaced by a plugin of its name.

    Raises:
        UnknownKind: no teacher of that kind.
        UsageError: it comes from a distribution that is broken, or from several.
    """
    found = PLUGINS.points().get(kind, [])
    if kind in TEACHERS:
        for point in found:
            _note_shadowed(kind, distribution_name(point))
        return TEACHERS[kind]
    if not found:
        raise UnknownKind("teacher", kind, known_kinds())
    return PLUGINS.load(found)


@lru_cache  # once per process
def _note_shadowed(kind: str, distribution: str) -> None:
    logger.warning("teacher %s of %s isn't used: the built-in one goes first", kind, distribution)


def parse_teacher(fields: Mapping[str, object]) -> BaseTeacherConfig:
    """A teacher's configuration from plain data such as a recipe or a manifest.

    Raises:
        UnknownKind: no teacher of that `kind`, or no `kind`.
        UsageError: the teacher comes from a distribution that is broken.
        pydantic.ValidationError: a field that the teacher doesn't know or can't use.

    >>> parse_teacher({"kind": "sam2", "image_size_px": 256}).image_size_px
    256
    """
    kind = fields.get("kind")
    if not isinstance(kind, str):
        raise UnknownKind("teacher", str(kind), known_kinds())
    return teacher_class(kind).model_validate(fields)


def _from_fields(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    fields = cast("Mapping[str, object]", value)
    try:
        return parse_teacher(fields)
    except ValidationError as error:
        raise NodeError(teacher_class(str(fields["kind"])), error) from error


TeacherConfig: TypeAlias = Annotated[SerializeAsAny[BaseTeacherConfig], BeforeValidator(_from_fields)]
"""Any teacher, told apart by `kind` when a recipe is read, plugins included."""


def teacher_card(config: BaseTeacherConfig) -> TeacherCard:
    """Reads the weights, once per process and on the CPU, and says what they are.

    Raises:
        UsageError: its dtype is `auto`, which only a device decides (`teachers.device.on_device`).
        DataError: the checkpoint lacks weights of the feature network.
        OSError: no checkpoint under that path or name.
    """
    if config.dtype == "auto":
        raise UsageError(
            f"teacher {config.kind}: its fingerprint names the real dtype, got auto; "
            "resolve it for the device first (teachers.device.on_device), or set dtype"
        )
    return _card_of(config.model_dump_json(exclude={"compile", "node_resource"}))


@lru_cache(maxsize=16)
def _card_of(config: str) -> TeacherCard:
    teacher = parse_teacher(json.loads(config)).build("cpu")
    return TeacherCard(teacher.fingerprint, teacher.num_channels)
