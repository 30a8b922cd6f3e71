"""`sailloft lineage`: outputs by address or URL, images by id or file, as a tree and as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from jobs import cli
from jobs.lineage import ImageLineage, OutputLineage, image_id_of, lineage_json, lineage_of
from jobs.lineage_display import lineage_text
from storage.errors import ObjectNotFound, UsageError
from storage.forgotten import note_forgotten
from storage.keys import bytes_key
from storage.objects import Objects
from tests.small_workspaces import CODE, STORE, SmallWorkspace


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallWorkspace:
    folder = tmp_path_factory.mktemp("lineage")
    return SmallWorkspace(Objects.open(folder / "work"), folder / "sources")


@pytest.fixture(scope="module")
def keys(small: SmallWorkspace) -> dict[str, str]:
    """A flow from a parent to scores."""
    small.rows("a.jsonl", (0, "the cup", "train"), (1, "the cup", "val"))
    small.rows("b.jsonl", (2, "the cup", "train"))
    parent = small.curate("a.jsonl")
    corpus = small.curate("a.jsonl", "b.jsonl", parent=parent)
    features = small.teach(corpus)
    base = small.train(parent, "base")
    checkpoint = small.train(corpus, init=f"runs/train/{base}")
    scores = small.evaluate(corpus, checkpoint, [small.picture(1)])
    small.workspace.put("runs/mine-01/record.json", json.dumps({"stages": [{"key": scores}]}).encode())
    found = {"parent": parent, "corpus": corpus, "features": features, "base": base, "checkpoint": checkpoint}
    return {**found, "scores": scores}


def workspace_url(small: SmallWorkspace) -> str:
    return small.workspace.url


def test_scores_lead_back_to_everything(small: SmallWorkspace, keys: dict[str, str]) -> None:
    lineage = lineage_of(keys["scores"][:10], workspace_url(small))
    assert isinstance(lineage, OutputLineage)
    told = json.loads(lineage_json(lineage))
    outputs = told["outputs"]
    assert told["key"] == keys["scores"]
    assert set(keys.values()) < set(outputs)
    links = {(link["of"], link["name"]): link["key"] for link in told["made_of"]}
    assert links[keys["scores"], "checkpoint"] == keys["checkpoint"]
    assert links[keys["checkpoint"], "base"] == keys["base"]
    assert links[keys["checkpoint"], "features/sam2"] == keys["features"]
    assert links[keys["features"], "store"] == STORE
    assert outputs[links[STORE, "part 0"]]["kind"] == "feature part"
    assert links[keys["corpus"], "parent"] == keys["parent"]
    assert links[keys["parent"], "0:a.jsonl"] == bytes_key((small.sources / "a.jsonl").read_bytes())
    assert outputs[keys["checkpoint"]]["recipe"]["training"]["num_steps"] == 4
    assert outputs[keys["checkpoint"]]["code"][0]["commit"] == CODE.commit
    assert outputs[keys["scores"]]["runs"] == ["runs/mine-01/record.json"]
    shown = lineage_text(lineage)
    for key in (*keys.values(), STORE):
        assert key[:16] in shown
    assert "teacher sam2, weights some, float32" in shown
    assert "2 samples on 2 images" in shown
    assert shown.count("commit cccccccccccc") == 1, "what is the same isn't said again"


def test_a_corpus_leads_forward(small: SmallWorkspace, keys: dict[str, str]) -> None:
    lineage = lineage_of(f"{workspace_url(small)}/curate/{keys['parent']}", None)
    told = json.loads(lineage_json(lineage))
    ahead = {(link["of"], link["name"], link["key"]) for link in told["went_into"]}
    assert (keys["parent"], "parent", keys["corpus"]) in ahead
    assert (keys["checkpoint"], "checkpoint", keys["scores"]) in ahead
    assert "went into" in lineage_text(lineage)


@pytest.mark.parametrize("nested", ["corpora", "parts"])
def test_urls_inside_a_store(small: SmallWorkspace, keys: dict[str, str], nested: str) -> None:
    store = f"{workspace_url(small)}/features/{STORE}"
    (key,) = [keys["features"]] if nested == "corpora" else small.store.folders("parts")
    lineage = lineage_of(f"{store}/{nested}/{key}/", None)
    assert isinstance(lineage, OutputLineage)
    assert lineage.output.key == key


def test_an_image_by_file_by_id_and_by_its_first_digits(small: SmallWorkspace, keys: dict[str, str]) -> None:
    image_id = small.picture(1)
    told = [
        json.loads(lineage_json(lineage_of(asked, workspace_url(small))))
        for asked in (str(small.sources / "1.png"), image_id, image_id.upper(), image_id[:12])
    ]
    assert all(found == told[0] for found in told)
    assert {item["key"] for item in told[0]["corpora"]} == {keys["parent"], keys["corpus"]}
    assert {item["role"] for item in told[0]["checkpoints"]} == {"held out"}
    assert [item["num_predictions"] for item in told[0]["scores"]] == [1]
    assert told[0]["forgotten"] is None
    shown = lineage_text(lineage_of(image_id, workspace_url(small)))
    assert "1 referring of a (val)" in shown
    assert "1 predictions on it" in shown


def test_an_image_that_nothing_saw(small: SmallWorkspace, keys: dict[str, str]) -> None:
    assert "nothing in this workspace saw it" in lineage_text(lineage_of("0" * 64, workspace_url(small)))
    note_forgotten(small.workspace, "1" * 64, {"reason": "asked to", "when": "2026-01-02"})
    lineage = lineage_of("1" * 12, workspace_url(small))
    assert isinstance(lineage, ImageLineage)
    assert "forgotten on 2026-01-02: asked to" in lineage_text(lineage)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ("no/such", UsageError, "no/such: expected the address of an output"),
        ("word", UsageError, "expected a URL, digits of an address"),
        ("abc", UsageError, "expected at least 4 digits"),
        ("0123456789", ObjectNotFound, "begins with 0123456789, found none"),
        ("{workspace}/train/0123", ObjectNotFound, "no output there"),
    ],
)
def test_what_cannot_be_found_is_said(
    small: SmallWorkspace, keys: dict[str, str], asked: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        lineage_of(asked.format(workspace=workspace_url(small)), workspace_url(small))


def test_an_empty_workspace_is_said(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound, match="no output of any stage there; give --workspace"):
        lineage_of("01234567", str(tmp_path))
    with pytest.raises(UsageError, match="expected an id, the 64 hex digits"):
        image_id_of(str(tmp_path / "absent.png"))


def test_the_command(
    small: SmallWorkspace, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sailloft", "lineage", keys["scores"], "--workspace", workspace_url(small)])
    assert cli.main() == 0
    assert f"scores {keys['scores'][:16]}" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--json"])
    assert cli.main() == 0
    assert json.loads(capsys.readouterr().out)["key"] == keys["scores"]
