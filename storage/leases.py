"""Leases: who is computing which images, so that two runs at once don't do the same work.

    leases/<name>.json             create-only; who holds it; its heartbeat rewrites it
    leases/<name>-<nonce>.ids      which images: sorted 64-bit digests of their ids

A lease saves work, and nothing depends on it: where two runs compute one image all the same, the
feature store's index decides which of both counts.

No clocks of two machines are compared. An observer takes a lease for dead once it has stood unchanged
for the time that it states, of the observer's own monotonic clock; or at once if its holder was a process of
the same machine that is gone, so that a run that was killed can be started again without a wait.

Two that claim overlapping images at the same moment: each writes its lease as `claiming` and looks
again. Who then sees one that is `held` withdraws; of those that are `claiming` the smaller name stays,
after the others have either withdrawn or turned out to have been first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from storage.errors import InfrastructureError, ObjectNotFound
from storage.keys import canonical_json
from storage.objects import Objects

__all__ = ["HeldLease", "Holder", "Lease", "LeaseTimes", "Leases", "id_digests", "uncovered"]

logger = logging.getLogger(__name__)

Digests: TypeAlias = npt.NDArray[np.uint64]
_State: TypeAlias = Literal["claiming", "held"]

_PREFIX = "leases"


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """How fast a process's leases live and die."""

    heartbeat_s: float = 10.0
    """Between two signs of life."""
    expires_after_s: float = 60.0
    """Without a sign of life until an observer takes the holder for dead; several heartbeats."""
    look_again_s: float = 0.2
    """Between two looks of one who claims and waits for others that claim."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, so that others can say who it is and, on its own machine, whether it is alive."""

    host: str
    """Name of the machine, for people."""
    machine: str
    """Tells machines and containers apart, and a machine from itself before it was started anew."""
    pid: int
    birth: str
    """Moment of the process's start as the kernel counts it: numbers of processes come again. May be empty."""

    @classmethod
    def this_process(cls) -> Holder:
        """The process that asks."""
        return cls(socket.gethostname(), _machine(), os.getpid(), _birth(os.getpid()))

    def is_gone(self) -> bool:
        """Whether it was a process of this machine that has ended; False where that can't be known."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return bool(self.birth) and _birth(self.pid) != self.birth

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}"


@dataclass(frozen=True, eq=False)
class HeldLease:
    """A lease as others see it."""

    name: str
    nonce: str
    holder: Holder
    state: _State
    digests: Digests
    """Sorted."""
    since: str
    """When it was claimed, in UTC, by its holder's clock: for people."""
    num_beats: int
    """Signs of life so far."""
    expires_after_s: float
    """How long it may stand unchanged until it is dead."""

    def covers(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """Which of these images it covers."""
        if not len(self.digests):
            return np.zeros(len(digests), bool)
        places = np.searchsorted(self.digests, digests)
        return self.digests[np.minimum(places, len(self.digests) - 1)] == digests


class Leases:
    """The leases of one feature store, seen and claimed by one process. Not for several threads.

    Args:
        store: prefix of the store.
        times: of this process's own leases, and of others that don't state their expiry, as early versions didn't.
        clock: seconds, monotonic.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        store: Objects,
        times: LeaseTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._times, self._clock, self._sleep = store, times or LeaseTimes(), clock, sleep
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._digests: dict[str, Digests] = {}
        self._own: set[str] = set()

    def others(self) -> list[HeldLease]:
        """Leases of other runs that are alive, by name; those that are dead are cleared away."""
        names = [info.key for info in self._store.list(_PREFIX) if info.key.endswith(".json")]
        found = [self._look(key.removeprefix(f"{_PREFIX}/").removesuffix(".json")) for key in names]
        alive = [lease for lease in found if lease is not None]
        self._digests = {lease.nonce: lease.digests for lease in alive}
        return [lease for lease in alive if lease.nonce not in self._own]

    def claim(self, name: str, image_ids: Iterable[str]) -> Lease | None:
        """Claims images; the caller has left out those that `others` cover.

        Args:
            name: of the work, such as a plan's key: the same for the same work.
            image_ids: which images.

        Returns:
            The lease, alive until it is closed; None if somebody else came first: look at `others` again.

        Raises:
            InfrastructureError: the store can't be reached.
        """
        digests = id_digests(image_ids)
        lease = Lease(self._store, name, self._times)
        self._own.add(lease.nonce)
        if not lease.begin(digests):
            return None
        while True:
            rivals = [other for other in self.others() if other.covers(digests).any()]
            if any(rival.state == "held" or rival.name < name for rival in rivals):
                lease.close()
                return None
            if not rivals:
                lease.hold()
                return lease
            self._sleep(self._times.look_again_s)

    def _look(self, name: str) -> HeldLease | None:
        try:
            data = self._store.read(_lease_key(name))
        except ObjectNotFound:
            return None
        value = cast("dict[str, Any]", json.loads(data))
        holder = Holder(**value["holder"])
        before, since_s = self._seen.get(name, (b"", 0.0))
        if data != before:
            since_s = self._clock()
            self._seen[name] = data, since_s
        expires_after_s = float(value.get("expires_after_s", self._times.expires_after_s))
        if holder.is_gone() or self._clock() - since_s > expires_after_s:
            logger.info("the lease %s of %s is dead", name, holder)
            _clear(self._store, name, value["nonce"], data)
            return None
        try:
            digests = self._digests_of(name, value["nonce"])
        except ObjectNotFound:
            return None  # it has been given back between two reads
        return HeldLease(
            *(name, value["nonce"], holder, value["state"], digests),
            since=value.get("since", "unknown"),
            num_beats=value["num_beats"],
            expires_after_s=expires_after_s,
        )

    def _digests_of(self, name: str, nonce: str) -> Digests:
        if nonce not in self._digests:
            data = self._store.read(_ids_key(name, nonce))
            self._digests[nonce] = np.frombuffer(data, "<u8").astype(np.uint64)
        return self._digests[nonce]


class Lease:
    """A lease of this process, kept alive by a thread; a context manager that gives it back."""

    def __init__(self, store: Objects, name: str, times: LeaseTimes) -> None:
        self.name, self.nonce = name, secrets.token_hex(8)
        self._store, self._times = store, times
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._state: _State = "claiming"
        self._num_beats = 0
        self._holder = Holder.this_process()
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease {name[:8]}", daemon=True)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, digests: Digests) -> bool:
        """Writes the lease as one that is being claimed; False if another of that name stands there."""
        self._store.create(_ids_key(self.name, self.nonce), digests.astype("<u8").tobytes())
        # The answer to a create may be lost on its way, so that a repeat finds its own lease.
        if not self._store.create(_lease_key(self.name), self._json()) and not self._is_ours():
            self._store.delete(_ids_key(self.name, self.nonce))
            return False
        self._thread.start()
        return True

    def hold(self) -> None:
        """Tells the others that the claim went through."""
        self._state = "held"
        self._write()

    def close(self) -> None:
        """Stops the heartbeat and gives the lease back; one that can't be given back dies by itself."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            if self._is_ours():
                self._store.delete(_lease_key(self.name))
            self._store.delete(_ids_key(self.name, self.nonce))
        except InfrastructureError as error:
            logger.warning("the lease %s could not be given back, it expires by itself: %s", self.name, error)

    def _beat(self) -> None:
        while not self._end.wait(self._times.heartbeat_s):
            try:
                if not self._is_ours():
                    logger.warning("the lease %s was taken for dead: others may compute the same images", self.name)
                    return
                self._write()
            except InfrastructureError as error:
                logger.warning("no sign of life for the lease %s: %s", self.name, error)

    def _is_ours(self) -> bool:
        with suppress(ObjectNotFound):
            return json.loads(self._store.read(_lease_key(self.name)))["nonce"] == self.nonce
        return False

    def _write(self) -> None:
        with self._lock:
            self._num_beats += 1
            self._store.put(_lease_key(self.name), self._json())

    def _json(self) -> bytes:
        return canonical_json(
            {
                "holder": asdict(self._holder),
                "nonce": self.nonce,
                "state": self._state,
                "num_beats": self._num_beats,
                "since": self._since,
                "expires_after_s": self._times.expires_after_s,
            }
        )


def id_digests(image_ids: Iterable[str]) -> Digests:
    """Sorted 64-bit digests: small, and alike for two images about once in 10^7 pairs of runs over 10^6 images."""
    return np.sort(_digests(list(image_ids)))


def uncovered(image_ids: Sequence[str], leases: Iterable[HeldLease]) -> npt.NDArray[np.bool_]:
    """Which of the images no lease covers."""
    digests = _digests(image_ids)
    free = np.ones(len(digests), bool)
    for lease in leases:
        free &= ~lease.covers(digests)
    return free


def _digests(image_ids: Sequence[str]) -> Digests:
    joined = b"".join(hashlib.blake2b(image_id.encode(), digest_size=8).digest() for image_id in image_ids)
    return np.frombuffer(joined, "<u8").astype(np.uint64)


def _clear(store: Objects, name: str, nonce: str, expected: bytes) -> None:
    """Removes a dead lease, unless it stirred or was replaced meanwhile."""
    with suppress(ObjectNotFound):
        if store.read(_lease_key(name)) == expected:
            store.delete(_lease_key(name))
            store.delete(_ids_key(name, nonce))


def _lease_key(name: str) -> str:
    return f"{_PREFIX}/{name}.json"


def _ids_key(name: str, nonce: str) -> str:
    return f"{_PREFIX}/{name}-{nonce}.ids"


@lru_cache(maxsize=1)
def _machine() -> str:
    """Process numbers mean the same to two processes if and only if this is the same for both."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def _birth(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The second field is the program's name in brackets, which may hold spaces; the 22nd is the start.
    after_name = fields.rpartition(")")[2].split()
    return after_name[19] if after_name[0] != "Z" else "ended"
