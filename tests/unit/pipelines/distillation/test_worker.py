from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.plan import Batch, ShardTask, TeachPlan, plan_teaching
from pipelines.distillation.steps import decode_rgb, prepare_batch
from pipelines.distillation.worker import Inputs, ShardWorker
from storage.codecs import codec_of
from storage.errors import InfrastructureError
from storage.feature_writer import read_shard
from storage.objects import Objects
from storage.schema import ImageRecord
from storage.shards import RowStatus, read_tail
from tests.ledger_teacher import LedgerTeacher, LedgerTeacherConfig
from tests.small_corpora import noise_picture

TEACHER = LedgerTeacherConfig()
RAW16 = codec_of("raw16")
SIZES_PX = ((16, 32), (32, 16), (16, 32), (32, 16), (16, 32), (24, 24))


@pytest.fixture
def records() -> list[ImageRecord]:
    return [noise_picture(number, *size) for number, size in enumerate(SIZES_PX)]


def _plan(records: list[ImageRecord], **fields: object) -> TeachPlan:
    images = [(record.image_id, record.height, record.width) for record in records]
    config = FeaturesConfig.model_validate({"codec": "raw16", "batch_size": 2, **fields})
    return plan_teaching(images, config, TEACHER, "patches", TEACHER.num_channels, RAW16, "s")


def _worker(part: Objects, records: list[ImageRecord], teacher: LedgerTeacher | None = None) -> ShardWorker:
    by_id = {record.image_id: record for record in records}

    def start(task: ShardTask, batch: Batch) -> Callable[[], Inputs]:
        images = [by_id[task.shard.rows[position].image_id] for position in batch.positions]
        return lambda: prepare_batch(TEACHER, images, batch.input_size)

    return ShardWorker(lambda: teacher or TEACHER.build(), part, RAW16, start, num_batches_ahead=2)


def test_a_shard_is_computed_in_its_order_whatever_the_batches(tmp_path: Path, records: list[ImageRecord]) -> None:
    part, plan = Objects.open(tmp_path), _plan(records)
    worker = _worker(part, records)
    by_id = {record.image_id: record for record in records}
    for task in plan.tasks():
        result = worker.run(task)
        array = task.shard.array
        assert result.written == read_shard(part, array, task.shard.index, RAW16)
        assert [row.image_id for row in result.written.rows] == [row.image_id for row in task.shard.rows]
        assert result.seconds.keys() >= {"wait", "forward", "encode", "write"}
        tail = read_tail(part, array, task.shard.index, RAW16)
        for row, (offset, size) in zip(tail.rows, tail.extents, strict=True):
            record = by_id[row.image_id]
            alone = TEACHER.build().forward(TEACHER.preprocess(decode_rgb(record.data or b""))[None])[0].numpy()
            chunk = np.frombuffer(part.read_range(task.shard.key, offset, size)[:-4], "<f2")
            cells = chunk.reshape(len(alone), -1)[:, : row.height * row.width]
            np.testing.assert_array_equal(cells, alone.reshape(len(alone), -1).astype(np.float16))
    assert worker.steps() == {}


def test_bad_pictures_become_rejected_rows(tmp_path: Path, records: list[ImageRecord]) -> None:
    part, plan = Objects.open(tmp_path), _plan(records)
    torn = replace(records[0], data=b"GIF89a")
    worker = _worker(part, [torn, *records[1:]])
    results = [worker.run(task) for task in plan.tasks()]
    rejected = {image: reason for result in results for image, reason in result.written.rejected.items()}
    assert list(rejected) == [records[0].image_id]
    assert "can't be decoded" in rejected[records[0].image_id]
    assert sum(row.status is RowStatus.OK for result in results for row in result.written.rows) == len(records) - 1


def test_one_shard_runs_while_the_other_one_waits_for_the_teacher(tmp_path: Path, records: list[ImageRecord]) -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Slow(LedgerTeacher):
        def forward(self, batch: Tensor) -> Tensor:
            entered.set()
            assert go_on.wait(10)
            return super().forward(batch)

    worker = _worker(Objects.open(tmp_path), records, Slow(TEACHER))
    tasks = list(_plan(records, images_per_shard=2).tasks())
    threads = [threading.Thread(target=worker.run, args=(task,)) for task in tasks[:2]]
    threads[0].start()
    assert entered.wait(10)
    threads[1].start()
    assert worker.steps() == {tasks[0].shard.key: 0}  # the second one has not begun
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert worker.steps() == {}
    assert len(list(Objects.open(tmp_path).list())) == 2


def test_a_full_device_is_trouble_of_the_infrastructure(tmp_path: Path, records: list[ImageRecord]) -> None:
    class Full(LedgerTeacher):
        def forward(self, batch: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    worker = _worker(Objects.open(tmp_path), records, Full(TEACHER))
    task = next(_plan(records).tasks())
    with pytest.raises(InfrastructureError, match=r"shard l.*: out of memory .*2 GiB; lower features.batch_size"):
        worker.run(task)
    assert worker.steps() == {}


def test_no_more_batches_are_read_than_allowed(tmp_path: Path) -> None:
    records = [noise_picture(number, 16, 32) for number in range(12)]
    started: list[int] = []
    most = 0

    def start(task: ShardTask, batch: Batch) -> Callable[[], Inputs]:
        nonlocal most
        started.append(1)
        most = max(most, len(started))
        images = [records[int(position)] for position in batch.positions]

        def ready() -> Inputs:
            started.pop()
            return prepare_batch(TEACHER, images, batch.input_size)

        return ready

    worker = ShardWorker(TEACHER.build, Objects.open(tmp_path), RAW16, start, num_batches_ahead=3)
    (task,) = _plan(records).tasks()
    assert len(task.batches) == 6
    worker.run(task)
    assert most == 3
