"""The captioners that settings can name; a new one is a module plus a line here.

Captioners of other distributions join through the entry point group `sailloft.captioners`: the name of an entry point
is the captioner's `kind`, its value the class of its settings. None is imported before settings name its kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias, cast

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from pipelines.benchmark_building.captioners.base import BaseCaptionerConfig
from pipelines.benchmark_building.captioners.endpoint import EndpointCaptionerConfig
from pipelines.benchmark_building.captioners.local_model import LocalModelCaptionerConfig
from pipelines.benchmark_building.captioners.template import TemplateCaptionerConfig
from storage.errors import UnknownKind
from storage.plugins import PluginGroup
from storage.recipe import NodeError

__all__ = ["CAPTIONERS", "PLUGINS", "CaptionerConfig", "captioner_class", "known_kinds", "parse_captioner"]

PLUGINS = PluginGroup("sailloft.captioners", "captioner", BaseCaptionerConfig)
CAPTIONERS: dict[str, type[BaseCaptionerConfig]] = {
    "endpoint": EndpointCaptionerConfig,
    "template": TemplateCaptionerConfig,
    "transformers": LocalModelCaptionerConfig,
}
"""Class of the settings of the built-in captioners by `kind`."""


def known_kinds() -> list[str]:
    """Kinds of all captioners, built in or installed."""
    return sorted({*CAPTIONERS, *PLUGINS.points()})


def captioner_class(kind: str) -> type[BaseCaptionerConfig]:
    """The class of a kind's settings. A built-in captioner is never replaced by a plugin of its name.

    Raises:
        UnknownKind: no captioner of that kind.
        UsageError: it comes from a distribution that is broken, or from several.
    """
    if kind in CAPTIONERS:
        return CAPTIONERS[kind]
    points = PLUGINS.points().get(kind, [])
    if not points:
        raise UnknownKind("captioner", kind, known_kinds())
    return PLUGINS.load(points)


def parse_captioner(fields: Mapping[str, object]) -> BaseCaptionerConfig:
    """A captioner's settings from plain data.

    Raises:
        UnknownKind: no captioner of that `kind`, or no `kind`.
        UsageError: it comes from a distribution that is broken.
        pydantic.ValidationError: a field that it doesn't know or can't use.

    >>> parse_captioner({"kind": "template"}).description()
    'template, version 1'
    """
    kind = fields.get("kind")
    if not isinstance(kind, str):
        raise UnknownKind("captioner", str(kind), known_kinds())
    return captioner_class(kind).model_validate(fields)


def _from_fields(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    fields = cast("Mapping[str, object]", value)
    try:
        return parse_captioner(fields)
    except ValidationError as error:
        raise NodeError(captioner_class(str(fields["kind"])), error) from error


CaptionerConfig: TypeAlias = Annotated[SerializeAsAny[BaseCaptionerConfig], BeforeValidator(_from_fields)]
"""Any captioner, told apart by `kind` when settings are read, plugins included."""
