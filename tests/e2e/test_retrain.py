"""Retraining on a local Ray: a first student, new pictures and a better one, nothing new, and one that is worse."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml

from jobs.config import load_recipe
from jobs.display import PlainDisplay
from jobs.flow import State
from jobs.retrain import RetrainResult, retrain
from pipelines.progress import NullProgress
from pipelines.scenes.generate import generate
from storage.feature_index import read_snapshot
from storage.manifest import read_manifest
from storage.objects import Objects
from tests.operations import DESCRIBING, RUINED, captions, scenes_of
from tests.registries import check_history

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    # Ray Data's settings object warns of its own old settings when it is made.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]


def _retrain(folder: Path, sources: list[dict[str, object]], *overrides: str) -> RetrainResult:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**DESCRIBING, "curation": {"sources": sources}}))
    recipe = load_recipe(str(path), [f"workspace={folder / 'workspace'}", *overrides])
    return retrain(recipe, PlainDisplay(io.StringIO()))


def _states(result: RetrainResult) -> dict[str, State]:
    return {outcome.name: outcome.state for outcome in result.outcomes}


def _images_by_part(result: RetrainResult) -> list[int]:
    """Images that each run of the teacher computed."""
    (url,) = {stored.url for stored in result.registry.version(result.event.version).features.values()}
    snapshot = read_snapshot(Objects.open(url.partition("/corpora/")[0]))
    assert snapshot is not None
    return [part.num_images for part in snapshot.parts]


def test_a_student_is_replaced_by_a_better_one_alone(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seed, splits in (("old", 0, {"train": 12, "val": 4}), ("new", 1, {"train": 4, "val": 0})):
        generate(scenes_of(seed, **splits), Objects.open(tmp_path / name), NullProgress())
    old = [captions(split, str(tmp_path / "old")) for split in ("train", "val")]
    everything = [*old, captions("train", str(tmp_path / "new"))]

    first = _retrain(tmp_path, old)
    assert (first.result, first.state.aliases) == ("promoted", {"champion": 1})
    assert set(_states(first).values()) == {State.RAN}
    assert _images_by_part(first) == [16]

    second = _retrain(tmp_path, everything)
    assert _states(second) == {
        **dict.fromkeys(("curate", "teach sam2", "train", "evaluate", "evaluate champion"), State.RAN),
        "calibrate sam2": State.PRESENT,
    }
    assert _images_by_part(second) == [16, 4]  # those of the new pictures alone
    version, champion = second.registry.version(2), second.registry.version(1)
    corpus, before = (read_manifest(Objects.open(one.corpora[0].url)) for one in (version, champion))
    assert corpus is not None
    assert before is not None
    assert corpus.facts["parents"] == [before.key]
    assert second.event.comparison is not None
    (figure,) = second.event.comparison.figures
    assert figure.champion == 0
    assert figure.low > 0
    assert (second.result, second.state.aliases, version.parent) == ("promoted", {"champion": 2}, 1)
    settings = json.loads(Objects.open(version.checkpoint.url).read("manifest.json"))["recipe"]["training"]
    assert (settings["init"], settings["num_steps"]) == (champion.checkpoint.url, 80)

    with monkeypatch.context() as patch:
        patch.setattr("jobs.session.ray_session", None)  # no session is opened for nothing
        third = _retrain(tmp_path, everything)
    assert (third.result, third.event, third.num_ran) == ("nothing new", second.event, 0)

    fourth = _retrain(tmp_path, everything, RUINED)
    assert (fourth.result, fourth.state.aliases) == ("refused", {"champion": 2, "challenger": 3})
    assert fourth.event.reasons[0].startswith("description attribute_accuracy: worse: -")
    assert {name for name, state in _states(fourth).items() if state is State.RAN} == {"train", "evaluate"}
    check_history(fourth.registry.history())
