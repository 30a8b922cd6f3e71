"""Settings of Kubernetes: images that say what runs, secrets by reference, bounds that make sense."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from jobs.config import load_recipe
from jobs.kubernetes.config import KubernetesConfig
from jobs.report import shown_recipe

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    "image",
    [
        "sailloft:0.1.0-cuda",
        f"sailloft@{DIGEST}",
        f"images.example:5000/team/sailloft:1@{DIGEST}",
        "a/b/sailloft:latest-1",
    ],
)
def test_images_that_say_what_runs(image: str) -> None:
    assert KubernetesConfig(image=image).image == image


@pytest.mark.parametrize(
    "image",
    ["sailloft", "sailloft:latest", "images.example:5000/sailloft", "sailloft:1 --privileged", "sailloft@sha256:1", ""],
)
def test_images_that_may_be_another_tomorrow(image: str) -> None:
    with pytest.raises(ValidationError, match=r"expected a tag other than latest|expected an image such as"):
        KubernetesConfig(image=image)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"env": {"HF_TOKEN": "abc"}}, "expected no secrets by value, got HF_TOKEN; name them in secret_env"),
        ({"env": {"A": "b"}, "secret_env": [{"name": "A", "secret": "s", "key": "k"}]}, "got A twice"),
        ({"env": {"A B": "c"}}, "pattern"),
        ({"namespace": "Team A"}, "pattern"),
        ({"decode": {"min_replicas": 3, "max_replicas": 2}}, r"expected at most max_replicas \(2\), got 3"),
        ({"decode": {"cpus": 0}}, "greater than 0"),
        ({"head": {"tolerations": [{"key": "gpu", "operator": "Equal"}]}}, "expected one beside `operator: Equal`"),
        ({"head": {"tolerations": [{"key": "gpu", "value": "yes"}]}}, "and none beside Exists"),
        ({"volumes": [{"claim": "disk", "path": "data"}]}, "pattern"),
        ({"gpu": "a100"}, "Extra inputs are not permitted"),
        ({"schedule": {"time_zone": "Europe/Berlin; true"}}, "pattern"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        KubernetesConfig.model_validate({"image": "sailloft:1", **fields})


def test_settings_of_kubernetes_change_no_address() -> None:
    plain, placed = load_recipe("smoke"), load_recipe("smoke", ["kubernetes={image: 'sailloft:1'}"])
    assert placed.kubernetes is not None
    assert placed.hashed_fields() == plain.hashed_fields()
    assert shown_recipe(placed) == shown_recipe(plain)
    on_nodes = load_recipe("smoke", ["teachers.1.node_resource=teacher-sam2"])
    assert on_nodes.hashed_fields() == plain.hashed_fields()
