"""What `sailloft doctor` says of the sources of a recipe."""

from __future__ import annotations

import json
from dataclasses import asdict

from jobs.config import Recipe
from pipelines.curation.examination import SourceExamination, examine_sources
from pipelines.curation.families.base import NOT_STATED
from pipelines.progress import Progress
from storage.errors import UsageError

__all__ = ["examination_json", "examination_text", "examine"]


def examine(recipe: Recipe, num_pictures: int, progress: Progress) -> tuple[SourceExamination, ...]:
    """Looks at the sources of a recipe.

    Raises:
        UsageError: the recipe draws its own scenes, or a source has no root.
    """
    if recipe.scenes is not None and recipe.curation.root is None:
        raise UsageError(f"recipe {recipe.name} draws its own scenes: there are no sources that could be missing")
    return examine_sources(recipe.curation, num_pictures, progress)


def examination_text(found: tuple[SourceExamination, ...]) -> str:
    """What was seen, in lines: a line per source, and what is missing with the expected layout below it."""
    lines: list[str] = []
    for source in found:
        seen = f"{len(source.files)} source files, {source.num_records} records read"
        pictures = f"{source.num_pictures - source.num_missing} of {source.num_pictures} pictures there"
        state = "MISSING" if source.findings else "ok"
        lines.append(f"{state:8} sources[{source.place}] {source.kind}: {seen}, {pictures}")
        for reason, number in sorted(source.rejects.items(), key=lambda item: (-item[1], item[0])):
            lines.append(f"           {number} of the records read give no sample: {reason}")
        for finding in source.findings:
            lines.append(f"           {finding.name}: {finding.problem}")
            lines.append(f"             {finding.remedy}")
        if source.findings:
            expected = ", ".join(source.files) or "a folder of files"
            lines.append(f"           expected under {source.root}: {expected}")
            published = source.published
            if published.url != NOT_STATED:
                lines.append(
                    f"           published at {published.url} (licence: {published.licence}; size: {published.size})"
                )
    return "\n".join(lines)


def examination_json(found: tuple[SourceExamination, ...]) -> str:
    """The same as one JSON list."""
    return json.dumps([asdict(source) for source in found], indent=1)
