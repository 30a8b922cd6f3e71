"""On what a run ran: versions, machine, and the few variables of the environment that change how things run."""

from __future__ import annotations

import fnmatch
import os
import platform
import sys
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from storage.keys import Json
from storage.redaction import is_secret_name, redact

__all__ = ["cluster_nodes", "machine", "noted_environment", "versions"]

_NOTED = (
    "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "CUDA_*", "HF_HUB_OFFLINE",
    "KMP_*", "LC_ALL", "MKL_*", "NCCL_*", "NVIDIA_VISIBLE_DEVICES", "OMP_*", "PYTHONHASHSEED", "PYTORCH_*", "RAY_*",
    "SAILLOFT_*", "TOKENIZERS_PARALLELISM", "TORCH_*", "TZ",
)  # fmt: skip
"""Variables that are noted, as shell patterns; all others stay unseen."""

_PACKAGES = (
    "numpy", "obstore", "pillow", "pyarrow", "pycocotools", "ray", "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip


def noted_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables that say how things run, without those whose names tell a secret, and without secrets in the others.

    >>> noted_environment({"OMP_NUM_THREADS": "1", "HOME": "/", "RAY_AUTH_TOKEN": "x", "AWS_SECRET_ACCESS_KEY": "y"})
    {'OMP_NUM_THREADS': '1'}
    """
    names = [name for name in sorted(environment) if any(fnmatch.fnmatchcase(name, pattern) for pattern in _NOTED)]
    return {name: redact(environment[name], environment) for name in names if not is_secret_name(name)}


def versions() -> dict[str, Json]:
    """Of Python and of the packages that results depend on; null where one is absent."""
    found: dict[str, Json] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def machine() -> dict[str, Json]:
    """Kind of this machine: system, processor, memory."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
        "memory_gib": round(pages * page_bytes / 2**30, 1),
        "node": platform.node(),
    }


def cluster_nodes() -> list[Json]:
    """Nodes of the Ray session by what they have, and how many there are of each kind; empty without a session."""
    if "ray" not in sys.modules:
        return []
    import ray

    if not ray.is_initialized():
        return []
    kinds = Counter(_kind(cast("dict[str, Any]", node["Resources"])) for node in ray.nodes() if node["Alive"])
    return [{**dict(kind), "nodes": number} for kind, number in sorted(kinds.items())]


def _kind(resources: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    kept = {name: amount for name, amount in resources.items() if name in ("CPU", "GPU")}
    kept |= {name: amount for name, amount in resources.items() if name.startswith("accelerator_type:")}
    return tuple(sorted({**kept, "memory_gib": round(resources.get("memory", 0) / 2**30)}.items()))


def _processor() -> str:
    """As Linux names it; elsewhere what Python knows."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor()
