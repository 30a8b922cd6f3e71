"""Tensors of one official checkpoint: looked up by name, with what is missing and what stays unused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from storage.errors import DataError

__all__ = ["OfficialWeights"]


class OfficialWeights:
    """Named tensors of one file.

    Args:
        where: how messages name the file.
        tensors: by their official names.
    """

    def __init__(self, where: str, tensors: Mapping[str, Tensor]) -> None:
        self.where = where
        self._tensors = tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor that has to be there.

        Raises:
            DataError: it isn't there.
        """
        return tuple(self.require([name])[0].shape)

    def sides(self, name: str, num_sides: int) -> tuple[int, ...]:
        """Shape of a tensor that has to have so many dimensions.

        Raises:
            DataError: it isn't there, or has another number of dimensions or an empty one.
        """
        shape = self.shape(name)
        if len(shape) != num_sides or 0 in shape:
            raise DataError(f"{self.where}: {name}: expected {num_sides} dimensions with values, got shape {shape}")
        return shape

    def require(self, names: Iterable[str]) -> list[Tensor]:
        """Tensors that have to be there.

        Raises:
            DataError: some aren't.
        """
        wanted = list(names)
        if missing := [name for name in wanted if name not in self._tensors]:
            listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise DataError(
                f"{self.where}: {len(missing)} weights of the feature network are missing: {listed}; "
                "give a whole checkpoint of a supported network (docs/teachers.md)"
            )
        return [self._tensors[name] for name in wanted]

    def count(self, pattern: str) -> int:
        """How many of `pattern.format(0)`, `pattern.format(1)`, ... are there without a gap."""
        number = 0
        while pattern.format(number) in self._tensors:
            number += 1
        return number

    def unused(self, used: Iterable[str]) -> tuple[str, ...]:
        """Names of all tensors but these."""
        return tuple(sorted(self._tensors.keys() - set(used)))
