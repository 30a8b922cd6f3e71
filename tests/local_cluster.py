"""A Ray cluster of one or several nodes on loopback, with token authentication on and, if wanted, a job server.

Its nodes and processes can be killed without a warning.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from jobs.session import RAY_ENVIRONMENT
from jobs.submission.code_folder import RECIPE_NAME
from tests.s3_server import free_port

__all__ = ["JobClient", "LocalCluster", "descendants", "job_server", "process_title"]

_REPOSITORY = Path(__file__).parents[1]
_START_TIMEOUT_S = 120
_COMMAND_TIMEOUT_S = 900
_NO_WORK = re.compile(r"ray::(IDLE|\w*Agent)\b")


@dataclass(frozen=True)
class JobClient:
    """Somebody who hands jobs to a cluster: the URL of its job server, and their own environment."""

    address: str
    environment: Mapping[str, str]

    def command(self, *arguments: str) -> list[str]:
        """A command line of Sailloft's that talks to the job server."""
        return [sys.executable, "-m", "jobs", *arguments, "--address", self.address]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command that talks to the job server, such as `submit`."""
        return self._run(self.command(*arguments))

    def run_here(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command that needs no job server, such as `registry`."""
        return self._run([sys.executable, "-m", "jobs", *arguments])

    def start(self, *arguments: str, output: IO[str] | int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Starts a command that talks to the job server; its standard output can be read, or goes to a file."""
        return subprocess.Popen(
            self.command(*arguments), env=self.environment, cwd=_REPOSITORY, stdout=output, text=True
        )

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment,
            cwd=_REPOSITORY,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )


class LocalCluster:
    """Nodes are process groups of their own, so that all of a node can be killed at once.

    Args:
        folder: for the token and logs.
        num_cpus: that each node is said to have.
        environment: what processes of nodes and clients have beside the usual.
        head_cpus: that the head is said to have; None: as many as the others.
        jobs: whether the head has a job server, which takes seconds more to start.
        modules: folder of further Python modules and distributions; None: none.
    """

    def __init__(
        self,
        folder: Path,
        num_cpus: float,
        environment: Mapping[str, str] | None = None,
        head_cpus: float | None = None,
        jobs: bool = False,
        modules: Path | None = None,
    ) -> None:
        self._folder, self._num_cpus = folder, num_cpus
        self._head_cpus = num_cpus if head_cpus is None else head_cpus
        # A short path: sockets below it may not be longer than 107 characters.
        self._ray_folder = tempfile.mkdtemp(prefix="sl-", dir="/tmp")
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.address = f"{self._ip(0)}:{free_port()}"
        elsewhere = {
            **os.environ,
            **RAY_ENVIRONMENT,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "PYTHONPATH": os.pathsep.join(map(str, filter(None, (_REPOSITORY, modules)))),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            # The `python` of a job must be this one.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **(environment or {}),
        }
        elsewhere.pop("RAY_ADDRESS", None)
        self.client = JobClient(f"http://127.0.0.1:{free_port()}", elsewhere)
        """Hands in jobs, if there is a job server."""
        self.environment = {
            **elsewhere,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # several nodes; each is told to stay on loopback
            "RAY_raylet_start_wait_time_s": str(_START_TIMEOUT_S),
            "RAY_ADDRESS": self.address,
        }
        """What a driver needs that joins the cluster by itself."""
        self._jobs = jobs
        self._nodes: list[subprocess.Popen[bytes]] = []

    def start(self, num_nodes: int) -> None:
        """Starts the head and further nodes."""
        port = self.address.rpartition(":")[2]
        head = [f"--port={port}", "--head", f"--ray-client-server-port={free_port()}", f"--num-cpus={self._head_cpus}"]
        dashboard = ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.client.address.rpartition(':')[2]}"]
        dashboard = ["--include-dashboard=true", *dashboard] if self._jobs else ["--include-dashboard=false"]
        self._start_node([*head, *dashboard, f"--temp-dir={self._ray_folder}"])
        self.wait_until_up(0)
        if self._jobs:
            self._wait_for_job_server()
        for _ in range(num_nodes - 1):  # one by one: together they are late on a busy machine
            self.wait_until_up(self.add_node())

    @property
    def newest_node(self) -> int:
        """Number of the node that was added last."""
        return len(self._nodes) - 1

    def add_node(self, *options: str) -> int:
        """Starts one more node, with options of `ray start`, and gives its number; it joins within seconds."""
        self._start_node([f"--address={self.address}", f"--num-cpus={self._num_cpus}", *options])
        return self.newest_node

    def wait_until_up(self, number: int) -> None:
        """Waits for a node that has been started; it may have joined the cluster a moment later."""
        log = self._folder / f"node{number}.log"
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while self._nodes[number].poll() is None and time.monotonic() < deadline_s:
            if b"Ray runtime started" in log.read_bytes():
                return
            time.sleep(0.2)
        raise RuntimeError(f"node {number} did not come up:\n{log.read_text()[-2000:]}")

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
        return self._pids(lambda title: title.startswith(f"ray::{name}"), number)

    def busy_pids(self, number: int) -> list[int]:
        """Processes of a node that tasks and actors have, whatever they do; not its agents, with which it ends."""
        return self._pids(lambda title: title.startswith("ray::") and not _NO_WORK.match(title), number)

    def job_pids(self) -> list[int]:
        """Processes of the head that run the recipes of jobs."""
        return self._pids(lambda title: "\0jobs\0" in title and f"\0{RECIPE_NAME}\0" in title, 0)

    def nodes_beside_head(self) -> list[int]:
        """Numbers of the nodes that haven't ended, but the head's."""
        return [number for number, node in enumerate(self._nodes) if number and node.poll() is None]

    def _pids(self, fits: Callable[[str], bool], number: int | None) -> list[int]:
        found: list[int] = []
        for node in self._nodes if number is None else [self._nodes[number]]:
            found += [pid for pid in descendants(node.pid) if fits(process_title(pid))]
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
            f"--node-ip-address={self._ip(len(self._nodes))}",
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

    def _wait_for_job_server(self) -> None:
        token = Path(self.client.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        url, headers = f"{self.client.address}/api/jobs/", {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(url, headers=headers)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while self._nodes[0].poll() is None and time.monotonic() < deadline_s:
            try:
                with urllib.request.urlopen(request, timeout=5):
                    return
            except OSError:
                time.sleep(0.5)
        log = (self._folder / "node0.log").read_text()[-3000:]
        raise RuntimeError(f"the job server did not come up within {_START_TIMEOUT_S} s:\n{log}")


@contextmanager
def job_server(folder: Path, num_cpus: int = 4) -> Generator[JobClient]:
    """A head with its job server and nothing else, for its clients.

    Args:
        folder: for the token and logs.
        num_cpus: as Ray counts them.
    """
    cluster = LocalCluster(folder, num_cpus, jobs=True)
    try:
        cluster.start(1)
        yield cluster.client
    finally:
        cluster.stop()


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
