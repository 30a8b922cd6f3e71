"""Parts of a row of users' own data (docs/own-data.md): regions, prompts, and which of them a text speaks of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

from pipelines.curation.records import CocoSegmentation, DraftRegion, MaskFile, RecordError
from pipelines.curation.steps.coco import checked_segmentation
from pipelines.curation.steps.fields import integer, mapping, sequence, shown, string
from pipelines.curation.steps.paths import safe_join
from pipelines.curation.steps.texts import SEG, multi_line, region_numbers, renumber_regions, required_text, single_line
from storage.schema import PromptKind, RejectReason, Turn, VisualPrompt

__all__ = ["RowTurn", "known_fields", "placed", "row_prompts", "row_regions", "row_targets", "row_turn", "spoken"]

_IMAGE = "<image>"
"""Where other formats put the picture in a text; a student's picture always stands first."""
_MAX_COORDINATE_PX = 1e9


@dataclass(frozen=True, slots=True)
class RowTurn:
    """A turn whose masks and prompts may still have to be found."""

    text: str
    answer: str | None = None
    options: tuple[str, ...] = ()
    targets: tuple[tuple[int, ...], ...] | None = None
    """Places of regions, from 0; None: the row doesn't say."""


def known_fields(value: object, what: str, known: Collection[str]) -> dict[str, object]:
    """The fields of a mapping that aren't null.

    Raises:
        RecordError: it is no mapping, or has a field that isn't known.
    """
    fields = mapping(value, what)
    unknown = [field for field in fields if field not in known]
    if unknown:
        raise RecordError(
            RejectReason.FIELD_INVALID,
            f"{what}: unknown field {', '.join(map(shown, unknown[:5]))}; known are {', '.join(sorted(known))}",
        )
    return {field: item for field, item in fields.items() if item is not None}


def row_regions(record: dict[str, object]) -> tuple[DraftRegion, ...]:
    """The regions of a row: `regions`, or the one of `segmentation`.

    Raises:
        RecordError: a field or a segmentation is wrong.
    """
    if "segmentation" in record:
        if "regions" in record:
            raise RecordError(RejectReason.FIELD_INVALID, "segmentation: expected it or regions, got both")
        return (DraftRegion(segmentation=_segmentation(record["segmentation"])),)
    rows = sequence(record, "regions") if "regions" in record else []
    return tuple(_region(value, f"regions[{place}]") for place, value in enumerate(rows))


def row_prompts(record: dict[str, object], num_regions: int) -> tuple[VisualPrompt, ...] | None:
    """The visual prompts of a row; None: it doesn't say any.

    Raises:
        RecordError: a field is wrong, or coordinates that the kind needs are absent.
    """
    if "prompts" not in record:
        return None
    rows = sequence(record, "prompts")
    return tuple(_prompt(value, f"prompts[{place}]", num_regions) for place, value in enumerate(rows))


def row_turn(fields: dict[str, object], num_regions: int) -> RowTurn:
    """The turn of `question`, `answer`, `options` and `targets`; raises RecordError."""
    options = tuple(
        required_text(single_line(string({"options": value}, "options")), "options")
        for value in (sequence(fields, "options") if "options" in fields else ())
    )
    answer = spoken(fields, "answer") if "answer" in fields else None
    if options and answer not in options:
        raise RecordError(RejectReason.FIELD_INVALID, f"answer: expected one of the options, got {shown(answer)}")
    return RowTurn(spoken(fields, "question"), answer, options, row_targets(fields, num_regions))


def row_targets(fields: dict[str, object], num_regions: int) -> tuple[tuple[int, ...], ...] | None:
    """Regions of each `[SEG]` as `targets` says them, as places from 0; None: it doesn't; raises RecordError."""
    if "targets" not in fields:
        return None
    targets: list[tuple[int, ...]] = []
    for value in sequence(fields, "targets"):
        numbers = sequence({"targets": value}, "targets")
        targets.append(tuple(_place({"targets": number}, "targets", num_regions) for number in numbers))
    return tuple(targets)


def spoken(fields: dict[str, object], key: str) -> str:
    """The text under `key`, line by line; raises RecordError."""
    text = string(fields, key)
    return required_text(multi_line(text.replace(_IMAGE, " ")), key, text)


def placed(
    turns: Sequence[RowTurn], prompts: tuple[VisualPrompt, ...] | None, num_regions: int
) -> tuple[tuple[VisualPrompt, ...], tuple[Turn, ...]]:
    """Finds out which regions are pointed at and which are targets, where a row doesn't say.

    Without prompts, `<regionN>` points at region N by its mask. Without targets, each `[SEG]` stands for the next
    region that no prompt points at and no other target has; a turn without an answer asks for all of these together.

    Raises:
        RecordError: PLACEHOLDER_MISMATCH: there are too few regions, or some are left.
    """
    if prompts is None:
        prompts, turns = _named_prompts(turns, num_regions)
    taken = {prompt.region for prompt in prompts}
    taken.update(place for turn in turns for target in turn.targets or () for place in target)
    free = [place for place in range(num_regions) if place not in taken]
    found: list[Turn] = []
    for turn in turns:
        targets = turn.targets
        if targets is None and turn.answer is not None:
            num_masks = turn.answer.count(SEG)
            if num_masks > len(free):
                raise RecordError(
                    RejectReason.PLACEHOLDER_MISMATCH,
                    f"expected a region for each {SEG}, got {num_masks} {SEG} for {len(free)} regions that nothing "
                    "points at; list more regions, or say which by targets",
                )
            targets, free = tuple((place,) for place in free[:num_masks]), free[num_masks:]
        elif targets is None:
            targets, free = (tuple(free),), []
        found.append(Turn(text=turn.text, answer=turn.answer, targets=targets, options=turn.options))
    if free:
        raise RecordError(
            RejectReason.PLACEHOLDER_MISMATCH,
            f"expected every region in the text, but neither a prompt nor a {SEG} stands for region {free[0] + 1}",
        )
    return prompts, tuple(found)


def _named_prompts(turns: Sequence[RowTurn], num_regions: int) -> tuple[tuple[VisualPrompt, ...], list[RowTurn]]:
    """A mask prompt for each region that is named, and the turns with these numbered as the prompts come."""
    numbers = region_numbers(*(text for turn in turns for text in (turn.text, turn.answer or "")))
    unknown = [number for number in numbers if not 1 <= number <= num_regions]
    if unknown:
        raise RecordError(
            RejectReason.PLACEHOLDER_MISMATCH, f"<region{unknown[0]}> is named, but there are {num_regions} regions"
        )
    by = {number: place for place, number in enumerate(numbers, start=1)}
    renamed = [
        RowTurn(
            renumber_regions(turn.text, by),
            None if turn.answer is None else renumber_regions(turn.answer, by),
            turn.options,
            turn.targets,
        )
        for turn in turns
    ]
    return tuple(VisualPrompt(kind=PromptKind.MASK, region=number - 1) for number in numbers), renamed


def _region(value: object, what: str) -> DraftRegion:
    fields = known_fields(value, what, ("segmentation", "category", "id"))
    source_id = fields.get("id")
    if source_id is not None and (isinstance(source_id, bool) or not isinstance(source_id, int | str)):
        raise RecordError(RejectReason.FIELD_INVALID, f"{what}.id: expected text or an integer, got {shown(source_id)}")
    return DraftRegion(
        segmentation=_segmentation(fields.get("segmentation")),
        category=single_line(string(fields, "category")) if "category" in fields else None,
        source_id=string({"id": str(source_id)}, "id") if source_id is not None else None,
    )


def _segmentation(value: object) -> CocoSegmentation | MaskFile:
    if not isinstance(value, dict):
        return checked_segmentation(value)
    fields = known_fields(cast(object, value), "segmentation", ("size", "counts", "png", "box_xyxy_px"))
    if set(fields) == {"png"}:
        return MaskFile(safe_join("", string(fields, "png")))
    if set(fields) == {"box_xyxy_px"}:
        x0, y0, x1, y1 = _box(fields)
        return [[x0, y0, x1, y0, x1, y1, x0, y1]]
    if set(fields) <= {"size", "counts"}:
        return checked_segmentation(fields)
    raise RecordError(
        RejectReason.FIELD_INVALID,
        f"segmentation: expected size and counts, png, or box_xyxy_px, got {', '.join(sorted(fields))}",
    )


def _prompt(value: object, what: str, num_regions: int) -> VisualPrompt:
    fields = known_fields(value, what, ("kind", "region", "box_xyxy_px", "points_xy_px"))
    kinds = [kind.value for kind in PromptKind]
    name = string(fields, "kind") if "kind" in fields else PromptKind.MASK.value
    if name not in kinds:
        raise RecordError(
            RejectReason.FIELD_INVALID, f"{what}.kind: expected one of {', '.join(kinds)}, got {shown(name)}"
        )
    kind = PromptKind(name)
    needed = {PromptKind.MASK: "region", PromptKind.BOX: "box_xyxy_px"}.get(kind, "points_xy_px")
    unused = {"box_xyxy_px", "points_xy_px"} & set(fields) - {needed}
    if needed not in fields or unused:
        raise RecordError(
            RejectReason.FIELD_INVALID, f"{what}: expected {needed} for a {kind}, got {', '.join(sorted(fields))}"
        )
    points = tuple(_point(point) for point in (sequence(fields, "points_xy_px") if "points_xy_px" in fields else ()))
    if (kind is PromptKind.POINT and len(points) != 1) or (kind is PromptKind.SCRIBBLE and len(points) < 2):
        wanted = "one point" if kind is PromptKind.POINT else "two points or more"
        raise RecordError(
            RejectReason.FIELD_INVALID, f"{what}.points_xy_px: expected {wanted} for a {kind}, got {len(points)}"
        )
    return VisualPrompt(
        kind=kind,
        region=_place(fields, "region", num_regions) if "region" in fields else None,
        box_xyxy_px=_box(fields) if kind is PromptKind.BOX else None,
        points_xy_px=points,
    )


def _place(fields: dict[str, object], key: str, num_regions: int) -> int:
    """A region by its number, counted from 1, as its place, counted from 0."""
    number = integer(fields, key, minimum=1)
    if number > num_regions:
        raise RecordError(
            RejectReason.PLACEHOLDER_MISMATCH, f"{key}: expected a number of one of {num_regions} regions, got {number}"
        )
    return number - 1


def _box(fields: dict[str, object]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = _numbers(fields["box_xyxy_px"], "box_xyxy_px", 4)
    if x0 >= x1 or y0 >= y1:
        raise RecordError(
            RejectReason.FIELD_INVALID,
            f"box_xyxy_px: expected x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {[x0, y0, x1, y1]}",
        )
    return x0, y0, x1, y1


def _point(value: object) -> tuple[float, float]:
    x, y = _numbers(value, "points_xy_px", 2)
    return x, y


def _numbers(value: object, what: str, num: int) -> list[float]:
    values = sequence({what: value}, what)
    # By exact type: a bool is no coordinate.
    if len(values) != num or not {int, float}.issuperset(map(type, values)):
        raise RecordError(RejectReason.FIELD_INVALID, f"{what}: expected {num} numbers, got {shown(value)}")
    return [_finite(number, what) for number in cast("list[int | float]", values)]


def _finite(number: int | float, what: str) -> float:
    if not abs(number) <= _MAX_COORDINATE_PX:  # nor is it NaN
        raise RecordError(RejectReason.FIELD_INVALID, f"{what}: expected pixels, got {shown(number)}")
    return float(number)
