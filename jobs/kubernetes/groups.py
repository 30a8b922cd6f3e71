"""Worker groups of a recipe: how many GPUs their pods have, how many pods there may be, who runs on them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from jobs.config import Recipe
from jobs.kubernetes.config import KubernetesConfig, WorkerConfig
from storage.errors import UsageError

__all__ = ["Group", "placed_recipe", "worker_groups"]


_NUM_DECODE_PODS = 4
"""Upper bound where none is given: how much reading and decoding there is depends on the data."""


@dataclass(frozen=True, slots=True)
class Group:
    """Workers of one kind."""

    name: str
    workers: WorkerConfig
    gpus: int
    """Of each pod."""
    max_replicas: int
    node_resource: str | None
    """Ray resource that marks its pods; None: anything may run there."""


@dataclass(frozen=True, slots=True)
class _Need:
    """What the processes take that run on a group."""

    field: str
    """Of the recipe's section `kubernetes`, for messages."""
    process: str
    num_processes: int
    cpus: float
    gpus: float
    """Of each process."""


def worker_groups(recipe: Recipe, config: KubernetesConfig) -> list[Group]:
    """The groups of workers that a recipe needs: decoders, each teacher's, the trainer's.

    Raises:
        UsageError: settings for a teacher that the recipe hasn't, or pods that hold none of their processes.
    """
    unknown = sorted(set(config.teachers) - {teacher.kind for teacher in recipe.teachers})
    if unknown:
        known = ", ".join(teacher.kind for teacher in recipe.teachers) or "none"
        raise UsageError(f"kubernetes.teachers: no teacher {', '.join(unknown)} in the recipe; it has: {known}")
    decode = config.decode
    most = decode.max_replicas or max(_NUM_DECODE_PODS, decode.min_replicas)
    groups = [Group("decode", decode, decode.gpus or 0, most, None)]
    groups += list(_teacher_groups(recipe, config))
    training = recipe.training
    need = _Need(
        "trainer",
        "a process that trains",
        training.num_workers,
        training.cpus_per_worker,
        1.0 if training.use_gpu else recipe.evaluation.gpus_per_actor,
    )
    return [*groups, _group("trainer", config.trainer, need, None)]


def placed_recipe(recipe: Recipe) -> Recipe:
    """The recipe with each teacher sent to the pods of its own group; the outputs are the same."""
    teachers = tuple(
        teacher.model_copy(update={"node_resource": _node_resource(teacher.kind)}) for teacher in recipe.teachers
    )
    return recipe.model_copy(update={"teachers": teachers})


def _teacher_groups(recipe: Recipe, config: KubernetesConfig) -> Iterator[Group]:
    """None where the teachers run beside the student."""
    if recipe.training.teacher_mode == "online":
        return
    features = recipe.features
    for teacher in recipe.teachers:
        named = teacher.kind in config.teachers
        need = _Need(
            f"teachers.{teacher.kind}" if named else "teacher",
            f"a process of teacher {teacher.kind}",
            features.num_actors,
            features.num_cpus_per_actor,
            features.num_gpus_per_actor,
        )
        workers = config.teachers.get(teacher.kind, config.teacher)
        resource = _node_resource(teacher.kind)
        yield _group(resource, workers, need, resource)


def _group(name: str, workers: WorkerConfig, need: _Need, node_resource: str | None) -> Group:
    gpus = math.ceil(need.gpus) if workers.gpus is None else workers.gpus
    per_pod = math.floor(workers.cpus / need.cpus)
    if need.gpus:
        per_pod = min(per_pod, math.floor(gpus / need.gpus))
    if per_pod < 1:
        raise UsageError(
            f"kubernetes.{need.field}: {need.process} takes {need.cpus:g} CPUs and {need.gpus:g} GPUs, a pod has "
            f"{workers.cpus} and {gpus}; give the pod more"
        )
    needed = max(math.ceil(need.num_processes / per_pod), workers.min_replicas)
    return Group(name, workers, gpus, workers.max_replicas or needed, node_resource)


def _node_resource(kind: str) -> str:
    """Also the name of a group, which Kubernetes wants in lower case and without underscores."""
    return f"teacher-{kind.lower().replace('_', '-')}"
