"""Which conversations make up a step, and which of them share a forward pass: decided without a picture.

The rows of all epochs stand in one endless line; step s takes the rows [s * batch_rows, (s + 1) *
batch_rows). They are divided into bins, one for each forward pass, by their number or by their
tokens; of W ranks, rank r takes the bins r, r + W, ... Neither rows nor bins depend on W, so a position is
just a number of steps and holds for any number of ranks.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.packing import pack
from model.processor import Processor
from pipelines.training.config import TrainingConfig
from pipelines.training.mixture import Mixture, Place, RowSource, row_generator
from pipelines.training.rows import Conversation, draw_conversation
from storage.errors import DataError

__all__ = ["Bin", "PlannedRow", "StepPlanner"]

_TEXT_SIZE_PX = (1, 1)


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A conversation at its place, with all that is known without its picture."""

    source: RowSource
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class Bin:
    """The conversations of one forward pass."""

    number: int
    """Within the step, over all ranks."""
    rows: tuple[PlannedRow, ...]


class StepPlanner:
    """Plans steps. Safe to use from several threads.

    Args:
        mixture: what an epoch consists of.
        sizes_px: (height, width) of each image.
        processor: the student's.
        config: batch sizes, packing and seed.
    """

    def __init__(
        self, mixture: Mixture, sizes_px: Mapping[str, tuple[int, int]], processor: Processor, config: TrainingConfig
    ) -> None:
        self._mixture, self._sizes_px, self._processor, self._config = mixture, sizes_px, processor, config
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._starts = [0]
        self._lock = threading.Lock()

    def place(self, row: int) -> Place:
        """Epoch and place of a row in the endless line."""
        with self._lock:
            while row >= self._starts[-1]:
                self._starts.append(self._starts[-1] + len(self._order(len(self._starts) - 1)))
            epoch = int(np.searchsorted(self._starts, row, side="right")) - 1
            return Place(epoch, row - self._starts[epoch])

    def source(self, place: Place) -> RowSource:
        """What the row at a place is drawn from."""
        with self._lock:
            return self._mixture.sources[int(self._order(place.epoch)[place.row])]

    def row(self, place: Place) -> PlannedRow:
        """The conversation at a place.

        Raises:
            DataError: its sample doesn't fit the student.
        """
        source = self.source(place)
        conversation = draw_conversation(
            source,
            _TEXT_SIZE_PX if source.image_id is None else self._sizes_px[source.image_id],
            self._processor.config.num_visual_prompts,
            self._config.absent_prompt_share,
            self._processor.config.wordings,
            row_generator(self._config.seed, place),
        )
        return PlannedRow(source, conversation)

    def bins(self, step: int, rank: int = 0, world_size: int = 1) -> list[Bin]:
        """The forward passes of a rank in a step.

        Raises:
            DataError: a conversation longer than `micro_batch_tokens`.
        """
        num_rows = self._config.batch_rows
        places = [self.place(row) for row in range(step * num_rows, (step + 1) * num_rows)]
        budget = self._config.micro_batch_tokens
        if budget is None:
            size = self._config.micro_batch_rows
            groups = [places[start : start + size] for start in range(0, num_rows, size)]
            mine = range(rank, len(groups), world_size)
            return [Bin(number, tuple(self.row(place) for place in groups[number])) for number in mine]
        rows = [self.row(place) for place in places]
        packed = pack(self._lengths(rows, budget), budget)
        return [
            Bin(number, tuple(rows[index] for index in packed[number]))
            for number in range(rank, len(packed), world_size)
        ]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            self._orders[epoch] = self._mixture.order(self._config.seed, epoch, self._config.shuffle_shards)
        return self._orders[epoch]

    def _lengths(self, rows: Sequence[PlannedRow], budget: int) -> list[int]:
        lengths: list[int] = []
        for row in rows:
            talk = row.conversation
            size_px = None if row.source.image_id is None else talk.size_px
            lengths.append(self._processor.num_tokens(size_px, talk.turns, talk.prompt_numbers))
            if lengths[-1] > budget:
                # Turns that don't fit aren't left out: samples would be lost without a word.
                what = f"samples {', '.join(talk.sample_ids)}" if talk.sample_ids else f"image {row.source.image_id}"
                raise DataError(
                    f"{what}: expected a conversation of at most {budget} tokens (training.micro_batch_tokens), got "
                    f"{lengths[-1]} with {len(talk.turns)} turns; raise the bound, lower the part's turns_per_row, or "
                    "lower student.max_side_px"
                )
        return lengths
