"""Teachers of other distributions, found by the entry point group `sailloft.teachers`.

The name of an entry point is the teacher's `kind`, its value the configuration class. Nothing of a
plugin is imported before a recipe names its kind.
"""

from __future__ import annotations

import typing
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from storage.errors import UsageError
from teachers.base import BaseTeacherConfig

__all__ = ["GROUP", "load_plugin", "plugins"]

GROUP = "sailloft.teachers"
"""The entry point group."""


@runtime_checkable
class EntryPoint(Protocol):
    """As `importlib.metadata` has it; its backport, where some library brings it, has a class of its own."""

    @property
    def name(self) -> str: ...

    @property
    def value(self) -> str: ...

    def load(self) -> Any: ...


def plugins() -> dict[str, list[EntryPoint]]:
    """All entry points of the group by kind; more than one for a kind is a conflict that its user has to solve."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def load_plugin(points: list[EntryPoint]) -> type[BaseTeacherConfig]:
    """The configuration class behind a kind.

    Args:
        points: the entry points of that kind.

    Raises:
        UsageError: several distributions claim the kind, or the one that does is broken; the message names them.
    """
    if len({(point.value, distribution_name(point)) for point in points}) > 1:
        claims = ", ".join(sorted(distribution_name(point) for point in points))
        raise UsageError(f"teacher {points[0].name}: offered by {claims}; uninstall all but one of them")
    point = points[0]
    where = f"teacher {point.name} of the distribution {distribution_name(point)} ({point.value})"
    try:
        loaded: object = point.load()
    except Exception as error:  # whatever somebody else's module raises, its user has to hear whose it is
        raise UsageError(
            f"{where} can't be imported: {type(error).__name__}: {error}; upgrade or uninstall that distribution"
        ) from error
    if not isinstance(loaded, type) or not issubclass(loaded, BaseTeacherConfig):
        raise UsageError(f"{where}: expected a subclass of teachers.base.BaseTeacherConfig, got {loaded!r:.200}")
    names = typing.get_args(loaded.model_fields["kind"].annotation)
    if names != (point.name,) or loaded.model_fields["kind"].default != point.name:
        raise UsageError(
            f'{where}: expected its class to have the field kind: Literal["{point.name}"] = "{point.name}", as its '
            f"entry point is named, got {names or 'any text'}; rename one of them"
        )
    return loaded


def distribution_name(point: EntryPoint) -> str:
    """Name and version of the distribution that an entry point comes from."""
    dist: Any = getattr(point, "dist", None)
    return "unknown" if dist is None else f"{dist.name} {dist.version}"
