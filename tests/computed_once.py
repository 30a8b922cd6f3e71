"""What a ledger of computed pictures says of a store that was made under faults."""

from __future__ import annotations

from pathlib import Path

from pipelines.distillation.steps import decode_rgb
from storage.corpus import Corpus
from storage.features import open_features
from storage.objects import Objects
from tests.ledger_teacher import LedgerTeacherConfig, ledger_times, picture_key

__all__ = ["check_computed_once"]

_CLOCK_S = 0.01
"""By which the times of a process and of a file may differ."""


def check_computed_once(store: Objects, corpus: Corpus, ledger: Path, most_again: int, tick_s: float = 0.0) -> None:
    """Every picture was computed, none after its shard stood, and few a second time.

    Args:
        store: holds features of all pictures.
        corpus: its pictures, each unlike the others.
        ledger: folder of the teacher's ledger.
        most_again: upper bound of the computations beyond one per picture.
        tick_s: in which the store counts times.
    """
    times, features = ledger_times(ledger), open_features(store.url)
    written_s = {info.key: info.modified_s for info in store.list("parts")}
    arrays = {(part.key, name): array for part in features.parts for name, array in part.arrays.items()}
    keys = set[str]()
    for record in corpus.images():
        ref = features.ref(record.image_id)
        shard = f"parts/{ref.part}/{ref.array}/c/{ref.row // arrays[ref.part, ref.array].rows_per_shard}/0/0"
        key = picture_key(LedgerTeacherConfig().preprocess(decode_rgb(record.data or b"")))
        keys.add(key)
        assert max(times[key]) <= written_s[shard] + tick_s + _CLOCK_S, f"{record.image_id} was computed again"
    assert times.keys() == keys
    assert sum(len(computed) - 1 for computed in times.values()) <= most_again
