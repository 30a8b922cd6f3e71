"""Through the command line: a picture of a run is removed, the run is repeated, and everything goes on without it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import cli
from storage.corpus import Corpus
from storage.features import FeatureStore
from storage.forgotten import FORGOTTEN
from storage.keys import bytes_key
from storage.objects import Objects
from storage.retirement import RETIRED_NAME

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(420),
    # Ray Data's settings object warns of its own old settings when it is made.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]

SCENES = [
    "scenes.splits={train: 4, val: 2}",
    "teachers=[{kind: sam2, checkpoint: tiny-sam2, image_size_px: 64}]",
    "features.codec=int8",
    "features.num_actors=1",
]

Command = Callable[..., str]


@pytest.fixture
def command(local_ray: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process; gives its standard output."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["sailloft", *arguments])
        code = cli.main()
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return run


def outputs_of(command: Command, key: str, workspace: Path) -> dict[str, Any]:
    return json.loads(command("lineage", key, "--workspace", str(workspace), "--json"))["outputs"]


def test_a_forgotten_picture_stays_away(command: Command, tmp_path: Path) -> None:
    teach = ("teach", "smoke", f"workspace={tmp_path}", *SCENES)
    command(*teach)
    (corpus,) = (path.name for path in (tmp_path / "curate").iterdir())
    stores = {path.name: len(FeatureStore.open(path)) for path in (tmp_path / "features").iterdir()}
    assert set(stores.values()) == {6}
    picture = sorted((tmp_path / "scenes").glob("*/images/*/*"))[0]
    image_id = bytes_key(picture.read_bytes())
    lineage = json.loads(command("lineage", str(picture), "--workspace", str(tmp_path), "--json"))
    assert [item["key"] for item in lineage["corpora"]] == [corpus]
    assert {item["store"] for item in lineage["parts"]} == set(stores)
    behind = outputs_of(command, corpus, tmp_path)
    assert {output["kind"] for output in behind.values()} >= {"scenes", "corpus", "features"}
    assert all(output["code"] for output in behind.values() if output["kind"] in ("scenes", "corpus", "features"))

    assert "would be retired" in command("forget", str(picture), "--workspace", str(tmp_path), "--dry-run")
    command("forget", str(picture), "--workspace", str(tmp_path), "--reason", "they asked")
    note = json.loads((tmp_path / "curate" / corpus / RETIRED_NAME).read_bytes())
    successor = Corpus.open(Objects.open(tmp_path / f"curate/{note['successor']}"))
    assert image_id not in {sample.image_id for sample in successor.samples()}
    parts = {path.name for path in (tmp_path / "features").glob("*/parts/*")}

    command(*teach)
    assert {path.name for path in (tmp_path / "curate").iterdir()} == {corpus, note["successor"]}
    assert {path.name for path in (tmp_path / "features").glob("*/parts/*")} == parts, "nothing is computed again"
    assert {len(FeatureStore.open(path)) for path in (tmp_path / "features").iterdir()} == {5}
    outputs = (path for path in tmp_path.rglob("*") if path.is_file() and "scenes" not in path.parts)
    holding = [path.relative_to(tmp_path) for path in outputs if image_id.encode() in path.read_bytes()]
    assert {(path.parts[0], path.name) for path in holding} == {
        (FORGOTTEN, f"{image_id}.json"),
        ("curate", RETIRED_NAME),
    }
    shown = command("lineage", image_id, "--workspace", str(tmp_path))
    assert "they asked" in shown
    assert f"its successor is {note['successor'][:16]}" in shown

    # Another recipe over the same pictures.
    command("curate", "smoke", f"workspace={tmp_path}", *SCENES, "curation.filters.min_words=2")
    (other,) = {path.name for path in (tmp_path / "curate").iterdir()} - {corpus, note["successor"]}
    facts = Corpus.open(Objects.open(tmp_path / f"curate/{other}")).manifest.facts
    assert facts["rejects_by_reason"]["forgotten"] > 0
    assert image_id not in {i.image_id for i in Corpus.open(Objects.open(tmp_path / f"curate/{other}")).images()}
