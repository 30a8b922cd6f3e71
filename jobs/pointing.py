"""Regions on a command line: their order and their coordinates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typer.core import TyperCommand

from storage.errors import UsageError

__all__ = ["InOrder", "Pointed", "pointed_in_order"]

_ORDER = "sailloft.order"
_FORMS = {"box": "x0,y0,x1,y1", "point": "x,y", "scribble": "x,y;x,y;..."}
_EXAMPLES = {"box": "10,20,110,80", "point": "60,50", "scribble": "'10,20;60,50;110,20'"}


@dataclass(frozen=True, slots=True)
class Pointed:
    """One region as it was given: `kind` is the option's name, `value` its text."""

    kind: str
    value: str

    def __str__(self) -> str:
        return f"--{self.kind} {self.value}"

    def region(self) -> dict[str, object]:
        """A box, point or scribble as `model.regions.region_mask` takes it.

        Raises:
            UsageError: coordinates of another form.
        """
        if self.kind == "scribble":
            return {"scribble": [self._numbers(part, 2) for part in self.value.split(";") if part.strip()]}
        return {self.kind: self._numbers(self.value, 4 if self.kind == "box" else 2)}

    def _numbers(self, text: str, num: int) -> tuple[float, ...]:
        try:
            numbers = tuple(float(part) for part in text.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != num:
            raise UsageError(
                f"--{self.kind}: expected {_FORMS[self.kind]} in pixels, got {self.value!r}; write numbers with a "
                f"decimal point and without spaces, such as --{self.kind} {_EXAMPLES[self.kind]}"
            )
        return numbers


class InOrder(TyperCommand):
    """A command that remembers in which order its options were given, where click keeps but the order within each."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses once more beforehand, for the order alone."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[_ORDER] = [parameter.name for parameter in order]
        return super().parse_args(ctx, args)


def pointed_in_order(meta: Mapping[str, Any], given: Mapping[str, Sequence[str] | None]) -> list[Pointed]:
    """Regions in the order of the command line.

    Args:
        meta: `meta` of the context of an `InOrder` command.
        given: values by the option's name, in the order within each option.
    """
    order: Iterable[str] = meta[_ORDER]
    left: dict[str, Iterator[str]] = {kind: iter(values or ()) for kind, values in given.items()}
    return [Pointed(kind, next(left[kind])) for kind in order if kind in left]
