"""Somebody who ends processes, nodes and the object server of a cluster while jobs are at work on it."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from tests.local_cluster import LocalCluster
from tests.s3_server import WeedServer

__all__ = ["Saboteur"]

_GAP_S = 1.0, 5.0
"""Between a fault and the next one, of time in which a job is at work."""
_SERVER_GONE_S = 0.5, 3.0


class Saboteur:
    """Deals faults of a seeded order at seeded moments, within a `with` block.

    Args:
        cluster: whose job server has the jobs; as many workers are there after a fault as before.
        weed: the object server; its data stay.
        faults: how many of each kind: `worker` (process of a task or an actor), `node`, `driver` (of a job), `server`.
        seed: of order and moments.
    """

    def __init__(self, cluster: LocalCluster, weed: WeedServer, faults: Mapping[str, int], seed: int) -> None:
        self._cluster, self._weed, self._generator = cluster, weed, random.Random(seed)
        self._kinds = [kind for kind, number in sorted(faults.items()) for _ in range(number)]
        self._generator.shuffle(self._kinds)
        self._num_nodes = len(cluster.nodes_beside_head())
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="saboteur", daemon=True)
        self._trouble: BaseException | None = None
        self.dealt: Counter[str] = Counter()
        """Faults so far, by kind."""

    def __enter__(self) -> Saboteur:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """The cluster is whole, and nothing more befalls it."""
        self._stopped.set()
        self._thread.join()
        if self._trouble is not None:
            raise self._trouble

    def _work(self) -> None:
        try:
            for kind in self._kinds:
                self._wait_for_work(self._generator.uniform(*_GAP_S))
                self._replace_nodes()
                while not self._stopped.is_set() and not getattr(self, f"_end_{kind}")():
                    time.sleep(0.2)
                if self._stopped.is_set():
                    return
                self.dealt[kind] += 1
        except BaseException as error:  # noqa: BLE001 - raised where the block ends
            self._trouble = error

    def _wait_for_work(self, gap_s: float) -> None:
        while gap_s > 0 and not self._stopped.wait(0.2):
            if self._cluster.job_pids():
                gap_s -= 0.2

    def _end_worker(self) -> bool:
        busy = [pid for node in self._cluster.nodes_beside_head() for pid in self._cluster.busy_pids(node)]
        return bool(busy) and _killed(self._generator.choice(busy))

    def _end_node(self) -> bool:
        self._cluster.kill_node(self._generator.choice(self._cluster.nodes_beside_head()))
        self._replace_nodes()
        return True

    def _replace_nodes(self) -> None:
        """One that was taken for dead on a busy machine ends by itself."""
        while len(self._cluster.nodes_beside_head()) < self._num_nodes:
            self._cluster.wait_until_up(self._cluster.add_node())

    def _end_driver(self) -> bool:
        found = self._cluster.job_pids()
        return bool(found) and _killed(self._generator.choice(found))

    def _end_server(self) -> bool:
        self._weed.kill()
        time.sleep(self._generator.uniform(*_SERVER_GONE_S))
        self._weed.start()
        return True


def _killed(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
