"""From a corpus to drafts: candidates are drafted and checked in waves until each task has enough that pass.

A wave is as many candidates as are still missing, so that which ones are drafted depends on the drafts alone and not on
how many are asked for at a time.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from pipelines.benchmark_building.candidates import by_hash, candidates
from pipelines.benchmark_building.captioners.base import Captioner, DraftError, DraftRequest
from pipelines.benchmark_building.checks import Limits, Subject, check, normalised
from pipelines.benchmark_building.drafts import KIND, Drafts, picture_key, write_items
from pipelines.benchmark_building.drawing import decoded
from pipelines.benchmark_building.records import (
    BenchmarkTask,
    Candidate,
    Code,
    Finding,
    Item,
    ItemRegion,
    ObjectRegion,
    Picture,
    Record,
    Texts,
)
from pipelines.benchmark_building.regions import picture_of_samples
from pipelines.benchmark_building.settings import BuildConfig
from pipelines.curation.steps.images import coco_id_of
from pipelines.progress import NullProgress, Progress
from storage.corpus import Corpus, image_bytes
from storage.errors import DataError
from storage.keys import Json, canonical_json, content_key
from storage.manifest import FileEntry, Manifest, publish, read_manifest
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, ImageRecord, Sample

__all__ = ["VERSION", "build_drafts", "build_key", "image_name", "item_key", "pictures_of"]

logger = logging.getLogger(__name__)

VERSION = 1
"""Raised whenever the same corpus, settings and captioner give other drafts."""

_ENDINGS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/gif": "gif", "image/bmp": "bmp"}


class _Reply(Record):
    """What a captioner said to one candidate, kept at once."""

    texts: Texts | None = None
    error: str | None = None


def build_key(config: BuildConfig, corpus_key: str) -> str:
    """The address of drafts.

    Args:
        config: of the builder.
        corpus_key: key of the corpus' manifest.
    """
    return content_key(
        {
            "schema_version": SCHEMA_VERSION,
            "stage": "benchmark",
            "version": VERSION,
            "captioner_version": config.captioner.VERSION,
            "config": cast("Json", config.hashed_fields()),
            "inputs": {"corpus": corpus_key},
        }
    )


def item_key(candidate: Candidate) -> str:
    """The id of an item: what is asked about, not in which words."""
    picture = candidate.picture
    return content_key(
        [
            candidate.task.value,
            picture.image_id,
            *(
                [picture.regions[place].mask.counts.decode("ascii") for place in places]
                for places in (candidate.prompts, candidate.targets)
            ),
        ]
    )


def image_name(record: ImageRecord, shared_ids: Collection[int] = ()) -> str:
    """A file name for a picture: its COCO name, by which it is known as one of COCO's, or one made of its bytes.

    Args:
        record: of the picture.
        shared_ids: COCO ids of several pictures, which therefore can't give them names.
    """
    ending = _ENDINGS.get(record.media_type, "img")
    if record.coco_id is not None and record.coco_id not in shared_ids:
        name = f"{record.coco_id:012d}.{ending}"
        if coco_id_of(name) == record.coco_id:
            return name
    return f"{record.image_id[:24]}.{ending}"


def pictures_of(corpus: Corpus, config: BuildConfig) -> tuple[list[Picture], list[str]]:
    """The pictures that may be asked about, with their regions, and all category names of these, sorted.

    Which pictures are looked at depends on their hashes alone; memory is bounded by `max_pictures`.

    Raises:
        DataError: no picture with a region of that family and split.
    """
    columns = corpus.sample_table(["image_id", "family", "split"]).to_pylist()
    fitting = {
        row["image_id"]
        for row in columns
        if row["image_id"] is not None
        and (config.families is None or row["family"] in config.families)
        and (config.splits is None or row["split"] in config.splits)
    }
    chosen = set(sorted(fitting, key=lambda image_id: by_hash(config.seed, image_id))[: config.max_pictures])
    groups: dict[str, list[Sample]] = {}
    for sample in corpus.samples(families=config.families, splits=config.splits):
        if sample.image_id is not None and sample.image_id in chosen and sample.regions:
            groups.setdefault(sample.image_id, []).append(sample)
    found = [picture_of_samples(image_id, groups[image_id]) for image_id in sorted(groups)]
    pictures = [picture for picture in found if picture is not None]
    if not pictures:
        raise DataError(
            f"{corpus.objects.url}: expected pictures with masks of objects, found none in families "
            f"{config.families or 'of any name'} and splits {config.splits or 'of any name'}; name others, or curate a "
            "source with masks"
        )
    names = {region.category for picture in pictures for region in picture.regions if region.category is not None}
    return pictures, sorted(names)


def build_drafts(
    corpus: Corpus,
    config: BuildConfig,
    output: Objects,
    progress: Progress | None = None,
    *,
    captioner: Captioner | None = None,
) -> Drafts:
    """Makes drafts, or opens those that are there already; an interrupted build continues.

    Args:
        corpus: pictures and masks.
        config: of the builder.
        output: prefix of these drafts, their address included.
        progress: told about drafts that pass.
        captioner: who writes them; that of the settings by default.

    Raises:
        DataError: the corpus has nothing to ask about.
        UsageError: the captioner can't be used.
        InfrastructureError: it can't be reached.
    """
    if read_manifest(output) is not None:
        return Drafts.open(output)
    progress = progress or NullProgress()
    pictures, categories = pictures_of(corpus, config)
    captioner = captioner or config.captioner.build()
    work = _Work(corpus, config, output, captioner, categories)
    items = _draft_in_waves(list(candidates(pictures, config)), work, progress)
    if not items:
        raise DataError(
            f"{corpus.objects.url}: expected regions of {config.min_area_share:.1%} to {config.max_area_share:.0%} of "
            f"their picture, found none in {len(pictures)} pictures; set min_area_share and max_area_share"
        )
    files = [write_items(output, items), *work.copy_pictures(items)]
    return _publish(corpus, config, output, items, files)


def _draft_in_waves(queue: list[Candidate], work: _Work, progress: Progress) -> list[Item]:
    config = work.config
    passing: Counter[BenchmarkTask] = Counter()
    by_picture: Counter[str] = Counter()
    seen_captions: set[tuple[str, str]] = set()
    items: list[Item] = []
    total = config.num_per_task * len(config.tasks)
    progress.update(0, total, unit="drafts")
    while True:
        wave, queue = _next_wave(queue, config, passing, by_picture)
        if not wave:
            return items
        for item in work.draft_all(wave):
            kept = _without_twins(item, seen_captions)
            items.append(kept)
            if kept.passes:
                passing[kept.task] += 1
                by_picture[kept.image_id] += 1
            progress.update(passing.total(), total, unit="drafts", objected=len(items) - passing.total())


def _next_wave(
    queue: Sequence[Candidate], config: BuildConfig, passing: Counter[BenchmarkTask], by_picture: Counter[str]
) -> tuple[list[Candidate], list[Candidate]]:
    """The next candidates, no more of a task or picture than may still pass, and those that stay behind."""
    tasks, pictures = Counter(passing), Counter(by_picture)
    wave: list[Candidate] = []
    rest: list[Candidate] = []
    for place, candidate in enumerate(queue):
        if len(wave) == config.num_per_task * len(config.tasks) - passing.total():
            return wave, [*rest, *queue[place:]]
        image_id = candidate.picture.image_id
        if tasks[candidate.task] < config.num_per_task and pictures[image_id] < config.max_items_per_picture:
            tasks[candidate.task] += 1
            pictures[image_id] += 1
            wave.append(candidate)
        else:
            rest.append(candidate)
    return wave, rest


def _without_twins(item: Item, seen: set[tuple[str, str]]) -> Item:
    """Notes that two regions of a picture got the same caption: then it describes neither of them alone."""
    if item.task is not BenchmarkTask.DETAILED_CAPTION or not item.passes:
        return item
    place = (item.image_id, item.texts.caption.casefold())
    if place in seen:
        finding = Finding(code=Code.NOT_UNIQUE, detail="caption: another region of this picture has the same one")
        return item.model_copy(update={"findings": (*item.findings, finding)})
    seen.add(place)
    return item


class _Work:
    """Drafts candidates, and keeps every reply at once."""

    def __init__(
        self,
        corpus: Corpus,
        config: BuildConfig,
        output: Objects,
        captioner: Captioner,
        categories: Sequence[str],
    ) -> None:
        self._corpus, self.config, self._output = corpus, config, output
        self._captioner, self._categories = captioner, categories
        self._limits = Limits(config.min_caption_words, config.max_caption_words)
        self._replied = {info.key for info in output.list("replies")}
        ids = Counter(row["coco_id"] for row in corpus.image_table(["coco_id"]).to_pylist())
        self._shared_ids = {coco_id for coco_id, number in ids.items() if coco_id is not None and number > 1}

    def draft_all(self, wave: Sequence[Candidate]) -> Iterator[Item]:
        """Items of the candidates, in order."""
        if not self._captioner.is_concurrent or self.config.num_threads == 1:
            yield from map(self._draft, wave)
            return
        with ThreadPoolExecutor(self.config.num_threads, thread_name_prefix="drafts") as pool:
            running = [pool.submit(self._draft, candidate) for candidate in wave]
            try:
                for future in running:
                    yield future.result()
            finally:
                # After an error the rest isn't asked for; what is on its way is kept.
                for future in running:
                    future.cancel()

    def copy_pictures(self, items: Sequence[Item]) -> list[FileEntry]:
        """Copies the pictures of items beside them."""
        entries: list[FileEntry] = []
        for name, image_id in sorted({item.image_name: item.image_id for item in items}.items()):
            data = image_bytes(self._corpus.image(image_id))
            self._output.create(picture_key(name), data)
            entries.append(FileEntry.of(picture_key(name), data))
        return entries

    def _draft(self, candidate: Candidate) -> Item:
        item_id, record = item_key(candidate), self._corpus.image(candidate.picture.image_id)
        reply = self._reply(item_id, candidate, record)
        texts, findings = Texts(), (Finding(code=Code.DRAFT_FAILED, detail=reply.error or "no draft"),)
        prompts, targets, others = _regions(candidate)
        if reply.texts is not None:
            texts = normalised(reply.texts)
            findings = check(Subject(candidate.task, prompts, targets, others), texts, self._limits)
        return Item(
            item_id=item_id,
            task=candidate.task,
            image_id=record.image_id,
            image_name=image_name(record, self._shared_ids),
            height=record.height,
            width=record.width,
            prompts=tuple(map(ItemRegion.of, prompts)),
            targets=tuple(map(ItemRegion.of, targets)),
            others=tuple(map(ItemRegion.of, others)),
            texts=texts,
            findings=findings,
        )

    def _reply(self, item_id: str, candidate: Candidate, record: ImageRecord) -> _Reply:
        key = f"replies/{item_id}.json"
        if key not in self._replied:
            reply = self._ask(candidate, record)
            self._output.create(key, reply.model_dump_json().encode())
            return reply
        return _Reply.model_validate_json(self._output.read(key))

    def _ask(self, candidate: Candidate, record: ImageRecord) -> _Reply:
        try:
            pixels = decoded(image_bytes(record))
        except OSError as error:
            raise DataError(f"image {record.image_id}: expected a picture, got: {error}; curate again") from error
        request = DraftRequest(candidate, pixels, self._categories, self.config.num_options, self.config.seed)
        try:
            return _Reply(texts=self._captioner.draft(request))
        except DraftError as error:
            return _Reply(error=str(error))


def _regions(candidate: Candidate) -> tuple[tuple[ObjectRegion, ...], ...]:
    """Prompts, targets, and the picture's other regions."""
    regions = candidate.picture.regions
    named = {*candidate.prompts, *candidate.targets}
    return (
        tuple(regions[place] for place in candidate.prompts),
        tuple(regions[place] for place in candidate.targets),
        tuple(region for place, region in enumerate(regions) if place not in named),
    )


def _publish(
    corpus: Corpus, config: BuildConfig, output: Objects, items: Sequence[Item], files: Sequence[FileEntry]
) -> Drafts:
    facts: dict[str, Json] = {
        "captioner": config.captioner.description(),
        "num_items": len(items),
        "passing": _counts(items, lambda item: item.passes),
        "objected": _counts(items, lambda item: not item.passes),
        "findings": dict(sorted(Counter(finding.code.value for item in items for finding in item.findings).items())),
        "num_pictures": len({item.image_id for item in items}),
    }
    for task, missing in _missing(items, config).items():
        logger.warning("%s: %d drafts fewer than asked for pass; the corpus has no more candidates", task, missing)
    publish(
        output,
        Manifest(
            kind=KIND,
            key=build_key(config, corpus.manifest.key),
            schema_version=SCHEMA_VERSION,
            recipe=cast("dict[str, Json]", json.loads(canonical_json(cast("Json", config.hashed_fields())))),
            inputs={"corpus": corpus.manifest.key},
            files=tuple(files),
            facts=facts,
        ),
    )
    return Drafts.open(output)


def _counts(items: Sequence[Item], holds: Callable[[Item], bool]) -> Mapping[str, int]:
    return {
        task.value: sum(item.task is task and holds(item) for item in items)
        for task in BenchmarkTask
        if any(item.task is task for item in items)
    }


def _missing(items: Sequence[Item], config: BuildConfig) -> dict[str, int]:
    passing = _counts(items, lambda item: item.passes)
    found = {task.value: config.num_per_task - passing.get(task.value, 0) for task in config.tasks}
    return {task: number for task, number in found.items() if number > 0}
