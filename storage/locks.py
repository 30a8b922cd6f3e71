"""Work that one process at a time does: a lease that is claimed whole, or refused with the name of who holds it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from storage.errors import Locked
from storage.leases import HeldLease, Leases, LeaseTimes
from storage.objects import Objects

__all__ = ["exclusive", "lock_times"]

_BEATS_PER_EXPIRY = 12


def lock_times(expires_after_s: float) -> LeaseTimes:
    """Times of a lock that is free once its holder gave no sign of life for so long."""
    return LeaseTimes(expires_after_s / _BEATS_PER_EXPIRY, expires_after_s)


@contextmanager
def exclusive(
    objects: Objects,
    name: str,
    times: LeaseTimes,
    on_wait: Callable[[HeldLease], None] = lambda holder: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Generator[None]:
    """Holds a lock while the body runs.

    Where somebody holds it, the next sign of life is waited for: with it the lock is refused; without it, it expires
    and is taken over. A holder of this machine whose process is gone isn't waited for.

    Args:
        objects: prefix of what is locked.
        name: of the work.
        times: heartbeat and expiry.
        on_wait: told once of a holder that is waited for.
        clock: seconds, monotonic.
        sleep: waits for seconds.

    Raises:
        Locked: somebody else is at work; names who, since when, and when that could end at the earliest.
        InfrastructureError: the store can't be reached.
    """
    leases = Leases(objects, times, clock, sleep)
    seen: HeldLease | None = None
    while True:
        holder = next((lease for lease in leases.others() if lease.name == name), None)
        lease = None if holder is not None else leases.claim(name, [name])
        if lease is not None:
            break
        if holder is not None:
            if seen is None:
                on_wait(holder)
            elif (holder.nonce, holder.num_beats) != (seen.nonce, seen.num_beats):
                raise Locked(_refusal(objects, name, holder))
            seen = holder
        sleep(times.look_again_s)
    with lease:
        yield


def _refusal(objects: Objects, name: str, holder: HeldLease) -> str:
    expiry = datetime.now(UTC) + timedelta(seconds=holder.expires_after_s)
    until = expiry.isoformat(timespec="seconds")
    return (
        f"{objects.url}: expected nobody else at work ({name}), found {holder.holder}, since {holder.since}; "
        f"it is free when that ends, or at {until} without a further sign of life: try again then"
    )
