"""Every shipped recipe resolves to what is pinned under `golden/`, and its parts fit each other.

After a deliberate change: `SAILLOFT_UPDATE_GOLDEN=1 python -m pytest tests/unit/jobs/test_recipes.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from jobs.config import load_recipe
from jobs.demo import demo_overrides
from jobs.flow import Located, Timings
from jobs.loading import packaged_recipes
from jobs.stages import plan_stages
from jobs.train_teacher import load_teacher_recipe
from model.student import PixelSail
from pipelines.progress import NullProgress
from storage.errors import UsageError
from storage.forgotten import note_forgotten
from storage.objects import Objects
from teachers.packaged import packaged_teachers
from teachers.registry import teacher_card

GOLDEN = Path(__file__).parent / "golden"
TEACHERS = ("tiny-mask2former", "tiny-sam2")
"""Recipes that train a teacher; the others are runs."""
RUNS = tuple(name for name in packaged_recipes() if name not in TEACHERS)


@pytest.mark.parametrize("name", packaged_recipes())
def test_resolved_form_is_pinned(name: str) -> None:
    recipe = load_teacher_recipe(name) if name in TEACHERS else load_recipe(name)
    resolved = json.dumps(recipe.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("SAILLOFT_UPDATE_GOLDEN"):
        path.write_text(resolved)
    assert path.read_text() == resolved


def test_golden_files_have_recipes() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(packaged_recipes())


@pytest.mark.parametrize("name", RUNS)
def test_heads_fit_the_teachers(name: str) -> None:
    recipe = load_recipe(name)
    heads = {head.teacher: head for head in recipe.student.distillation}
    for teacher in recipe.teachers:
        # Published checkpoints aren't on this machine; both have 256 channels.
        published = teacher.checkpoint is not None and teacher.checkpoint not in packaged_teachers()
        num_channels = 256 if published else teacher_card(teacher).num_channels
        assert heads[teacher.kind].num_channels == num_channels
        assert heads[teacher.kind].source == teacher.student_source


_PUBLISHED_REPEATS = {
    "refcoco": 4, "refcoco+": 4, "refcocog": 4, "grefcoco": 3, "coco_panoptic instance": 1, "coco_panoptic semantic": 1,
    "coco_panoptic category": 1, "muse": 1, "pix2cap referring": 2, "pix2cap description": 10, "gcg_refcocog": 1,
    "gcg_grandf": 10, "gcg_openpsg": 1, "gcg_flickr": 1, "osprey description": 10, "osprey conversation": 1, "llava": 1,
}  # fmt: skip
"""How often the paper's authors repeat each part of their data."""


@pytest.mark.parametrize(
    ("name", "other"),
    [("pixel-sail-0.5b", {}), ("pixel-sail-3b", {}), ("pixel-sail-3b-qa", {"llava": 2, "sam_captions": 1})],
)
def test_published_mixtures_are_whole_and_have_their_sources(name: str, other: dict[str, int]) -> None:
    recipe = load_recipe(name)
    mixture = recipe.training.mixture
    assert {" ".join([*e.families, *e.tasks]): e.repeats for e in mixture} == _PUBLISHED_REPEATS | other
    assert recipe.costs.mixture_rows is not None
    assert len(recipe.costs.mixture_rows) == len(mixture)
    # A family is called as its kind is, or by its data set.
    kinds = {getattr(source, "family", source.kind) for source in recipe.curation.sources}
    kinds |= {getattr(source, "dataset", source.kind) for source in recipe.curation.sources}
    assert {family for entry in mixture for family in entry.families} <= kinds


@pytest.mark.parametrize("name", RUNS)
def test_names_and_workspaces(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.workspace == f"runs/{name}"


def test_recipes_of_teachers_and_of_runs_are_told_apart() -> None:
    with pytest.raises(UsageError, match="expected one that trains a teacher, got one for `sailloft run demo`"):
        load_teacher_recipe("demo")
    with pytest.raises(UsageError, match="expected a run, got one for `sailloft train-teacher tiny-sam2 OUT`"):
        load_recipe("tiny-sam2")


def test_the_real_demo_needs_a_folder(tmp_path: Path) -> None:
    recipe = load_recipe("demo-real")
    with pytest.raises(UsageError, match="root"):
        plan_stages(recipe, Timings(Objects.open(str(tmp_path))))
    given = load_recipe("demo-real", demo_overrides(tmp_path, None))
    assert given.curation.root == str(tmp_path.resolve())
    names = [stage.name for stage in plan_stages(given, Timings(Objects.open(str(tmp_path))))]
    features = ["calibrate mask2former", "teach mask2former", "calibrate sam2", "teach sam2"]
    assert names == ["curate", *features, "train", "evaluate", "report"]


@pytest.mark.parametrize(
    ("mode", "until", "stages"),
    [
        ("cached", None, ["calibrate mask2former", "teach mask2former", "calibrate sam2", "teach sam2"]),
        ("hybrid", None, ["calibrate mask2former", "calibrate sam2"]),
        ("hybrid", "teach", ["calibrate mask2former", "teach mask2former", "calibrate sam2", "teach sam2"]),
        ("online", None, []),
    ],
)
def test_teachers_beside_the_student_need_fewer_stages(
    mode: str, until: str | None, stages: list[str], tmp_path: Path
) -> None:
    recipe = load_recipe("smoke", [f"workspace={tmp_path}", f"training.teacher_mode={mode}"])
    planned = plan_stages(recipe, Timings(Objects.open(str(tmp_path))), until)
    names = [stage.name for stage in planned]
    assert names[: 2 + len(stages)] == ["scenes", "curate", *stages]
    known = set[str]()
    for stage in planned:
        assert known.issuperset(stage.inputs), stage.name
        known.add(stage.name)


def test_each_mode_has_an_address_of_its_own(tmp_path: Path) -> None:
    def key(mode: str, *overrides: str) -> str:
        values = [f"workspace={tmp_path}", "features.codec=raw16", f"training.teacher_mode={mode}", *overrides]
        outputs: dict[str, Located] = {}
        for stage in plan_stages(load_recipe("smoke", values), Timings(Objects.open(str(tmp_path)))):
            located = stage.locate(outputs, None)
            assert located is not None
            outputs[stage.name] = located
            if stage.name == "train":
                return located.key
        raise AssertionError("no training stage")

    keys = {mode: key(mode) for mode in ("cached", "hybrid", "online")}
    assert len(set(keys.values())) == 3
    # Only where features are stored does their encoding decide what is learnt; the grid always does.
    assert key("online", "features.codec=int8") == keys["online"]
    assert key("hybrid", "features.codec=int8") != keys["hybrid"]
    assert key("online", "features.grid=stride:16") != keys["online"]
    assert key("hybrid", "training.hybrid_part_images=3") == keys["hybrid"]


@pytest.mark.parametrize("folder", ["it's", "a b: c", "#x", "100"])
def test_any_folder_name_survives_the_override(tmp_path: Path, folder: str) -> None:
    real = tmp_path / folder
    real.mkdir()
    recipe = load_recipe("demo-real", demo_overrides(real, f"{real}/out"))
    assert recipe.curation.root == str(real.resolve())
    assert recipe.workspace == f"{real}/out"


def test_a_missing_folder_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a folder in RefCOCO layout, found none"):
        demo_overrides(tmp_path / "absent", None)


def test_what_runs_does_not_change_addresses(tmp_path: Path) -> None:
    timings = Timings(Objects.open(str(tmp_path)))

    def scenes_key(*overrides: str) -> str:
        stage = plan_stages(load_recipe("smoke", overrides), timings)[0]
        located = stage.locate({}, None)
        assert located is not None
        return located.key

    plain = scenes_key()
    assert scenes_key("cluster.num_cpus=7", "workspace=/elsewhere", "name=other") == plain
    assert scenes_key("scenes.seed=1") != plain


def test_with_forgotten_pictures_a_corpus_has_no_address_before_its_scenes(tmp_path: Path) -> None:
    workspace = Objects.open(str(tmp_path))

    def curate_key() -> str | None:
        scenes, curate, *_ = plan_stages(load_recipe("smoke", [f"workspace={tmp_path}"]), Timings(workspace))
        located = scenes.locate({}, NullProgress())
        assert located is not None
        found = curate.locate({"scenes": located}, NullProgress())
        return None if found is None else found.key

    assert curate_key() is not None
    note_forgotten(workspace, "0" * 64, {})
    assert curate_key() is None, "whether they have one of the pictures isn't known yet"


def test_an_absent_checkpoint_of_a_teacher(tmp_path: Path) -> None:
    recipe = load_recipe("smoke", ["teachers.1.checkpoint=/no/such/folder"])
    (stage,) = [stage for stage in plan_stages(recipe, Timings(Objects.open(str(tmp_path)))) if "sam2" in stage.name][
        :1
    ]
    with pytest.raises(UsageError, match="teacher sam2: no checkpoint '/no/such/folder'"):
        stage.locate({"curate": Located("k", Objects.open(str(tmp_path)))}, None)


def test_until_cuts_the_flow(tmp_path: Path) -> None:
    timings = Timings(Objects.open(str(tmp_path)))
    names = [stage.name for stage in plan_stages(load_recipe("smoke"), timings, "teach")]
    calibrated = ["calibrate mask2former", "teach mask2former", "calibrate sam2", "teach sam2"]
    assert names == ["scenes", "curate", *calibrated]
    plain = plan_stages(load_recipe("smoke", ["features.codec=int8"]), timings, "teach")
    assert [stage.name for stage in plain] == ["scenes", "curate", "teach mask2former", "teach sam2"]


def test_teachers_of_one_kind_are_refused() -> None:
    with pytest.raises(UsageError, match="teachers: expected each kind once, got sam2, sam2"):
        load_recipe("smoke", ["teachers=[{kind: sam2}, {kind: sam2}]"])


def test_an_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown dataset family 'refcoco2'; known: .*refcoco"):
        load_recipe("smoke", ["curation.sources.0.kind=refcoco2"])


@pytest.mark.parametrize(
    ("name", "num_language_parameters"),
    [("pixel-sail-0.5b", 494_032_768), ("pixel-sail-3b", 3_085_938_688), ("pixel-sail-7b", 7_615_616_512)],
)
def test_published_sizes_are_those_of_the_language_models(name: str, num_language_parameters: int) -> None:
    """Parameters of Qwen2.5-0.5B, 3B and 7B, which Qwen2ForCausalLM of the same sizes confirms."""
    config = load_recipe(name).student
    with torch.device("meta"):
        student = PixelSail(config)
        theirs = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=config.num_key_value_heads,
                tie_word_embeddings=config.tie_word_embeddings,
            )
        )
    assert theirs.num_parameters() == num_language_parameters
    decoder = ("embed_tokens.", "lm_head.", "layers.", "norm.")
    own = {name: parameter.numel() for name, parameter in student.named_parameters() if name.startswith(decoder)}
    assert sum(count for name, count in own.items() if ".vision." not in name) == num_language_parameters


def test_the_7b_student_has_weights_for_patches_of_their_own() -> None:
    """EVE-7B-HD-v2.0 has 14,156,712,960 parameters; its class and split embeddings have no place here."""
    with torch.device("meta"):
        student = PixelSail(load_recipe("pixel-sail-7b").student)
    base = ("embed_tokens.", "lm_head.", "layers.", "norm.", "vis_embed.")
    own = sum(parameter.numel() for name, parameter in student.named_parameters() if name.startswith(base))
    assert own == 14_156_712_960 - 2 * 3584
