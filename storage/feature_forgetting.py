"""Takes images out of a feature store at once: out of what is live, and out of every file that still holds them.

`compact` leaves their rows out of what takes the place of live parts. Parts that hold them and aren't live, since they
were retired or never finished, are deleted whole, whoever has them open.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from storage.feature_holdings import PartState, find_in_parts
from storage.feature_index import part_objects
from storage.feature_upkeep import compact
from storage.leases import Leases, LeaseTimes, uncovered
from storage.objects import Objects
from storage.retirement import delete_all

__all__ = ["ForgottenFeatures", "forget_features"]

_LOOK_AGAIN_S = 2.0


@dataclass(frozen=True, slots=True)
class ForgottenFeatures:
    """What was done to a store."""

    num_rows: int
    """Rows left out of what is live."""
    retired: tuple[str, ...]
    """Parts that were live."""
    removed: tuple[str, ...]
    """Parts that were deleted."""


def forget_features(
    store: Objects,
    image_ids: Collection[str],
    on_wait: Callable[[str], None] = lambda holders: None,
    on_shard: Callable[[int, int], None] = lambda num_done, num_shards: None,
    times: LeaseTimes | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> ForgottenFeatures:
    """Takes images out of a store; continues what was killed, and does nothing where they are gone.

    Runs that are computing features of them right now are waited for, until they end or are silent for so long that
    they count as dead. Takes what `find_in_parts` takes, twice if anything is found.

    Args:
        store: prefix of the store.
        image_ids: what to take out.
        on_wait: told who is waited for.
        on_shard: told after each shard that is copied how many of how many are done.
        times: of the leases of runs on this store.
        sleep: waits for seconds.

    Raises:
        UsageError: another command replaced one of the parts meanwhile; start again.
        CorruptObject: a part is damaged; names it.
        InfrastructureError: the store can't be reached.
    """
    leases = Leases(store, times, sleep=sleep)
    while True:
        others = [lease for lease in leases.others() if not uncovered(list(image_ids), [lease]).all()]
        if not others:
            break
        on_wait("; ".join(sorted({str(lease.holder) for lease in others})))
        sleep(_LOOK_AGAIN_S)
    found = find_in_parts(store, image_ids)
    live = {image_id for part in found if part.state is PartState.LIVE for image_id in part.rows}
    num_rows, retired = 0, ()
    if live:
        done = compact(store, forget=live, on_shard=on_shard)
        num_rows, retired = done.num_forgotten, done.retired
        found = find_in_parts(store, image_ids)
    removed = tuple(part.part for part in found if part.state is not PartState.LIVE)
    for part in removed:
        delete_all(part_objects(store, part))
    return ForgottenFeatures(num_rows, retired, removed)
