"""Facts of students that nobody trained, to register in tests, and what a registry's log must look like."""

from __future__ import annotations

from collections.abc import Sequence

from storage.registry_records import (
    CHALLENGER,
    CHAMPION,
    Comparison,
    Event,
    Figure,
    Happening,
    StoredOutput,
    VersionFacts,
)
from storage.stage_notes import CodeVersion

__all__ = ["check_history", "comparison_with", "student_facts"]


def student_facts(
    name: str, parent: int | None = None, retrain_key: str | None = None, folder: str = "memory://students"
) -> VersionFacts:
    """A student with a checkpoint of that key, below a folder."""
    return VersionFacts(
        checkpoint=StoredOutput(key=name, url=f"{folder}/train/{name}"),
        corpora=(StoredOutput(key="corpus", url="memory://students/curate/corpus"),),
        features={"sam2": StoredOutput(key="features", url="memory://students/features/store")},
        recipe="name: tests\n",
        recipe_key="recipe",
        code=CodeVersion("0.1.0", None, None, "sources"),
        parent=parent,
        retrain_key=retrain_key,
    )


def comparison_with(champion: int) -> Comparison:
    """A comparison with a champion."""
    figure = Figure(
        role="decides",
        benchmark="referring",
        variant="standard",
        metric="cIoU",
        champion=0.5,
        challenger=0.625,
        low=0.03,
        high=0.2,
        num_samples=40,
        num_images=10,
    )
    scores = [StoredOutput(key=name, url=f"memory://students/evaluate/{name}") for name in ("before", "after")]
    return Comparison(champion=champion, champion_scores=scores[0], challenger_scores=scores[1], figures=(figure,))


def check_history(events: Sequence[Event]) -> None:
    """Each event follows from the one before it: numbers without gaps, aliases changed by what happened alone."""
    aliases: dict[str, int] = {}
    num_versions = 0
    for number, event in enumerate(events, start=1):
        assert event.number == number
        if event.happening is Happening.REGISTERED:
            num_versions += 1
            assert event.version == num_versions
            aliases[CHALLENGER] = event.version
        elif event.happening is not Happening.REFUSED:
            assert aliases.get(CHAMPION) != event.version
            if event.comparison is not None:
                assert aliases.get(CHAMPION) == event.comparison.champion
            aliases[CHAMPION] = event.version
            if event.happening is Happening.PROMOTED and aliases.get(CHALLENGER) == event.version:
                del aliases[CHALLENGER]
        else:
            assert event.comparison is not None
            assert aliases[CHAMPION] == event.comparison.champion
        assert (event.num_versions, event.aliases) == (num_versions, aliases)
