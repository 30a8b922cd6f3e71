"""What a captioner is: it is shown a picture and the regions that are meant, and writes an item's texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.benchmark_building.records import BenchmarkTask, Candidate, ObjectRegion, Texts
from storage.recipe import RecipeModel

__all__ = ["BaseCaptionerConfig", "Captioner", "DraftError", "DraftRequest"]


class DraftError(ValueError):
    """A captioner answered, but with nothing that can be read as a draft; it says why."""


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """What is to be drafted.

    Attributes:
        candidate: task and regions.
        pixels: uint8 RGB (height, width, 3).
        categories: all category names of the corpus, sorted; wrong options may come from them.
        num_options: of a multiple choice.
        seed: of whatever the captioner draws.
    """

    candidate: Candidate
    pixels: NDArray[np.uint8]
    categories: Sequence[str]
    num_options: int
    seed: int

    @property
    def task(self) -> BenchmarkTask:
        """Of the benchmark."""
        return self.candidate.task

    @property
    def subject(self) -> ObjectRegion:
        """The region that the item is about: what is described, asked about, or to be found."""
        places = self.candidate.targets or self.candidate.prompts
        return self.candidate.picture.regions[places[0]]

    @property
    def prompts(self) -> tuple[ObjectRegion, ...]:
        """The regions that are pointed at."""
        return tuple(self.candidate.picture.regions[place] for place in self.candidate.prompts)


class Captioner(Protocol):
    """Writes drafts. Several threads may ask at once if `is_concurrent`."""

    is_concurrent: bool

    def draft(self, request: DraftRequest) -> Texts:
        """The texts of one item.

        Raises:
            DraftError: what came back is no draft; the item is kept with that reason.
            SailloftError: the captioner can't be used; the build ends and can be continued.
        """
        ...


class BaseCaptionerConfig(RecipeModel, ABC):
    """Settings of a captioner; each adds its `kind`, by which the registry knows it."""

    VERSION: ClassVar[int] = 1
    """Raised whenever the same settings give other drafts; part of the address of drafts."""

    @abstractmethod
    def build(self) -> Captioner:
        """The captioner.

        Raises:
            UsageError: something that it needs isn't there.
        """

    @abstractmethod
    def description(self) -> str:
        """Name and version for people, such as `template, version 1`; never a secret."""
