"""The teachers that come with the package: their recipes made them, their cards tell the truth, they know scenes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Mask2FormerForUniversalSegmentation, Sam2Model

from pipelines.teacher_training import TeacherTrainingConfig
from pipelines.teacher_training.card import write_card
from pipelines.teacher_training.loop import Trainee, score_teacher
from pipelines.teacher_training.mask2former import Mask2FormerNetwork, Mask2FormerTrainee
from pipelines.teacher_training.sam2 import Sam2Network, Sam2Trainee
from pipelines.teacher_training.writing import CARD_FILE, RECIPE_FILE, read_figures
from teachers.packaged import packaged_teachers, resolve_checkpoint
from teachers.registry import parse_teacher, teacher_card

NAMES = ("tiny-mask2former", "tiny-sam2")
NUM_SCENES = 24


def recipe_of(name: str) -> TeacherTrainingConfig:
    text = (packaged_teachers()[name] / RECIPE_FILE).read_text()
    return TeacherTrainingConfig.model_validate_json(text)


def trained(name: str) -> Trainee:
    folder, network = packaged_teachers()[name], recipe_of(name).network
    if isinstance(network, Sam2Network):
        return Sam2Trainee(Sam2Model.from_pretrained(folder), network)
    assert isinstance(network, Mask2FormerNetwork)
    return Mask2FormerTrainee(Mask2FormerForUniversalSegmentation.from_pretrained(folder))


def test_both_are_there_and_small() -> None:
    assert tuple(packaged_teachers()) == NAMES
    for folder in packaged_teachers().values():
        assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_the_figures_say(name: str) -> None:
    folder = packaged_teachers()[name]
    figures = read_figures(folder)
    assert (folder / CARD_FILE).read_text() == write_card(figures)
    assert (figures.num_steps, figures.num_held_out) == (recipe_of(name).num_steps, recipe_of(name).num_held_out)


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_met_on_a_part_of_the_held_out_scenes(name: str) -> None:
    """The first few of the scenes behind the card, so some way off its figures but nowhere near untrained ones."""
    main = "pq" if name == "tiny-mask2former" else "point_iou"
    figures = read_figures(packaged_teachers()[name])
    torch.manual_seed(0)
    for source, scores in score_teacher(trained(name), recipe_of(name), NUM_SCENES).items():
        assert scores[main] == pytest.approx(figures.scores[source][main], abs=0.08)
        assert scores[main] > 2 * figures.untrained[source][main]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_can_name_it(name: str) -> None:
    kind = recipe_of(name).network.kind
    card = teacher_card(parse_teacher({"kind": kind, "checkpoint": name}))
    by_folder = teacher_card(parse_teacher({"kind": kind, "checkpoint": str(packaged_teachers()[name])}))
    untrained = teacher_card(parse_teacher({"kind": kind}))
    assert card == by_folder
    assert card.fingerprint != untrained.fingerprint
    assert card.num_channels == recipe_of(name).network.sizes.num_channels


def test_other_names_stay_as_they_are(tmp_path: Path) -> None:
    assert resolve_checkpoint(str(tmp_path)) == str(tmp_path)
    assert resolve_checkpoint("facebook/sam2.1-hiera-large") == "facebook/sam2.1-hiera-large"
