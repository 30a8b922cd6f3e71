"""Pods of a Ray cluster as plain data: containers, resources, environment, and what they may not do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.kubernetes.config import KubernetesConfig, PodConfig
from jobs.session import CLUSTER_ENVIRONMENT

__all__ = ["RECIPE_FOLDER", "Tree", "container_security", "environment", "pod_security", "ray_pod", "resources"]

Tree = dict[str, Any]

RECIPE_FOLDER = "/etc/sailloft"
"""Where the head and the launcher find the recipe."""

_USER = 1000  # of the Dockerfile
_STOP_GRACE_S = 90
"""Between SIGTERM and SIGKILL of a pod: training writes a state meanwhile."""
_HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}


def resources(cpus: int | str, memory: str, extra: Mapping[str, int | str] | None = None) -> Tree:
    """Resources of a container, requested and limited alike, as Ray wants them."""
    amounts = {"cpu": str(cpus), "memory": memory, **{name: str(value) for name, value in (extra or {}).items()}}
    return {"limits": dict(amounts), "requests": dict(amounts)}


def pod_security() -> Tree:
    """Security context of a pod: no root, the runtime's filter of system calls."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Tree:
    """Security context of a container: nothing that it could gain."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def environment(config: KubernetesConfig) -> list[Tree]:
    """Variables of all pods; those of secrets by reference."""
    plain = {**CLUSTER_ENVIRONMENT, **config.env}
    named: list[Tree] = [{"name": name, "value": value} for name, value in plain.items()]
    for variable in config.secret_env:
        reference = {"secretKeyRef": {"name": variable.secret, "key": variable.key}}
        named.append({"name": variable.name, "valueFrom": reference})
    return named


def ray_pod(
    config: KubernetesConfig,
    pod: PodConfig,
    account: str,
    labels: Mapping[str, str],
    gpus: int = 0,
    recipe_map: str | None = None,
) -> Tree:
    """The template of a Ray pod.

    Args:
        config: of the cluster.
        pod: of this kind of pods.
        account: service account.
        labels: of the pods.
        gpus: of each.
        recipe_map: config map with the recipe, which makes it the head; None: a worker.
    """
    is_head = recipe_map is not None
    extra: dict[str, int | str] = {config.gpu_resource: gpus} if gpus else {}
    if pod.disk_gib is not None:
        extra["ephemeral-storage"] = f"{pod.disk_gib}Gi"
    mounts, volumes = _volumes(config, recipe_map)
    container: Tree = {
        "name": "ray-head" if is_head else "ray-worker",
        "image": pod.image or config.image,
        "imagePullPolicy": config.image_pull_policy,
        "resources": resources(pod.cpus, f"{pod.memory_gib}Gi", extra),
        "env": environment(config),
        "securityContext": container_security(),
        "volumeMounts": mounts,
    }
    if is_head:
        container["ports"] = [{"name": name, "containerPort": port} for name, port in _HEAD_PORTS.items()]
    if config.secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in config.secrets]
    spec: Tree = {
        "serviceAccountName": account,
        # The autoscaler beside the head talks to Kubernetes; no other pod does.
        "automountServiceAccountToken": is_head,
        "securityContext": pod_security(),
        "terminationGracePeriodSeconds": _STOP_GRACE_S,
        "containers": [container],
        "volumes": volumes,
        **placement(config, pod),
    }
    return {"metadata": {"labels": dict(labels)}, "spec": spec}


def placement(config: KubernetesConfig, pod: PodConfig) -> Tree:
    """Where pods may run, and what lets their nodes fetch the image."""
    placed: Tree = {}
    if pod.node_selector:
        placed["nodeSelector"] = dict(pod.node_selector)
    if pod.tolerations:
        placed["tolerations"] = [toleration.model_dump(exclude_none=True) for toleration in pod.tolerations]
    if config.image_pull_secrets:
        placed["imagePullSecrets"] = [{"name": name} for name in config.image_pull_secrets]
    return placed


def _volumes(config: KubernetesConfig, recipe_map: str | None) -> tuple[Sequence[Tree], Sequence[Tree]]:
    mounts: list[Tree] = []
    volumes: list[Tree] = []
    if recipe_map is not None:
        mounts.append({"name": "recipe", "mountPath": RECIPE_FOLDER, "readOnly": True})
        volumes.append({"name": "recipe", "configMap": {"name": recipe_map}})
    for number, volume in enumerate(config.volumes):
        read_only = volume.access == "read"
        mounts.append({"name": f"disk-{number}", "mountPath": volume.path, "readOnly": read_only})
        claim = {"claimName": volume.claim, "readOnly": read_only}
        volumes.append({"name": f"disk-{number}", "persistentVolumeClaim": claim})
    return mounts, volumes
