"""From the corpus and the feature stores to training batches, in an order that only the position decides."""

from __future__ import annotations

import io
import queue
import threading
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.objective import TrainingBatch, training_batch
from model.packing import collate
from model.processor import EncodedRow, Processor
from pipelines.training.config import TrainingConfig
from pipelines.training.mixture import Mixture, Place, RowSource, build_mixture, row_generator
from pipelines.training.rows import Conversation, draw_conversation
from storage.corpus import Corpus
from storage.errors import DataError
from storage.features import FeatureStore

__all__ = ["TrainingFeed", "prefetched"]


class TrainingFeed:
    """Batches of one rank.

    The rows of all epochs stand in one endless line; step s takes the rows
    [s * batch_rows, (s + 1) * batch_rows), of which rank r of W has every W-th, so a position is just
    a number of steps and holds for any number of ranks.

    Args:
        corpus: where samples and images are read.
        features: feature store of each teacher.
        processor: the student's.
        config: mixture, splits, batch sizes and seed.
        rank: number of this worker.
        world_size: number of workers.
    """

    def __init__(
        self,
        corpus: Corpus,
        features: Mapping[str, FeatureStore],
        processor: Processor,
        config: TrainingConfig,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._corpus, self._features, self._processor, self._config = corpus, features, processor, config
        self._rank, self._world_size = rank, world_size
        self._mixture: Mixture = build_mixture(corpus.samples(splits=config.splits), config)
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._starts = [0]

    def batches(self, first_step: int) -> Iterator[list[TrainingBatch]]:
        """Micro-batches of this rank, step after step, from a position on."""
        step = first_step
        while True:
            yield self.step_batches(step)
            step += 1

    def step_batches(self, step: int) -> list[TrainingBatch]:
        """Micro-batches of this rank in one optimiser step."""
        first = step * self._config.batch_rows
        mine = range(first + self._rank, first + self._config.batch_rows, self._world_size)
        size = self._config.micro_batch_rows
        return [
            self.batch([self.place(row) for row in mine[start : start + size]]) for start in range(0, len(mine), size)
        ]

    def place(self, row: int) -> Place:
        """Epoch and place of a row in the endless line."""
        while row >= self._starts[-1]:
            self._starts.append(self._starts[-1] + len(self._order(len(self._starts) - 1)))
        epoch = int(np.searchsorted(self._starts, row, side="right")) - 1
        return Place(epoch, row - self._starts[epoch])

    def source(self, place: Place) -> RowSource:
        """What the row at a place is drawn from."""
        return self._mixture.sources[int(self._order(place.epoch)[place.row])]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            self._orders[epoch] = self._mixture.order(self._config.seed, epoch)
        return self._orders[epoch]

    def conversation(self, place: Place) -> tuple[Conversation, NDArray[np.uint8] | None]:
        """The conversation at a place, with its image as uint8 RGB (height, width, 3)."""
        source = self.source(place)
        image = None if source.image_id is None else self._image(source.image_id)
        conversation = draw_conversation(
            source,
            (1, 1) if image is None else (image.shape[0], image.shape[1]),
            self._processor.config.num_visual_prompts,
            self._config.absent_prompt_share,
            self._processor.config.wordings,
            row_generator(self._config.seed, place),
        )
        return conversation, image

    def _image(self, image_id: str) -> NDArray[np.uint8]:
        record = self._corpus.image(image_id)
        if record.data is None:
            raise DataError(f"image {image_id}: expected its bytes in the corpus, got the URI {record.uri!r} alone")
        with Image.open(io.BytesIO(record.data)) as image:
            return np.asarray(image.convert("RGB"))

    def batch(self, places: Sequence[Place]) -> TrainingBatch:
        """The batch of rows at some places."""
        rows: list[EncodedRow] = []
        masks: list[Tensor] = []
        image_ids: list[str] = []
        for place in places:
            conversation, image = self.conversation(place)
            row = self._processor.encode(
                image, conversation.turns, conversation.visual_prompts, branched=self._config.turns == "branched"
            )
            rows.append(row)
            image_id = self.source(place).image_id
            if image_id is not None:
                image_ids.append(image_id)
                masks.append(torch.from_numpy(conversation.masks))
        inputs, labels = collate(rows, self._processor.tokenizer.end_of_text)
        return training_batch(
            inputs,
            labels,
            masks,
            {teacher: self._read_features(teacher, image_ids, inputs.grids) for teacher in self._features},
            self._processor.tokenizer.seg,
        )

    def _read_features(
        self, teacher: str, image_ids: Sequence[str], grids: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], tuple[list[int], Tensor]]:
        """Features of the images that the store holds, stacked by the student's patch grid."""
        known = [number for number, image_id in enumerate(image_ids) if image_id in self._features[teacher]]
        read = self._features[teacher].read([image_ids[number] for number in known])
        groups: dict[tuple[int, int], list[tuple[int, Tensor]]] = defaultdict(list)
        for number, feature in zip(known, read, strict=True):
            groups[grids[number]].append((number, torch.from_numpy(feature)))
        return {grid: _stack(group, self._target_grid(teacher, grid)) for grid, group in groups.items()}

    def _target_grid(self, teacher: str, grid: tuple[int, int]) -> tuple[int, int]:
        """The student's map that a teacher is compared with: mask grid or patch grid."""
        config = self._processor.config
        sources = {head.teacher: head.source for head in config.distillation}
        factor = config.cells_per_patch if sources.get(teacher) == "mask_features" else 1
        return grid[0] * factor, grid[1] * factor


def _stack(group: Sequence[tuple[int, Tensor]], target: tuple[int, int]) -> tuple[list[int], Tensor]:
    """Image numbers and features; maps of several shapes are resized as the loss would do."""
    features = [feature for _, feature in group]
    if len({feature.shape for feature in features}) > 1:
        features = [
            torch.nn.functional.interpolate(feature[None], size=target, mode="bilinear", align_corners=False)[0]
            for feature in features
        ]
    return [number for number, _ in group], torch.stack(features)


class _End:
    """What stands behind the last item; None: the iterator was exhausted."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def prefetched(batches: Iterator[list[TrainingBatch]], depth: int) -> Generator[list[TrainingBatch]]:
    """Runs an iterator in a thread, at most `depth` items ahead; its errors are raised here.

    The thread ends when the consumer closes the returned generator.
    """
    ready: queue.Queue[list[TrainingBatch] | _End] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def offer(item: list[TrainingBatch] | _End) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return

    def produce() -> None:
        try:
            for item in batches:
                offer(item)
                if stopped.is_set():
                    return
            offer(_End())
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, who raises it
            offer(_End(error))

    thread = threading.Thread(target=produce, name="training-feed", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if not isinstance(item, _End):
                yield item
            elif item.error is None:
                return
            else:
                raise item.error
    finally:
        stopped.set()
        thread.join()
