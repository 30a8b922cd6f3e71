"""A Ray cluster of several nodes on loopback, whose nodes and actors can be killed without a warning."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from jobs.session import RAY_ENVIRONMENT
from tests.s3_server import free_port

__all__ = ["LocalCluster", "descendants", "process_title"]

_REPOSITORY = Path(__file__).parents[2]
_START_TIMEOUT_S = 120


class LocalCluster:
    """Nodes are process groups of their own, so that all of a node can be killed at once.

    Args:
        folder: for the token and logs.
        num_cpus: that each node is said to have.
        environment: what the nodes' processes have beside the usual.
    """

    def __init__(self, folder: Path, num_cpus: float, environment: Mapping[str, str] | None = None) -> None:
        self._folder, self._num_cpus = folder, num_cpus
        # A short path: sockets below it may not be longer than 107 characters.
        self._ray_folder = tempfile.mkdtemp(prefix="sl-", dir="/tmp")
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.address = f"{self._ip(0)}:{free_port()}"
        self.environment = {
            **os.environ,
            **RAY_ENVIRONMENT,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # several nodes; each is told to stay on loopback
            "RAY_raylet_start_wait_time_s": str(_START_TIMEOUT_S),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_ADDRESS": self.address,
            "PYTHONPATH": str(_REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        self._nodes: list[subprocess.Popen[bytes]] = []

    def start(self, num_nodes: int) -> None:
        """Starts the head and further nodes."""
        port = self.address.rpartition(":")[2]
        head = [f"--port={port}", "--head", "--include-dashboard=false", f"--ray-client-server-port={free_port()}"]
        self._start_node([*head, f"--temp-dir={self._ray_folder}"])
        self._wait_until_up(0)
        for _ in range(num_nodes - 1):  # one by one: together they are late on a busy machine
            self._wait_until_up(self.add_node())

    @property
    def newest_node(self) -> int:
        """Number of the node that was added last."""
        return len(self._nodes) - 1

    def add_node(self) -> int:
        """Starts one more node and gives its number; it joins within seconds."""
        self._start_node([f"--address={self.address}"])
        return self.newest_node

    def kill_node(self, number: int) -> None:
        """Kills all processes of a node at once; the head has the number 0."""
        node = self._nodes[number]
        for pid in [node.pid, *descendants(node.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait(timeout=30)

    def drain_node(self, number: int, deadline_s: int) -> None:
        """Tells the cluster that a node goes in so many seconds; killing it then is left to others."""
        ask = f"[n] = [n['NodeID'] for n in ray.nodes() if n['Alive'] and n['NodeName'] == '{self._ip(number)}']"
        node_id = self._run(["-c", f"import ray; ray.init(logging_level='ERROR'); {ask}; print(n)"]).split()[-1]
        reason = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", f"--node-id={node_id}"]
        drain = ["drain-node", f"--address={self.address}", f"--deadline-remaining-seconds={deadline_s}", *reason]
        self._run(["-m", "ray.scripts.scripts", *drain])

    def actor_pids(self, name: str, number: int | None = None) -> list[int]:
        """Processes of the actors of a class, on all nodes or on one."""
        found: list[int] = []
        for node in self._nodes if number is None else [self._nodes[number]]:
            found += [pid for pid in descendants(node.pid) if process_title(pid).startswith(f"ray::{name}")]
        return found

    def stop(self) -> None:
        """Ends every node."""
        for number in reversed(range(len(self._nodes))):
            if self._nodes[number].poll() is None:
                self.kill_node(number)
        shutil.rmtree(self._ray_folder, ignore_errors=True)

    @staticmethod
    def _ip(number: int) -> str:
        """Each node's own, so that a driver is joined to the head; Ray makes the network's address of 127.0.0.1."""
        return f"127.0.0.{2 + number}"

    def _start_node(self, options: list[str]) -> None:
        ports = [
            f"--{name}={free_port()}"
            for name in (
                "node-manager-port",
                "object-manager-port",
                "dashboard-agent-listen-port",
                "dashboard-agent-grpc-port",
                "runtime-env-agent-port",
                "metrics-export-port",
            )
        ]
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
            f"--node-ip-address={self._ip(len(self._nodes))}", f"--num-cpus={self._num_cpus}",
            f"--object-store-memory={128 * 2**20}", "--min-worker-port=0", "--max-worker-port=0", *ports, *options,
        ]  # fmt: skip
        environment = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        with (self._folder / f"node{len(self._nodes)}.log").open("wb") as log:
            self._nodes.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            )

    def _run(self, arguments: Sequence[str]) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=_START_TIMEOUT_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _wait_until_up(self, number: int) -> None:
        log = self._folder / f"node{number}.log"
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while self._nodes[number].poll() is None and time.monotonic() < deadline_s:
            if b"Ray runtime started" in log.read_bytes():
                return
            time.sleep(0.2)
        raise RuntimeError(f"node {number} did not come up:\n{log.read_text()[-2000:]}")


def descendants(pid: int) -> list[int]:
    """Processes started by a process or by its children, whatever their session."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))

    def below(parent: int) -> Iterator[int]:
        for child in children.get(parent, ()):
            yield child
            yield from below(child)

    return list(below(pid))


def process_title(pid: int) -> str:
    with suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    return ""
