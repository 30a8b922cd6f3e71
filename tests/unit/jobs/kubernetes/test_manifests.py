"""Manifests: what KubeRay's own schemas accept, what they hold, and what they never hold."""

from __future__ import annotations

import copy
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from jobs.config import load_recipe
from jobs.kubernetes.manifests import as_yaml
from jobs.schedule import Turn, make_manifests
from storage.errors import UsageError
from tests.kuberay_schemas import problems, strict_schema, validator_of

CRON = "0 3 * * mon-fri"
SETTINGS = """
image: images.example/sailloft:0.1.0-cuda
namespace: vision
image_pull_secrets: [registry]
service_account_annotations: {eks.amazonaws.com/role-arn: "arn:aws:iam::1:role/sailloft"}
env: {AWS_REGION: eu-central-1}
secret_env: [{name: HF_TOKEN, secret: hub, key: token}]
secrets: [object-store]
volumes: [{claim: data, path: /data}]
decode: {cpus: 16, memory_gib: 64, max_replicas: 12, node_selector: {pool: cpu}}
teachers:
  sam2:
    image: images.example/sailloft:0.1.0-sam2
    disk_gib: 100
    node_selector: {gpu: l4}
    tolerations: [{key: nvidia.com/gpu, effect: NoSchedule}]
trainer: {gpus: 8, cpus: 96, memory_gib: 800, node_selector: {gpu: h200}}
deadline_s: 86400
schedule: {time_zone: Europe/Berlin}
"""
OVERRIDES = (
    "workspace=s3://bucket/prefix", "training.use_gpu=true", "training.num_workers=8", "features.num_gpus_per_actor=1",
    "cluster.runtime_env=sam2",
)  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(SETTINGS)
    return path


def made(settings: Path, form: str = "cronjob", cron: str | None = CRON, *overrides: str) -> dict[str, dict[str, Any]]:
    """Resources by their kind, ` 2` and so on behind the second."""
    turn = Turn("smoke", (*OVERRIDES, *overrides), "retrain")
    found: dict[str, dict[str, Any]] = {}
    for documents in make_manifests(turn, cron, settings, None, form).values():
        for document in documents:
            number = sum(name.split()[0] == document["kind"] for name in found)
            found[f"{document['kind']} {number + 1}" if number else document["kind"]] = document
    return found


@pytest.fixture(scope="session")
def schemas(shared_data: Path) -> dict[str, Draft202012Validator]:
    folder = shared_data / "data" / "kuberay_crds"
    if not folder.is_dir():
        pytest.skip(f"no definitions of KubeRay's resources at {folder}")
    return {kind: validator_of(folder, kind) for kind in ("RayCluster", "RayJob", "RayCronJob")}


def test_kuberay_accepts_them(settings: Path, schemas: dict[str, Draft202012Validator]) -> None:
    resources = {**made(settings), "RayCronJob": made(settings, "raycronjob")["RayCronJob"]}
    for kind, validator in schemas.items():
        assert problems(validator, resources[kind]) == []
    job = yaml.safe_load(resources["ConfigMap 2"]["data"]["rayjob.yaml"])
    assert problems(schemas["RayJob"], job) == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("spec", "rayClusterSpec", "workers"), [], "'workers' was unexpected"),
        (
            ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "images"),
            "a",
            "'images' was",
        ),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "4", "'4' is not of type 'integer'"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "none", "'none' is not one of"),
        (("spec", "backoffLimit"), 1.5, "1.5 is not of type 'integer'"),
    ],
)
def test_the_schemas_are_strict(
    settings: Path,
    schemas: dict[str, Draft202012Validator],
    path: tuple[str | int, ...],
    value: object,
    message: str,
) -> None:
    job = copy.deepcopy(made(settings)["RayJob"])
    node: Any = job
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    assert any(message in problem for problem in problems(schemas["RayJob"], job))


def test_special_marks_of_kubernetes_schemas() -> None:
    schema = strict_schema(
        {
            "type": "object",
            "properties": {
                "amount": {"x-kubernetes-int-or-string": True, "type": "string", "anyOf": [{"type": "integer"}]},
                "free": {"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": True},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "maybe": {"type": "integer", "nullable": True, "format": "int32"},
            },
        }
    )
    good = {"amount": 1, "free": {"a": 1}, "labels": {"b": "c"}, "maybe": None}
    assert problems(Draft202012Validator(schema), good) == []
    assert problems(Draft202012Validator(schema), {**good, "amount": "500m"}) == []
    for wrong in ({"amount": 1.5}, {"labels": {"b": 1}}, {"maybe": "x"}, {"other": 1}):
        assert len(problems(Draft202012Validator(schema), wrong)) == 1


def test_the_cluster(settings: Path) -> None:
    spec = made(settings)["RayCluster"]["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] == 120
    head = spec["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    bounds = {name: (group["minReplicas"], group["maxReplicas"]) for name, group in groups.items()}
    assert bounds == {"decode": (0, 12), "teacher-mask2former": (0, 2), "teacher-sam2": (0, 2), "trainer": (0, 1)}

    def container(name: str) -> dict[str, Any]:
        (found,) = groups[name]["template"]["spec"]["containers"]
        return found

    assert "nvidia.com/gpu" not in container("decode")["resources"]["limits"]
    assert container("decode")["resources"]["limits"] == {"cpu": "16", "memory": "64Gi"}
    assert container("trainer")["resources"]["requests"]["nvidia.com/gpu"] == "8"
    sam2 = groups["teacher-sam2"]["template"]["spec"]
    assert sam2["containers"][0]["image"] == "images.example/sailloft:0.1.0-sam2"
    assert sam2["containers"][0]["resources"]["limits"]["ephemeral-storage"] == "100Gi"
    assert sam2["nodeSelector"] == {"gpu": "l4"}
    assert sam2["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert container("teacher-mask2former")["image"] == "images.example/sailloft:0.1.0-cuda"
    # KubeRay puts the amounts into a shell line as they stand.
    (word,) = shlex.split(groups["teacher-sam2"]["rayStartParams"]["resources"])
    assert json.loads(word) == {"teacher-sam2": 1}
    assert groups["trainer"]["rayStartParams"] == {}


def test_the_job_is_cleared_away(settings: Path) -> None:
    resources = made(settings)
    spec = resources["RayJob"]["spec"]
    assert spec["entrypoint"] == "python -m jobs retrain /etc/sailloft/recipe.yaml"
    assert (spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]) == (True, 600)
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (1, 86400)
    assert "sam2==1.1.0" in str(yaml.safe_load(spec["runtimeEnvYAML"])["pip"])
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "recipe", "configMap": {"name": resources["ConfigMap"]["metadata"]["name"]}} in head["volumes"]
    assert resources["RayJob"]["spec"]["rayClusterSpec"] == resources["RayCluster"]["spec"]
    later = made(settings, "cronjob", CRON, "training.num_steps=9")["RayJob"]["metadata"]["name"]
    assert later != resources["RayJob"]["metadata"]["name"]


def test_the_recipe_that_runs_there_makes_the_same_outputs(settings: Path, tmp_path: Path) -> None:
    recipe_map = made(settings)["ConfigMap"]
    assert recipe_map["immutable"] is True
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_map["data"]["recipe.yaml"])
    there, here = load_recipe(str(path)), load_recipe("smoke", list(OVERRIDES))
    assert there.hashed_fields() == here.hashed_fields()
    assert there.workspace == "s3://bucket/prefix"
    assert there.kubernetes is None
    assert there.cluster.runtime_env is None
    assert [teacher.node_resource for teacher in there.teachers] == ["teacher-mask2former", "teacher-sam2"]


def test_the_schedule_of_plain_kubernetes(settings: Path) -> None:
    resources = made(settings)
    cron = resources["CronJob"]
    assert (cron["apiVersion"], cron["metadata"]["namespace"]) == ("batch/v1", "vision")
    assert (cron["spec"]["schedule"], cron["spec"]["timeZone"]) == (CRON, "Europe/Berlin")
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    assert cron["spec"]["startingDeadlineSeconds"] == 3600
    assert (cron["spec"]["successfulJobsHistoryLimit"], cron["spec"]["failedJobsHistoryLimit"]) == (3, 5)
    template = cron["spec"]["jobTemplate"]["spec"]
    assert template["backoffLimit"] == 3
    pod = template["template"]["spec"]
    assert (pod["restartPolicy"], pod["serviceAccountName"]) == ("Never", "sailloft-smoke-schedule")
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "jobs", "jobs", "launch", "/etc/sailloft/rayjob.yaml"]
    assert pod["volumes"][0]["configMap"]["name"] == resources["ConfigMap 2"]["metadata"]["name"]
    assert yaml.safe_load(resources["ConfigMap 2"]["data"]["rayjob.yaml"])["spec"] == resources["RayJob"]["spec"]


def test_accounts_may_do_no_more_than_they_need(settings: Path) -> None:
    resources = made(settings)
    assert resources["Role"]["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list"]}
    ]
    binding = resources["RoleBinding"]
    assert binding["roleRef"]["name"] == resources["Role"]["metadata"]["name"] == "sailloft-smoke-schedule"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "sailloft-smoke-schedule", "namespace": "vision"}]
    account = resources["ServiceAccount"]
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/sailloft"}
    spec = resources["RayCluster"]["spec"]
    head, *workers = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert head["template"]["spec"]["automountServiceAccountToken"] is True
    for pod in (group["template"]["spec"] for group in [head, *workers]):
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False
    assert all(group["template"]["spec"]["automountServiceAccountToken"] is False for group in workers)


def test_an_account_that_is_there_is_used(settings: Path) -> None:
    resources = made(settings, "raycronjob", CRON, "kubernetes.service_account=mine")
    assert "ServiceAccount" not in resources
    assert "Role" not in resources
    head = resources["RayCluster"]["spec"]["headGroupSpec"]["template"]["spec"]
    assert head["serviceAccountName"] == "mine"


def test_secrets_are_named_and_never_held(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf-very-secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-very-secret")
    resources = made(settings)
    assert "very-secret" not in as_yaml(list(resources.values()))
    spec = resources["RayCluster"]["spec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        environment = {variable["name"]: variable for variable in pod["containers"][0]["env"]}
        assert environment["HF_TOKEN"] == {
            "name": "HF_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}},
        }
        assert environment["AWS_REGION"]["value"] == "eu-central-1"
        # With it, nodes of a cluster would listen on loopback.
        assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in environment
        assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "object-store"}}]
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
        assert pod["volumes"][-1]["persistentVolumeClaim"] == {"claimName": "data", "readOnly": True}


def test_texts_of_users_stay_texts(settings: Path) -> None:
    note = "- {kind: Pod}\n---\nkind: ClusterRoleBinding\n\"'{{ $x }}"
    resources = made(settings, "cronjob", CRON, f"notes=[{json.dumps(note)}]")
    again = list(yaml.safe_load_all(as_yaml(list(resources.values()))))
    assert again == list(resources.values())
    assert yaml.safe_load(again[list(resources).index("ConfigMap")]["data"]["recipe.yaml"])["notes"] == [note]


def test_a_schedule_behind_the_gate(settings: Path) -> None:
    resources = made(settings, "raycronjob")
    assert "CronJob" not in resources
    spec = resources["RayCronJob"]["spec"]
    assert (spec["schedule"], spec["timeZone"], spec["suspend"]) == (CRON, "Europe/Berlin", False)
    assert spec["jobTemplate"] == resources["RayJob"]["spec"]


def test_without_a_schedule_there_is_a_cluster_and_a_job(settings: Path) -> None:
    assert set(made(settings, "cronjob", None)) == {"ServiceAccount", "ConfigMap", "RayCluster", "RayJob"}


@pytest.mark.parametrize("name", ["x", "a.b_c", "a" * 64, "pixel-sail-0.5b-on-everything-there-is", "ends-with-a-dot."])
def test_names_are_ones_that_kuberay_takes(settings: Path, name: str) -> None:
    resources = made(settings, "cronjob", CRON, f"name={name}")
    for kind, document in resources.items():
        found = document["metadata"]["name"]
        # A RayJob's name may have 47 characters; a CronJob adds up to 11 to its own, which become the RayJob's.
        longest = 36 if kind in {"CronJob", "RayCluster"} else 47 if kind == "RayJob" else 63
        assert len(found) <= longest, kind
        assert found[0].isalpha()
        assert found[-1].isalnum()
        assert found.replace("-", "").isalnum()
    for other in (f"{name[:-1] or 'y'}x", name.replace(".", "-"), name.replace("_", ".")):
        if other != name:
            again = made(settings, "cronjob", CRON, f"name={other}")
            assert again["CronJob"]["metadata"]["name"] != resources["CronJob"]["metadata"]["name"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("workspace=runs",), "a cluster needs a URL that all its nodes reach"),
        (("kubernetes.images=a",), r"kubernetes\.images: no such field .*did you mean image"),
    ],
)
def test_what_can_not_run_there(settings: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(settings, "cronjob", CRON, *overrides)


def test_an_image_is_needed() -> None:
    with pytest.raises(
        UsageError, match=r"expected a section kubernetes with an image, found none; .* kubernetes\.image="
    ):
        make_manifests(Turn("smoke", OVERRIDES, "run"), None, None, None, "cronjob")
