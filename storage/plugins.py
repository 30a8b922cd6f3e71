"""Classes of settings that other distributions offer through an entry point group.

The name of an entry point is the `kind` of what it offers, its value the class of the settings. Nothing of a plugin is
imported before somebody names its kind.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

from storage.errors import UsageError

__all__ = ["EntryPoint", "PluginGroup", "distribution_name"]

_Base = TypeVar("_Base", bound=BaseModel)


@runtime_checkable
class EntryPoint(Protocol):
    """As `importlib.metadata` has it; its backport, where some library brings it, has a class of its own."""

    @property
    def name(self) -> str: ...

    @property
    def value(self) -> str: ...

    def load(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class PluginGroup(Generic[_Base]):
    """What the entry points of one group offer.

    Attributes:
        name: of the group, such as `sailloft.teachers`.
        noun: what one of its kinds is called in messages, such as `teacher`.
        base: what every class of the group is derived from.
    """

    name: str
    noun: str
    base: type[_Base]

    def points(self) -> dict[str, list[EntryPoint]]:
        """All entry points by kind; more than one for a kind is a conflict that its user has to solve."""
        found: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.name):
            found.setdefault(point.name, []).append(point)
        return found

    def load(self, points: list[EntryPoint]) -> type[_Base]:
        """The class behind a kind.

        Args:
            points: the entry points of that kind.

        Raises:
            UsageError: several distributions claim the kind, or the one that does is broken; the message names them.
        """
        if len({(point.value, distribution_name(point)) for point in points}) > 1:
            claims = ", ".join(sorted(distribution_name(point) for point in points))
            raise UsageError(f"{self.noun} {points[0].name}: offered by {claims}; uninstall all but one of them")
        point = points[0]
        where = f"{self.noun} {point.name} of the distribution {distribution_name(point)} ({point.value})"
        try:
            loaded: object = point.load()
        except Exception as error:  # whatever somebody else's module raises, its user has to hear whose it is
            raise UsageError(
                f"{where} can't be imported: {type(error).__name__}: {error}; upgrade or uninstall that distribution"
            ) from error
        if not isinstance(loaded, type) or not issubclass(loaded, self.base):
            expected = f"{self.base.__module__}.{self.base.__name__}"
            raise UsageError(f"{where}: expected a subclass of {expected}, got {loaded!r:.200}")
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
