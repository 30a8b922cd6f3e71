"""How a recipe runs on Kubernetes: images, pods, bounds, accounts, secrets by reference. Changes no output."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from storage.recipe import RecipeModel
from storage.redaction import is_secret_name

__all__ = [
    "KubernetesConfig",
    "PodConfig",
    "ScheduleConfig",
    "SecretVariable",
    "Toleration",
    "VolumeClaim",
    "WorkerConfig",
]


def _pinned(image: str) -> str:
    name = image.rpartition("/")[2]
    if not re.fullmatch(r"[^\s@:]+(?::[\w.-]+)?(?:@sha256:[0-9a-f]{64})?", name):
        raise ValueError(f"expected an image such as sailloft:0.1.0-cuda, got {image!r}")
    tag = name.partition("@")[0].partition(":")[2]
    if "@" not in name and tag in {"", "latest"}:
        raise ValueError(
            f"expected a tag other than latest, or a digest, so that every pod runs the same code; got {image!r}"
        )
    return image


Image = Annotated[str, AfterValidator(_pinned)]
"""An image with a tag or a digest."""
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""A name of a Kubernetes object."""
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""A name of an environment variable."""


class Toleration(RecipeModel):
    """A taint of nodes that pods put up with."""

    key: str | None = None
    """Key of the taint; null: all, with `operator: Exists`."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Whether the taint's value counts."""
    value: str | None = None
    """Value of the taint, with `Equal`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; null: all."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError("value: expected one beside `operator: Equal`, and none beside Exists")
        return self


class SecretVariable(RecipeModel):
    """A variable of the environment whose value stands in a Kubernetes secret."""

    name: VariableName
    """Of the variable, such as `AWS_SECRET_ACCESS_KEY`."""
    secret: Name
    """Of the secret, in the same namespace."""
    key: str = Field(min_length=1, pattern=r"^[-._a-zA-Z0-9]+$")
    """Of the value in the secret."""


class VolumeClaim(RecipeModel):
    """A shared disk that every pod mounts."""

    claim: Name
    """Of the persistent volume claim."""
    path: str = Field(pattern=r"^/[^:]*$")
    """Where it is mounted."""
    access: Literal["read", "write"] = "read"
    """`write` where the workspace lies on it."""


class PodConfig(RecipeModel):
    """One kind of pods."""

    cpus: int = Field(default=4, gt=0)
    """CPUs of a pod, requested and limited."""
    memory_gib: int = Field(default=16, gt=0)
    """Memory of a pod in GiB, requested and limited; a third of it is Ray's object store."""
    disk_gib: int | None = Field(default=None, gt=0)
    """Scratch space of a pod in GiB, where Ray spills objects; null: as the node has it."""
    image: Image | None = None
    """Image of these pods; null: `kubernetes.image`. It needs the same Python, Ray and Sailloft."""
    node_selector: dict[str, str] = Field(default_factory=dict[str, str])
    """Labels of nodes that may run them."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes that may run them, none the less."""


class WorkerConfig(PodConfig):
    """A group of workers that grows and shrinks."""

    gpus: int | None = Field(default=None, ge=0)
    """GPUs of a pod; null: as one process of the recipe needs."""
    min_replicas: int = Field(default=0, ge=0)
    """Pods that are always there."""
    max_replicas: int | None = Field(default=None, gt=0)
    """Upper bound of pods; null: as many as the recipe's processes fill."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_replicas is not None and self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas: expected at most max_replicas ({self.max_replicas}), got {self.min_replicas}"
            )
        return self


class ScheduleConfig(RecipeModel):
    """How a schedule is kept."""

    time_zone: str | None = Field(default=None, pattern=r"^[A-Za-z_+-]+(/[A-Za-z0-9_+-]+)*$")
    """Of the cron expression, such as `Europe/Berlin`; null: the cluster's, usually UTC."""
    starting_deadline_s: int = Field(default=3600, gt=0)
    """A run that could not begin within so many seconds is left out."""
    suspended: bool = False
    """Begin nothing until this is taken back."""
    successful_kept: int = Field(default=3, ge=0)
    """Ended runs that stay to be looked at, where they succeeded."""
    failed_kept: int = Field(default=5, ge=0)
    """Ended runs that stay to be looked at, where they failed."""


class KubernetesConfig(RecipeModel):
    """What KubeRay makes of a recipe."""

    image: Image
    """Image with Sailloft, see the Dockerfile; with a tag or a digest."""
    namespace: Name = "default"
    """Where everything lies."""
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When nodes fetch the image."""
    image_pull_secrets: tuple[Name, ...] = ()
    """Secrets that let nodes fetch it."""
    service_account: Name | None = None
    """Account of Ray's pods that is there already; null: one is made."""
    service_account_annotations: dict[str, str] = Field(default_factory=dict[str, str])
    """Of the account that is made, such as the role that a cloud gives its pods."""
    env: dict[VariableName, str] = Field(default_factory=dict[str, str])
    """Variables of all pods; no secrets, those are named in `secret_env`."""
    secret_env: tuple[SecretVariable, ...] = ()
    """Variables of all pods whose values stand in secrets."""
    secrets: tuple[Name, ...] = ()
    """Secrets of which each value becomes a variable of all pods."""
    volumes: tuple[VolumeClaim, ...] = ()
    """Shared disks."""
    head: PodConfig = PodConfig()
    """The head: the driver runs there, and no task."""
    decode: WorkerConfig = WorkerConfig(cpus=8, memory_gib=32)
    """Workers without GPU: curation, reading and decoding of pictures."""
    teacher: WorkerConfig = WorkerConfig(cpus=8, memory_gib=48)
    """Workers of each teacher that `teachers` doesn't name."""
    teachers: dict[str, WorkerConfig] = Field(default_factory=dict[str, WorkerConfig])
    """Workers of teachers by `kind`, such as those with an image of their own."""
    trainer: WorkerConfig = WorkerConfig(cpus=12, memory_gib=96)
    """Workers that train, and evaluate."""
    gpu_resource: str = Field(default="nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[a-z0-9.-]+$")
    """What a GPU is called among a pod's resources."""
    idle_timeout_s: int = Field(default=120, gt=0)
    """Seconds without work until a worker above `min_replicas` goes."""
    backoff_limit: int = Field(default=1, ge=0)
    """How often a job that failed begins again, on a new cluster; what was finished stays."""
    deadline_s: int | None = Field(default=None, gt=0)
    """Seconds until a job is ended, whatever it does; null: never."""
    ttl_after_finished_s: int = Field(default=600, ge=0)
    """Seconds from the end of a job until its cluster goes."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How a schedule is kept."""

    @model_validator(mode="after")
    def _without_secrets(self) -> Self:
        secret = sorted(name for name in self.env if is_secret_name(name))
        if secret:
            raise ValueError(f"env: expected no secrets by value, got {', '.join(secret)}; name them in secret_env")
        named = [*self.env, *(variable.name for variable in self.secret_env)]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(f"env, secret_env: expected each variable once, got {', '.join(twice)} twice")
        return self
