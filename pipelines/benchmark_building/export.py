"""Accepted items as PerBench's three files with their pictures, which the family `perbench` reads.

README.md   perbench/val/detailed_caption.json, mcq.json, visual_text_res.json   images/<image name>
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.benchmark_building.candidates import by_hash
from pipelines.benchmark_building.drafts import Drafts
from pipelines.benchmark_building.perbench_text import choice_question, tagged_answer, target_tag
from pipelines.benchmark_building.records import BenchmarkTask, Item, Texts
from pipelines.benchmark_building.review.outcomes import Agreement, Outcome, State, agreement
from pipelines.curation.steps.texts import region_token
from pipelines.progress import Progress
from storage.errors import DataError

__all__ = ["Exported", "accepted_items", "export_benchmark", "file_rows"]

_FOLDER = "perbench/val"
_IMAGES = "images"


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote.

    Attributes:
        num_items: by task.
        num_pictures: files.
        agreement: of the reviewers.
    """

    num_items: Mapping[BenchmarkTask, int]
    num_pictures: int
    agreement: Agreement


def accepted_items(
    drafts: Drafts, found: Mapping[str, Outcome], num_per_task: int
) -> dict[BenchmarkTask, list[tuple[Item, Texts]]]:
    """Items that the review accepted with their texts, by task: those with the smallest hashes if there are more.

    Args:
        drafts: with their pictures.
        found: where each item stands.
        num_per_task: upper bound.
    """
    chosen: dict[BenchmarkTask, list[tuple[Item, Texts]]] = {}
    for item in sorted(drafts.to_review, key=lambda item: by_hash(0, item.item_id)):
        outcome = found.get(item.item_id)
        own = chosen.setdefault(item.task, [])
        if outcome is not None and outcome.state is State.ACCEPTED and outcome.texts and len(own) < num_per_task:
            own.append((item, outcome.texts))
    return {task: chosen[task] for task in BenchmarkTask if chosen.get(task)}


def file_rows(task: BenchmarkTask, items: Sequence[tuple[Item, Texts]]) -> list[dict[str, object]]:
    """The rows of one of the three files; captions and questions are gathered by picture, as PerBench has them."""
    if task is BenchmarkTask.VISUAL_TEXT_REFERRING:
        return [_expression_row(item, texts) for item, texts in items]
    key, entry = (
        ("object_annotations", _caption_entry) if task is BenchmarkTask.DETAILED_CAPTION else ("mcqs", _choice_entry)
    )
    rows: dict[str, list[dict[str, object]]] = {}
    for item, texts in items:
        rows.setdefault(item.image_name, []).append(entry(item, texts))
    return [{"image_name": name, key: entries} for name, entries in rows.items()]


def export_benchmark(
    drafts: Drafts,
    found: Mapping[str, Outcome],
    folder: Path,
    progress: Progress,
    num_per_task: int = 500,
    reviewers_per_item: int = 2,
) -> Exported:
    """Writes the benchmark into a folder.

    Args:
        drafts: with their pictures.
        found: where each item stands.
        folder: that exists and is empty.
        progress: told about pictures.
        num_per_task: items of each task, at most.
        reviewers_per_item: how many had to decide; the README says so.

    Raises:
        DataError: no item is accepted.
    """
    chosen = accepted_items(drafts, found, num_per_task)
    if not chosen:
        states = Counter(outcome.state.value for outcome in found.values())
        raise DataError(
            f"{drafts.objects.url}: expected items that {reviewers_per_item} reviewers accept, found none "
            f"({', '.join(f'{number} {state}' for state, number in sorted(states.items()))}); go on with "
            f"`sailloft view {drafts.objects.url}`"
        )
    (folder / _FOLDER).mkdir(parents=True)
    for task, items in chosen.items():
        text = json.dumps(file_rows(task, items), ensure_ascii=False, indent=1)
        (folder / _FOLDER / f"{task.value}.json").write_text(f"{text}\n", encoding="utf-8")
    names = {item.image_name: item for items in chosen.values() for item, _ in items}
    (folder / _IMAGES).mkdir()
    for place, name in enumerate(sorted(names)):
        (folder / _IMAGES / name).write_bytes(drafts.picture(names[name]))
        progress.update(place + 1, len(names), unit="pictures")
    done = Exported({task: len(items) for task, items in chosen.items()}, len(names), agreement(found.values()))
    (folder / "README.md").write_text(_readme(drafts, found, done, reviewers_per_item), encoding="utf-8")
    return done


def _caption_entry(item: Item, texts: Texts) -> dict[str, object]:
    return {"segmentation": item.prompts[0].to_coco(), "caption": texts.caption}


def _choice_entry(item: Item, texts: Texts) -> dict[str, object]:
    return {
        "object": item.prompts[0].to_coco(),
        "question": choice_question(texts.question, texts.options),
        "answer": texts.options[texts.right],
    }


def _expression_row(item: Item, texts: Texts) -> dict[str, object]:
    prompts = {region_token(number): region.to_coco() for number, region in enumerate(item.prompts, 1)}
    targets = {target_tag(number): region.to_coco() for number, region in enumerate(item.targets, 1)}
    return {
        "image_name": item.image_name,
        "question": texts.question,
        "answer": tagged_answer(texts.answer),
        "segmentations": prompts | targets,
    }


def _readme(drafts: Drafts, found: Mapping[str, Outcome], done: Exported, reviewers_per_item: int) -> str:
    facts = drafts.manifest.facts
    counts = "\n".join(f"| `{_FOLDER}/{task.value}.json` | {number} |" for task, number in done.num_items.items())
    states = Counter(outcome.state for outcome in found.values())
    names = sorted({one.reviewer for outcome in found.values() for one in outcome.decisions.values()}, key=str.casefold)
    stands = ", ".join(f"{states[state]} {state.value}" for state in State)
    missing = [task for task in BenchmarkTask if task not in done.num_items]
    settings = "".join(f", {task.value}: null" for task in missing)
    return f"""# A benchmark in PerBench's format

| file | items |
|---|---|
{counts}

{done.num_pictures} pictures lie in `{_IMAGES}/`, with the rights that they came with.

- **Drafts**: {drafts.manifest.key}, from the corpus {drafts.manifest.inputs["corpus"]}.
- **Captioner**: {facts.get("captioner", "unknown")}.
- **Review**: decisions per item: {reviewers_per_item}; reviewers: {len(names)}; {_agreement_text(done.agreement)}.
- Of {len(found)} items that passed the checks: {stands}.

A recipe of Sailloft reads it so:

```yaml
curation:
  root: .  # this folder
  sources: [{{kind: perbench, images: {_IMAGES}{settings}}}]
```
"""


def _agreement_text(found: Agreement) -> str:
    if found.equal_share is None:
        return "no item was decided on by two"
    kappa = "not defined" if found.kappa is None else f"{found.kappa:.2f}"
    return f"{found.equal_share:.0%} of {found.num_pairs} pairs of decisions are equal, Cohen's kappa {kappa}"
