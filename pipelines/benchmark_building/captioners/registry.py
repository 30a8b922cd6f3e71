"""The captioners that settings can name; a new one is a module plus a line here.

Captioners of other distributions join through the entry point group `sailloft.captioners`: the name of an entry point
is the captioner's `kind`, its value the class of its settings. None is imported before settings name its kind.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Annotated, TypeAlias, cast

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from pipelines.benchmark_building.captioners.base import BaseCaptionerConfig
from pipelines.benchmark_building.captioners.endpoint import EndpointCaptionerConfig
from pipelines.benchmark_building.captioners.local_model import LocalModelCaptionerConfig
from pipelines.benchmark_building.captioners.template import TemplateCaptionerConfig
from storage.errors import UnknownKind, UsageError
from storage.recipe import NodeError
from teachers.plugins import EntryPoint, distribution_name

__all__ = ["CAPTIONERS", "GROUP", "CaptionerConfig", "captioner_class", "known_kinds", "parse_captioner"]

GROUP = "sailloft.captioners"
"""The entry point group."""
CAPTIONERS: dict[str, type[BaseCaptionerConfig]] = {
    "endpoint": EndpointCaptionerConfig,
    "template": TemplateCaptionerConfig,
    "transformers": LocalModelCaptionerConfig,
}
"""Class of the settings of the built-in captioners by `kind`."""


def _plugins() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def known_kinds() -> list[str]:
    """Kinds of all captioners, built in or installed."""
    return sorted({*CAPTIONERS, *_plugins()})


def captioner_class(kind: str) -> type[BaseCaptionerConfig]:
    """The class of a kind's settings. A built-in captioner is never replaced by a plugin of its name.

    Raises:
        UnknownKind: no captioner of that kind.
        UsageError: it comes from a distribution that is broken, or from several.
    """
    if kind in CAPTIONERS:
        return CAPTIONERS[kind]
    points = _plugins().get(kind, [])
    if not points:
        raise UnknownKind("captioner", kind, known_kinds())
    if len({(point.value, distribution_name(point)) for point in points}) > 1:
        claims = ", ".join(sorted(distribution_name(point) for point in points))
        raise UsageError(f"captioner {kind}: offered by {claims}; uninstall all but one of them")
    return _loaded(points[0])


def _loaded(point: EntryPoint) -> type[BaseCaptionerConfig]:
    where = f"captioner {point.name} of the distribution {distribution_name(point)} ({point.value})"
    try:
        found: object = point.load()
    except Exception as error:  # whatever somebody else's module raises, its user has to hear whose it is
        raise UsageError(
            f"{where} can't be imported: {type(error).__name__}: {error}; upgrade or uninstall that distribution"
        ) from error
    if not isinstance(found, type) or not issubclass(found, BaseCaptionerConfig):
        raise UsageError(f"{where}: expected a subclass of BaseCaptionerConfig, got {found!r:.200}")
    names = typing.get_args(found.model_fields["kind"].annotation)
    if names != (point.name,):
        raise UsageError(
            f'{where}: expected its class to have the field kind: Literal["{point.name}"], as its entry point is '
            f"named, got {names or 'any text'}; rename one of them"
        )
    return found


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
