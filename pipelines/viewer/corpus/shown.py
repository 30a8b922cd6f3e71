"""What the templates of a corpus show: plain values, made from samples and the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from storage.manifest import Manifest
from storage.schema import PromptKind, Sample, VisualPrompt

__all__ = ["Card", "Facts", "ShownTurn", "cards", "facts_of", "prompt_in_words", "turns_of"]

_LABEL_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Card:
    """One sample in a list."""

    sample_id: str
    family: str
    task: str
    split: str
    text: str
    answer: str
    num_more: int
    """Turns beside the first."""
    has_picture: bool
    is_without: bool
    """Whether the right answer to the first turn is that there is no target."""


@dataclass(frozen=True, slots=True)
class ShownTurn:
    """One exchange of a sample."""

    text: str
    answer: str | None
    options: tuple[str, ...]
    targets: tuple[str, ...]
    """Each `[SEG]` in words."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What stands above all pages of a corpus."""

    key: str
    num_samples: int
    num_images: int
    num_rejects: int
    leakage_gate: str


def cards(samples: Sequence[Sample]) -> list[Card]:
    """A card for each."""
    return [_card(sample) for sample in samples]


def _card(sample: Sample) -> Card:
    first = sample.turns[0] if sample.turns else None
    return Card(
        sample_id=sample.sample_id,
        family=sample.family,
        task=sample.task.value,
        split=sample.split,
        text="" if first is None else first.text,
        answer="" if first is None else first.answer or "",
        num_more=max(len(sample.turns) - 1, 0),
        has_picture=sample.image_id is not None,
        is_without=first is not None and () in first.targets,
    )


def turns_of(sample: Sample) -> list[ShownTurn]:
    """The turns, targets in words."""
    return [
        ShownTurn(turn.text, turn.answer, turn.options, tuple(_in_words(sample, target) for target in turn.targets))
        for turn in sample.turns
    ]


def _in_words(sample: Sample, target: Sequence[int]) -> str:
    if not target:
        return "no target"
    names = [sample.regions[place].category or f"region {place + 1}" for place in target]
    return names[0] if len(names) == 1 else f"{len(names)} regions: {', '.join(names)}"


def prompt_in_words(prompt: VisualPrompt) -> str:
    """How a region is pointed at."""
    if prompt.kind is PromptKind.BOX and prompt.box_xyxy_px is not None:
        return f"box {', '.join(f'{side:g}' for side in prompt.box_xyxy_px)}"
    if prompt.points_xy_px:
        return f"{prompt.kind.value}, {len(prompt.points_xy_px)} points"
    return prompt.kind.value


def facts_of(manifest: Manifest) -> Facts:
    """What the manifest tells of the whole corpus."""
    facts = cast("Mapping[str, object]", manifest.facts)
    num_samples, num_images, num_rejects = (
        int(str(facts.get(name, 0))) for name in ("num_samples", "num_images", "num_rejects")
    )
    return Facts(
        manifest.key[:_LABEL_DIGITS], num_samples, num_images, num_rejects, str(facts.get("leakage_gate", "unknown"))
    )
