"""What `sailloft doctor` looks at on a machine: one line each, with what to do about it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from jobs.machine import machine
from storage.errors import SailloftError
from storage.objects import Objects

__all__ = [
    "EXTRAS",
    "Check",
    "Extra",
    "Health",
    "check_extras",
    "check_files",
    "check_home",
    "check_libraries",
    "check_memory",
    "check_python",
    "check_ray",
    "check_shared_memory",
    "check_temporary",
    "check_torch",
    "check_workspace",
    "examine_machine",
]

_GIB = 2**30
_LITTLE_MEMORY_GIB, _TOO_LITTLE_MEMORY_GIB = 6.0, 2.0
"""A run has five or six processes with torch; on two cores each held 0.55 to 0.64 GiB."""
_PROCESSES = "five or six processes of about 0.6 GiB each"
_LITTLE_SPACE_GIB, _TOO_LITTLE_SPACE_GIB = 5.0, 0.5
_MANY_FILES = 4096
"""Below this Ray itself warns."""
_SHARED_SHARE = 0.3
"""Of the memory: what Ray takes for objects that processes share."""
_FULL_SHARE = 0.95
"""Where Ray no longer writes objects to a disk."""


class Health(StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    """Works, but something will be slow, or fail with large data."""
    PROBLEM = "problem"
    """Commands will fail."""
    OPTIONAL = "optional"
    """Isn't there and isn't needed, but for what it says."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    health: Health
    found: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Extra:
    """Optional packages of the distribution."""

    name: str
    modules: tuple[str, ...]
    purpose: str


EXTRAS = (
    Extra("view", ("starlette", "uvicorn"), "pages in the browser, `sailloft view`"),
    Extra("schedule", ("apscheduler",), "`sailloft schedule` on this machine"),
    Extra("lora", ("peft",), "fine-tuning with low-rank adapters, `training.lora`"),
    Extra("mlflow", ("mlflow",), "curves and the registry of students in MLflow"),
    Extra("wandb", ("wandb",), "curves in Weights & Biases"),
    Extra("zarr", ("zarr", "tensorstore"), "reading feature stores by other libraries"),
    Extra("sam2", ("sam2",), "the teacher SAM 2 by its authors' own code; by transformers it needs nothing"),
    Extra("detectron2", ("detectron2",), "the teacher Mask2Former by its authors' own code; likewise"),
)
"""Extras for users, by what they are for."""


def examine_machine(workspace: str) -> list[Check]:
    """Looks at everything; writes nothing but a file of no bytes in the workspace, if that is a local folder.

    Args:
        workspace: URL where outputs are to go.
    """
    return [
        check_python(),
        *check_libraries(),
        check_torch(),
        check_ray(),
        check_memory(_memory_gib()),
        check_shared_memory(Path("/dev/shm"), _memory_gib()),
        check_files(_open_files()),
        check_temporary(Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())),
        check_home(Path(os.path.expanduser("~"))),
        check_workspace(workspace),
        *check_extras(),
    ]


def check_python() -> Check:
    """Python and the machine that it runs on."""
    facts = machine()
    found = f"{sys.version.split()[0]} in {sys.prefix}; {facts['system']} {facts['architecture']}, {_cpus()} CPUs"
    return Check("python", Health.OK, found)


def check_libraries(distribution: str = "sailloft") -> list[Check]:
    """Whether the packages that Sailloft needs are there, in versions that it works with; one line for each misfit."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(line) for line in requires(distribution) or ()]
    except PackageNotFoundError:
        return [Check("packages", Health.WARNING, f"{distribution} runs from its sources", "pip install -e .")]
    needed = [item for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})]
    misfits: list[Check] = []
    for item in needed:
        try:
            have = version(item.name)
        except PackageNotFoundError:
            have = "nothing"
        if have == "nothing" or not item.specifier.contains(have, prereleases=True):
            remedy = f"pip install '{item.name}{item.specifier}'"
            misfits.append(Check("packages", Health.PROBLEM, f"{item.name}{item.specifier}: found {have}", remedy))
    return misfits or [Check("packages", Health.OK, f"all {len(needed)} that are needed are there")]


def check_torch() -> Check:
    """The build of torch, and whether it finds an accelerator that is there."""
    try:
        import torch
    except (ImportError, OSError) as error:
        remedy = "install it again: pip install --force-reinstall torch"
        return Check("torch", Health.PROBLEM, f"can't be imported: {error}", remedy)
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    found = f"{torch.__version__} (build for {build})"
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
        return Check("torch", Health.OK, f"{found}; GPUs: {names}")
    if torch.backends.mps.is_available():
        return Check("torch", Health.OK, f"{found}; Apple's GPU by MPS, for `predict --device mps`")
    if Path("/dev/nvidiactl").exists():
        remedy = "install a build for CUDA that the driver takes, see pytorch.org; `nvidia-smi` shows the driver"
        return Check("torch", Health.WARNING, f"{found}; doesn't find this machine's GPU", remedy)
    return Check("torch", Health.OK, f"{found}; no GPU: the demo and small students are fine without")


def check_ray() -> Check:
    """Ray's version, and which cluster commands would join."""
    try:
        number = version("ray")
    except PackageNotFoundError:
        return Check("ray", Health.PROBLEM, "isn't installed", "pip install 'ray[data,default,train]'")
    address = os.environ.get("RAY_ADDRESS")
    place = f"joins the cluster at {address} (RAY_ADDRESS)" if address else "starts a session on this machine as needed"
    return Check("ray", Health.OK, f"{number}; {place}")


def check_memory(memory_gib: float) -> Check:
    """Memory that this process may use.

    Args:
        memory_gib: of the machine, or of its container.
    """
    found = f"{memory_gib:.1f} GiB"
    if memory_gib < _TOO_LITTLE_MEMORY_GIB:
        return Check("memory", Health.PROBLEM, found, f"a run has {_PROCESSES}; give 6 GiB or more")
    if memory_gib < _LITTLE_MEMORY_GIB:
        return Check("memory", Health.WARNING, found, f"a run has {_PROCESSES}; end other programs, or give more")
    return Check("memory", Health.OK, found)


def check_shared_memory(folder: Path, memory_gib: float) -> Check:
    """Where processes share pictures and features.

    Args:
        folder: of shared memory, on Linux.
        memory_gib: of the machine.
    """
    if not folder.is_dir():
        return Check("shared memory", Health.OK, f"no {folder} on this system; Ray uses its temporary folder")
    size_gib, wanted_gib = shutil.disk_usage(folder).total / _GIB, _SHARED_SHARE * memory_gib
    found = f"{size_gib:.1f} GiB in {folder}"
    if size_gib < 0.9 * wanted_gib:
        remedy = (
            f"Ray wants {wanted_gib:.1f} GiB and goes to the disk instead, which is slow; in a container: "
            f"docker run --shm-size={wanted_gib:.0f}g"
        )
        return Check("shared memory", Health.WARNING, found, remedy)
    return Check("shared memory", Health.OK, found)


def check_files(limit: int | None) -> Check:
    """How many files a process may have open.

    Args:
        limit: hard limit, which Ray takes as far as it goes; None: there is none.
    """
    if limit is None or limit >= _MANY_FILES:
        return Check("open files", Health.OK, "no limit" if limit is None else f"{limit:,} per process")
    remedy = "many workers hold more; have it raised: `ulimit -Hn`, in a container docker run --ulimit nofile=65536"
    return Check("open files", Health.WARNING, f"{limit:,} per process", remedy)


def check_temporary(folder: Path) -> Check:
    """Where Ray keeps its logs, and objects that don't fit into memory.

    Args:
        folder: of temporary files.
    """
    remedy = "free space there, or set RAY_TMPDIR to another folder with a short path"
    if not os.access(folder, os.W_OK):
        return Check("temporary files", Health.PROBLEM, f"{folder} can't be written", remedy)
    usage = shutil.disk_usage(folder)
    free_gib = usage.free / _GIB
    found = f"{free_gib:.1f} GiB free in {folder}"
    if free_gib < _TOO_LITTLE_SPACE_GIB or usage.free < (1 - _FULL_SHARE) * usage.total:
        return Check("temporary files", Health.WARNING, f"{found}, nearly full", remedy)
    return Check("temporary files", Health.OK, found)


def check_home(folder: Path) -> Check:
    """Where Ray keeps the token that guards a session.

    Args:
        folder: of the user; it need not exist.
    """
    if os.access(_nearest_that_exists(folder), os.W_OK):
        return Check("home", Health.OK, str(folder))
    remedy = "set HOME to a folder that can be written: Ray keeps the token of its session there"
    return Check("home", Health.PROBLEM, f"{folder} can't be written", remedy)


def check_workspace(url: str) -> Check:
    """Whether outputs can go there: space and permission of a folder, access to an object store.

    Args:
        url: of the workspace.
    """
    try:
        objects = Objects.open(url)
        if objects.local_path is None:
            num = len(objects.folders())
            return Check("workspace", Health.OK, f"{url} can be listed ({num} folders); writing wasn't tried")
        return _local_workspace(objects.local_path)
    except SailloftError as error:
        return Check("workspace", Health.PROBLEM, str(error), "then try again: sailloft doctor --workspace URL")


def _local_workspace(folder: Path) -> Check:
    place = _nearest_that_exists(folder)
    if not place.is_dir():
        return Check("workspace", Health.PROBLEM, f"{place} is a file", "name a folder: workspace=PATH in a recipe")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        remedy = "change the permissions, or name another one: workspace=PATH in a recipe"
        return Check("workspace", Health.PROBLEM, f"{place} can't be written: {error.strerror}", remedy)
    free_gib = shutil.disk_usage(place).free / _GIB
    found = f"{free_gib:.1f} GiB free for {folder}"
    remedy = "features take space, `sailloft plan RECIPE` says how much; free some, or use another workspace"
    if free_gib < _TOO_LITTLE_SPACE_GIB:
        return Check("workspace", Health.PROBLEM, found, remedy)
    if free_gib < _LITTLE_SPACE_GIB:
        return Check("workspace", Health.WARNING, found, remedy)
    return Check("workspace", Health.OK, found)


def _nearest_that_exists(folder: Path) -> Path:
    # `Path.exists` raises where a folder above may not be searched.
    return next((path for path in (folder, *folder.parents) if os.path.exists(path)), Path("/"))


def check_extras() -> list[Check]:
    """Which optional packages are there."""
    return [_extra(extra) for extra in EXTRAS]


def _extra(extra: Extra) -> Check:
    missing = [module for module in extra.modules if find_spec(module) is None]
    if not missing:
        return Check(f"[{extra.name}]", Health.OK, f"installed, for {extra.purpose}")
    remedy = f"if you want it: pip install 'sailloft[{extra.name}]'"
    if extra.name == "detectron2":
        remedy += ", and detectron2 from its sources"
    return Check(f"[{extra.name}]", Health.OPTIONAL, f"not installed; for {extra.purpose}", remedy)


def _memory_gib() -> float:
    """Of the machine or, where that is less, of the container."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    texts = [path.read_text().strip() for path in limits if path.is_file()]
    return min([total, *(int(text) for text in texts if text.isdigit())]) / _GIB


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open_files() -> int | None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard
