"""Worker groups follow from what a recipe's processes take."""

from __future__ import annotations

import pytest

from jobs.config import load_recipe
from jobs.kubernetes.config import KubernetesConfig
from jobs.kubernetes.groups import placed_recipe, worker_groups
from storage.errors import UsageError

ON_GPUS = ("training.use_gpu=true", "features.num_gpus_per_actor=1")


def groups(*overrides: str, **settings: object) -> dict[str, tuple[int, int, str | None]]:
    """Name of each group: GPUs of a pod, most pods, and what marks them."""
    config = KubernetesConfig.model_validate({"image": "sailloft:1", **settings})
    found = worker_groups(load_recipe("smoke", overrides), config)
    return {group.name: (group.gpus, group.max_replicas, group.node_resource) for group in found}


def test_each_teacher_has_a_group_of_its_own() -> None:
    assert groups(*ON_GPUS, "features.num_actors=6", "training.num_workers=3") == {
        "decode": (0, 4, None),
        "teacher-mask2former": (1, 6, "teacher-mask2former"),
        "teacher-sam2": (1, 6, "teacher-sam2"),
        "trainer": (1, 3, None),
    }


def test_pods_are_filled() -> None:
    found = groups(
        "features.num_actors=10",
        "features.num_gpus_per_actor=0.5",
        "training.use_gpu=true",
        "training.num_workers=16",
        teachers={"sam2": {"gpus": 2, "cpus": 8, "min_replicas": 1}},
        trainer={"gpus": 8, "cpus": 64},
        decode={"min_replicas": 6},
    )
    assert found == {
        "decode": (0, 6, None),
        "teacher-mask2former": (1, 5, "teacher-mask2former"),
        "teacher-sam2": (2, 3, "teacher-sam2"),
        "trainer": (8, 2, None),
    }


def test_without_gpus_cpus_decide() -> None:
    found = groups("features.num_actors=5", "features.num_cpus_per_actor=3", "training.cpus_per_worker=6")
    assert found["teacher-sam2"] == (0, 3, "teacher-sam2")
    assert found["trainer"] == (0, 1, None)


def test_bounds_that_are_given_stay() -> None:
    found = groups(*ON_GPUS, "features.num_actors=64", teacher={"max_replicas": 8})
    assert found["teacher-sam2"][1] == 8


def test_teachers_beside_the_student_have_none() -> None:
    assert set(groups(*ON_GPUS, "training.teacher_mode=online")) == {"decode", "trainer"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"teachers": {"radio": {}}},
            r"kubernetes\.teachers: no teacher radio in the recipe; it has: mask2former, sam2",
        ),
        (
            {"teacher": {"gpus": 0}},
            r"kubernetes\.teacher: a process of teacher mask2former takes 1 CPUs and 1 GPUs, .* 0;",
        ),
        ({"teachers": {"sam2": {"gpus": 0}}}, r"kubernetes\.teachers\.sam2: a process"),
        (
            {"trainer": {"cpus": 1}},
            r"kubernetes\.trainer: a process that trains takes 2 CPUs and 1 GPUs, a pod has 1 and 1",
        ),
    ],
)
def test_pods_that_hold_nothing(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        groups(*ON_GPUS, "training.cpus_per_worker=2", **settings)


def test_teachers_are_sent_to_their_pods_and_the_outputs_stay() -> None:
    recipe = load_recipe("smoke", list(ON_GPUS))
    placed = placed_recipe(recipe)
    assert [teacher.node_resource for teacher in placed.teachers] == ["teacher-mask2former", "teacher-sam2"]
    assert placed.hashed_fields() == recipe.hashed_fields()
    options = placed.features.process_options(placed.teachers[1])
    assert options == {"num_cpus": 1.0, "num_gpus": 1.0, "resources": {"teacher-sam2": 0.001}}
    assert "resources" not in recipe.features.process_options(recipe.teachers[1])
