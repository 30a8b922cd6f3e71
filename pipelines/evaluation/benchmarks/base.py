"""What the benchmarks share: choice of samples, truths, prompts as masks, and pairing of objects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from pipelines.evaluation.metrics.estimates import Ratio
from pipelines.evaluation.metrics.res import overlap
from pipelines.evaluation.records import Answered, Prediction, Question, Truth, Variant, Wording
from storage.errors import DataError
from storage.masks import encode_mask, union
from storage.prompts import prompt_mask
from storage.recipe import RecipeModel
from storage.schema import Mask, PromptKind, Region, Sample, Task, VisualPrompt

__all__ = [
    "BenchmarkConfig",
    "Unit",
    "answer_mask",
    "ask",
    "following",
    "mean_score",
    "plain_words",
    "prompt_masks",
    "same_objects",
    "truth_of",
    "units_by_image",
    "with_regions",
]


class BenchmarkConfig(RecipeModel):
    """Which samples a benchmark asks about."""

    name: str | None = None
    """Name in tables; the kind, if None. Two benchmarks of one recipe need different names."""
    families: tuple[str, ...] | None = None
    """Families of the corpus; all, if None."""
    splits: tuple[str, ...] | None = None
    """Splits, in the sources' own words; all, if None."""
    max_images: int | None = None
    """Ask about no more than this many pictures: those with the smallest hashes. All, if None."""
    published: tuple[str, str] | None = Field(default=None, json_schema_extra={"hashed": False})
    """Benchmark and split of the published scores that the table shows beside its own, such as `[RefCOCO, testA]`."""

    def check(self) -> None:
        """Looks for what scoring needs on this machine, before anything is asked.

        Raises:
            UsageError: it isn't there.
        """

    def asked_tasks(self) -> tuple[Task, ...]:
        """Tasks of the samples that it asks about."""
        raise NotImplementedError

    def published_as(self, metric: str) -> tuple[str, str, str] | None:
        """Benchmark, split and metric of the published rows that stand beside a score, if any."""
        return None if self.published is None else (*self.published, metric)


@dataclass(frozen=True, slots=True)
class Unit:
    """One turn of one sample: what is asked at once."""

    sample: Sample
    turn: int

    @property
    def image_id(self) -> str:
        """The picture; units never come without one."""
        assert self.sample.image_id is not None
        return self.sample.image_id


def units_by_image(samples: Iterable[Sample], max_images: int | None) -> Iterator[list[Unit]]:
    """Turns grouped by picture, in order of the picture's hash; samples without a picture are left out."""
    groups: dict[str, list[Unit]] = {}
    for sample in samples:
        if sample.image_id is not None:
            groups.setdefault(sample.image_id, []).extend(Unit(sample, turn) for turn in range(len(sample.turns)))
    for image_id in sorted(groups)[:max_images]:
        yield groups[image_id]


def truth_of(unit: Unit, text: str | None = None) -> Truth:
    """The truth of a turn: one mask per target (an empty one for no target) and the answer's text.

    What is ignored beside any of its targets is ignored for the turn. A sample without a region, all of whose targets
    are absent, has no masks.
    """
    turn = unit.sample.turns[unit.turn]
    regions = unit.sample.regions
    masks: list[Mask] = []
    for target in turn.targets:
        parts = [regions[index].mask for index in target]
        if parts:
            masks.append(parts[0] if len(parts) == 1 else union(parts))
        elif regions:
            masks.append(encode_mask(np.zeros((regions[0].mask.height, regions[0].mask.width), bool)))
    meant = sorted({index for target in turn.targets for index in target})
    ignored = [area for index in meant if (area := regions[index].ignored) is not None]
    return Truth(
        sample_id=unit.sample.sample_id,
        turn=unit.turn,
        masks=tuple(masks),
        ignored=union(ignored) if ignored else None,
        text=(turn.answer or "") if text is None else text,
    )


def ask(
    benchmark: str,
    variant: Variant,
    unit: Unit,
    wording: Wording,
    *,
    truth: Truth,
    prompts: Sequence[Mask] = (),
    swapped: Truth | None = None,
) -> Question:
    """The question of one turn, put in the given wording."""
    sample = unit.sample
    return Question(
        benchmark=benchmark,
        variant=variant,
        sample_id=sample.sample_id,
        turn=unit.turn,
        image_id=unit.image_id,
        family=sample.family,
        task=sample.task.value,
        split=sample.split,
        expression=sample.turns[unit.turn].text,
        text=wording(sample, unit.turn),
        prompts=tuple(prompts),
        truth=truth,
        options=sample.turns[unit.turn].options,
        swapped=swapped,
    )


def with_regions(sample: Sample, height_px: int, width_px: int) -> Sample:
    """The sample, with its prompts drawn as regions if it has prompts but no region: a box alone is one.

    Args:
        sample: the facts.
        height_px: height of its picture.
        width_px: width of its picture.
    """
    if sample.regions or not sample.prompts:
        return sample
    masks = [encode_mask(prompt_mask(prompt, (), height_px, width_px)) for prompt in sample.prompts]
    prompts = tuple(replace(prompt, kind=PromptKind.MASK, region=place) for place, prompt in enumerate(sample.prompts))
    return replace(sample, regions=tuple(Region(mask=mask) for mask in masks), prompts=prompts)


def prompt_masks(sample: Sample) -> tuple[Mask, ...]:
    """The visual prompts of a sample as masks of the whole picture, in order.

    Raises:
        DataError: a prompt without the field that its kind needs, or outside the picture.
    """
    return tuple(_prompt_mask(sample, prompt) for prompt in sample.prompts)


def _prompt_mask(sample: Sample, prompt: VisualPrompt) -> Mask:
    if prompt.kind is PromptKind.MASK and prompt.region is not None:
        return sample.regions[prompt.region].mask
    if not sample.regions:
        raise DataError(
            f"sample {sample.sample_id} ({sample.family}): expected a region beside its {prompt.kind.value} prompt, "
            "got none; curate the family again"
        )
    size = sample.regions[0].mask
    try:
        return encode_mask(prompt_mask(prompt, sample.regions, size.height, size.width))
    except ValueError as error:
        raise DataError(f"sample {sample.sample_id} ({sample.family}): {error}; curate the family again") from error


def same_objects(masks: Iterable[Mask]) -> dict[bytes, bytes]:
    """Which masks of one picture show the same object: those that overlap by half or more.

    Families annotate an object in slightly different ways; a union shares pixels with its members.

    Args:
        masks: masks of one picture, in any order.

    Returns:
        For the counts of each mask, those of the one that stands for its object.
    """
    known = {mask.counts: mask for mask in masks}
    identity: dict[bytes, bytes] = {}
    for counts in sorted(known):
        for first in sorted(set(identity.values())):
            intersection_px, union_px = overlap(known[counts], known[first])
            if 2 * intersection_px >= union_px > 0:
                identity[counts] = first
                break
        else:
            identity[counts] = counts
    return identity


def following(order: Iterable[bytes], own: bytes) -> bytes | None:
    """The entry after `own` in sorted order, the first after the last; None if there is no other.

    Over all entries this is a derangement: each gets another one, and each is given once.

    >>> following([b"c", b"a", b"b"], b"c")
    b'a'
    """
    ordered = sorted(set(order) | {own})
    return None if len(ordered) < 2 else ordered[(ordered.index(own) + 1) % len(ordered)]


def plain_words(text: str) -> list[str]:
    """Lower-cased words of a text, without punctuation, placeholders and special tokens.

    >>> plain_words("<region1>: A small, red ring. [SEG]<|endoftext|>")
    ['a', 'small', 'red', 'ring']
    """
    bare = re.sub(r"<[^<>]*>|\[SEG\]", " ", text)
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", bare.casefold())


def mean_score(rows: Sequence[Prediction]) -> Ratio:
    """The mean of the rows' own scores."""
    return Ratio.mean([row.score for row in rows])


def answer_mask(answer: Answered, truth: Truth) -> Mask | None:
    """All masks of an answer in one; None if it has none.

    Raises:
        DataError: a mask of another size than the truth's.
    """
    if not answer.masks:
        return None
    expected, *others = [(mask.height, mask.width) for mask in (*truth.masks[:1], *answer.masks)]
    for size_px in others:
        if size_px != expected:
            raise DataError(
                f"answer on sample {truth.sample_id}: expected masks of {expected} px (height, width), got {size_px}; "
                "the picture and its annotations don't belong together"
            )
    return answer.masks[0] if len(answer.masks) == 1 else union(answer.masks)
