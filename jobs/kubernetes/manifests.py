"""Manifests of a recipe as plain data: accounts, the recipe, a cluster, a job, a schedule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import cast

import yaml

from jobs.cron import Cron
from jobs.kubernetes.config import KubernetesConfig
from jobs.kubernetes.groups import Group, placed_recipe, worker_groups
from jobs.kubernetes.pods import (
    RECIPE_FOLDER,
    Tree,
    container_security,
    placement,
    pod_security,
    ray_pod,
    resources,
)
from jobs.submission.code_folder import RECIPE_NAME
from jobs.submission.order import Order
from storage.keys import Json, content_key

__all__ = ["JOB_FILE", "Manifests", "as_yaml"]

JOB_FILE = "rayjob.yaml"
"""The job that a schedule creates, beside the recipe."""

_LONGEST_NAME = 36
"""Characters: a RayJob may have 47, and a schedule adds a dash and up to ten digits to its own."""
_KEY_DIGITS = 8
_LAUNCHER_MEMORY = "512Mi"
_LAUNCHER_TRIES = 3
_SUBMITTER_TRIES = 2


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def as_yaml(documents: Sequence[Mapping[str, object]]) -> str:
    """Plain data as YAML; several documents as one stream."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, explicit_start=len(documents) > 1)


@dataclass(frozen=True, slots=True)
class Manifests:
    """All that Kubernetes gets to know of a recipe.

    Args:
        order: what runs.
        config: how it runs there.
    """

    order: Order
    config: KubernetesConfig

    @property
    def name(self) -> str:
        """What objects are called; a name that is too long, or has other signs, is made distinct by its key."""
        own = self.order.recipe.name
        name = f"sailloft-{own.replace('.', '-').replace('_', '-')}"
        if name == f"sailloft-{own}" and len(name) <= _LONGEST_NAME and name[-1].isalnum():
            return name
        return f"{name[: _LONGEST_NAME - _KEY_DIGITS - 1].rstrip('-')}-{content_key(own)[:_KEY_DIGITS]}"

    @property
    def account(self) -> str:
        """Service account of Ray's pods."""
        return self.config.service_account or self.name

    @property
    def launcher(self) -> str:
        """Service account, role and binding of what a schedule starts."""
        return f"{self.name}-schedule"

    def accounts(self) -> list[Tree]:
        """The account of Ray's pods, unless there is one already."""
        made: list[Tree] = []
        if self.config.service_account is None:
            made.append(self._object("v1", "ServiceAccount", self.account, "ray"))
            if self.config.service_account_annotations:
                made[0]["metadata"]["annotations"] = dict(self.config.service_account_annotations)
            # The autoscaler gets its rights from KubeRay, and its token from its pod.
            made[0]["automountServiceAccountToken"] = False
        return made

    def schedule_accounts(self) -> list[Tree]:
        """The account that creates jobs on schedule, and what it may do: look at RayJobs and create them."""
        rights = "rbac.authorization.k8s.io/v1"
        account = self._object("v1", "ServiceAccount", self.launcher, "schedule")
        role = self._object(rights, "Role", self.launcher, "schedule")
        role["rules"] = [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list"]}]
        binding = self._object(rights, "RoleBinding", self.launcher, "schedule")
        binding["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": self.launcher}
        binding["subjects"] = [
            {"kind": "ServiceAccount", "name": self.launcher, "namespace": self.config.namespace},
        ]
        return [account, role, binding]

    @property
    def recipe_map_name(self) -> str:
        """Of the config map, which follows what it holds: a job at work keeps the recipe that it began with."""
        return f"{self.name}-{content_key(self._recipe_text)[:_KEY_DIGITS]}"

    def recipe_map(self) -> Tree:
        """The recipe, for the head of a cluster that was made for it."""
        made = self._object("v1", "ConfigMap", self.recipe_map_name, "recipe")
        return {**made, "immutable": True, "data": {RECIPE_NAME: self._recipe_text}}

    def cluster(self) -> Tree:
        """A cluster that stays, for `sailloft submit`."""
        return {**self._object("ray.io/v1", "RayCluster", self.name, "cluster"), "spec": self._cluster_spec()}

    def job(self) -> Tree:
        """One run, on a cluster that comes and goes with it."""
        spec = self._job_spec()
        name = f"{self.name}-{content_key(cast('Json', spec))[:_KEY_DIGITS]}"
        return {**self._object("ray.io/v1", "RayJob", name, "job"), "spec": spec}

    def ray_cron_job(self, cron: Cron) -> Tree:
        """A schedule of KubeRay's own, which is behind a gate and begins a run whether or not another one goes on."""
        spec: Tree = {"schedule": cron.text, "suspend": self.config.schedule.suspended, "jobTemplate": self._job_spec()}
        if self.config.schedule.time_zone is not None:
            spec["timeZone"] = self.config.schedule.time_zone
        return {**self._object("ray.io/v1", "RayCronJob", self.name, "schedule"), "spec": spec}

    def cron_job(self, cron: Cron) -> list[Tree]:
        """A schedule of plain Kubernetes: a pod that creates the job, and stays until it has ended.

        While it is there, `concurrencyPolicy: Forbid` begins no other. Ended jobs go with the pods that created them.
        """
        text = as_yaml([self._job_to_create()])
        job_map = self._object("v1", "ConfigMap", f"{self.launcher}-{content_key(text)[:_KEY_DIGITS]}", "schedule")
        schedule = self.config.schedule
        made = self._object("batch/v1", "CronJob", self.name, "schedule")
        made["spec"] = {
            "schedule": cron.text,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": schedule.starting_deadline_s,
            "suspend": schedule.suspended,
            "successfulJobsHistoryLimit": schedule.successful_kept,
            "failedJobsHistoryLimit": schedule.failed_kept,
            "jobTemplate": {
                "metadata": {"labels": self._labels("schedule")},
                "spec": {"backoffLimit": _LAUNCHER_TRIES, "template": self._launcher_pod(job_map["metadata"]["name"])},
            },
        }
        if schedule.time_zone is not None:
            made["spec"]["timeZone"] = schedule.time_zone
        return [{**job_map, "immutable": True, "data": {JOB_FILE: text}}, made]

    @property
    def _recipe_text(self) -> str:
        tree = {**placed_recipe(self.order.recipe).model_dump(mode="json"), "cluster": {}, "kubernetes": None}
        return as_yaml([tree])

    def _labels(self, component: str) -> dict[str, str]:
        return {
            "app.kubernetes.io/name": "sailloft",
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/component": component,
        }

    def _object(self, api: str, kind: str, name: str, component: str) -> Tree:
        metadata = {"name": name, "namespace": self.config.namespace, "labels": self._labels(component)}
        return {"apiVersion": api, "kind": kind, "metadata": metadata}

    def _cluster_spec(self) -> Tree:
        config = self.config
        head = ray_pod(config, config.head, self.account, self._labels("ray"), recipe_map=self.recipe_map_name)
        groups = worker_groups(self.order.recipe, config)
        return {
            "rayVersion": version("ray"),
            "authOptions": {"mode": "token"},
            "enableInTreeAutoscaling": True,
            "autoscalerOptions": {
                "upscalingMode": "Default",
                "idleTimeoutSeconds": config.idle_timeout_s,
                "imagePullPolicy": config.image_pull_policy,
                "resources": resources("500m", "512Mi"),
                "securityContext": container_security(),
            },
            "headGroupSpec": {
                # No CPUs: the head has the driver and the cluster's own services to look after.
                "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
                "template": head,
            },
            "workerGroupSpecs": [self._worker_group(group) for group in groups],
        }

    def _worker_group(self, group: Group) -> Tree:
        marked = {} if group.node_resource is None else {"resources": _quoted({group.node_resource: 1})}
        return {
            "groupName": group.name,
            "replicas": group.workers.min_replicas,
            "minReplicas": group.workers.min_replicas,
            "maxReplicas": group.max_replicas,
            "rayStartParams": marked,
            "template": ray_pod(self.config, group.workers, self.account, self._labels("ray"), group.gpus),
        }

    def _job_spec(self) -> Tree:
        spec: Tree = {
            "entrypoint": self.order.command_on(f"{RECIPE_FOLDER}/{RECIPE_NAME}"),
            "submissionMode": "K8sJobMode",
            "metadata": self.order.metadata(version("sailloft")),
            "runtimeEnvYAML": as_yaml([self.order.job_runtime_env(None)]),
            "backoffLimit": self.config.backoff_limit,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": self.config.ttl_after_finished_s,
            "submitterConfig": {"backoffLimit": _SUBMITTER_TRIES},
            "submitterPodTemplate": self._submitter_pod(),
            "rayClusterSpec": self._cluster_spec(),
        }
        if self.config.deadline_s is not None:
            spec["activeDeadlineSeconds"] = self.config.deadline_s
        return spec

    def _job_to_create(self) -> Tree:
        """The job of any turn, which the launcher gives a name of its own."""
        return {**self._object("ray.io/v1", "RayJob", self.name, "job"), "spec": self._job_spec()}

    def _submitter_pod(self) -> Tree:
        """Hands the job to the head's job server; KubeRay adds the command and the token."""
        return self._small_pod("ray-job-submitter", self.account, {})

    def _launcher_pod(self, job_map: str) -> Tree:
        own = [
            ("SAILLOFT_JOB_NAME", "metadata.labels['batch.kubernetes.io/job-name']"),
            ("SAILLOFT_JOB_UID", "metadata.labels['batch.kubernetes.io/controller-uid']"),
            ("SAILLOFT_NAMESPACE", "metadata.namespace"),
        ]
        pod = self._small_pod(
            "launcher",
            self.launcher,
            {
                "command": ["python", "-m", "jobs", "jobs", "launch", f"{RECIPE_FOLDER}/{JOB_FILE}"],
                "env": [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in own],
                "volumeMounts": [{"name": "job", "mountPath": RECIPE_FOLDER, "readOnly": True}],
            },
        )
        pod["spec"]["automountServiceAccountToken"] = True
        pod["spec"]["volumes"] = [{"name": "job", "configMap": {"name": job_map}}]
        return pod

    def _small_pod(self, container: str, account: str, more: Tree) -> Tree:
        """A pod that only talks to a server, placed as the head is."""
        head = self.config.head
        return {
            "metadata": {"labels": self._labels(container)},
            "spec": {
                "restartPolicy": "Never",
                "serviceAccountName": account,
                "automountServiceAccountToken": False,
                "securityContext": pod_security(),
                "containers": [
                    {
                        "name": container,
                        "image": head.image or self.config.image,
                        "imagePullPolicy": self.config.image_pull_policy,
                        "resources": resources("500m", _LAUNCHER_MEMORY),
                        "securityContext": container_security(),
                        **more,
                    }
                ],
                **placement(self.config, head),
            },
        }


def _quoted(amounts: Mapping[str, int]) -> str:
    """Amounts as one word of the shell line that KubeRay makes of start parameters."""
    return json.dumps(json.dumps(amounts))
