"""`sailloft benchmark` and `sailloft view`: what the commands show and leave behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import benchmarks
from jobs.cli import app
from jobs.flow import Outcome, State
from jobs.runner import RunResult
from pipelines.benchmark_building.drafts import Drafts
from pipelines.benchmark_building.review.decisions import Verdict
from pipelines.benchmark_building.review.log import DecisionLog
from storage.errors import DataError, ObjectNotFound, UsageError
from storage.objects import Objects
from tests.object_corpora import write_object_corpus


@pytest.fixture
def corpus_url(tmp_path: Path) -> str:
    return write_object_corpus(Objects.open(tmp_path / "corpus")).objects.url


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0
    return result.stdout


def _built(corpus_url: str, tmp_path: Path) -> str:
    """Address of two drafts per task, from what the command says."""
    shown = _run("benchmark", "build", corpus_url, "num_per_task=2", "--to", str(tmp_path / "drafts"))
    return shown.splitlines()[-1].removeprefix("review them:  sailloft view ")


def _accept_all(url: str, *names: str) -> Drafts:
    drafts = Drafts.open(Objects.open(url))
    log = DecisionLog(drafts.objects)
    for name in names:
        for item in drafts.to_review:
            log.decide(name, item.item_id, Verdict.ACCEPTED, item.texts)
    return drafts


def test_build_makes_drafts_once(corpus_url: str, tmp_path: Path) -> None:
    url = _built(corpus_url, tmp_path)
    assert url.startswith(str(tmp_path / "drafts"))
    assert _built(corpus_url, tmp_path) == url
    assert len(Drafts.open(Objects.open(url)).to_review) == 6
    assert len(list((tmp_path / "drafts").iterdir())) == 1


def test_build_tells_what_passes_and_what_is_missing(corpus_url: str, tmp_path: Path) -> None:
    lines = _run("benchmark", "build", corpus_url, "--to", str(tmp_path / "drafts")).splitlines()
    assert lines[0].endswith("drafts on 8 pictures")
    assert lines[1] == "  captioner: template, version 1"
    assert "set aside" in lines[2]
    assert lines[-2] == "  1476 fewer than asked for: the corpus has no more candidates"


def test_a_dry_run_makes_nothing(corpus_url: str, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("num_per_task: 3\ncaptioner: {kind: template}\n")
    arguments = ("benchmark", "build", corpus_url, "seed=4", "--to", str(tmp_path / "drafts"), "--dry-run")
    shown = _run(*arguments, "--settings", str(tmp_path / "settings.yaml"))
    assert "num_per_task: 3" in shown
    assert "seed: 4" in shown
    assert f"drafts     missing  {tmp_path / 'drafts'}/" in shown
    assert not (tmp_path / "drafts").exists()
    assert "their address follows from the corpus" in _run("benchmark", "build", "smoke", "--dry-run")


def test_wrong_settings_are_told_by_name(corpus_url: str) -> None:
    with pytest.raises(UsageError, match=r"recipe of the benchmark: 1 problem\n  num_per_tsk: no such field"):
        _run("benchmark", "build", corpus_url, "num_per_tsk=3")
    with pytest.raises(UsageError, match=r"captioner\.modell: no such field"):
        _run("benchmark", "build", corpus_url, "captioner={kind: endpoint, url: 'https://h/v1', modell: m}")
    with pytest.raises(ObjectNotFound, match="no corpus there, run curate first"):
        _run("benchmark", "build", "absent")


def test_a_recipe_is_curated_first(corpus_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str | None]] = []

    def run_recipe(recipe, display, until=None, verbose=False) -> RunResult:
        seen.append((recipe.name, until))
        return RunResult((Outcome("curate", "k", corpus_url, State.PRESENT, None, 0),), "/w", None)

    monkeypatch.setattr(benchmarks, "run_recipe", run_recipe)
    assert "sailloft view" in _run("benchmark", "build", "smoke", "num_per_task=1", "--to", str(tmp_path / "drafts"))
    assert seen == [("smoke", "curate")]


def test_show_tells_how_far_the_review_is(corpus_url: str, tmp_path: Path) -> None:
    url = _built(corpus_url, tmp_path)
    assert _run("benchmark", "show", url).splitlines()[-1] == "  no item is decided on by two reviewers yet"
    _accept_all(url, "Ada", "Bo")
    lines = _run("benchmark", "show", url).splitlines()
    assert "  accepted       6" in lines
    assert lines[-1] == "  100% of 6 pairs of decisions are equal, kappa not defined"
    shown = json.loads(_run("benchmark", "show", url, "--json"))
    assert shown["review"]["mcq"] == {"open": 0, "accepted": 2, "rejected": 0, "disputed": 0}
    assert shown["agreement"] == {"num_pairs": 6, "equal_share": 1.0, "kappa": None, "num_reviewers": 2}


def test_export_makes_a_folder_once_people_have_accepted(corpus_url: str, tmp_path: Path) -> None:
    url, target = _built(corpus_url, tmp_path), tmp_path / "benchmark"
    _accept_all(url, "Ada")
    with pytest.raises(DataError, match=r"expected items that 2 reviewers accept, found none \(6 open\)"):
        _run("benchmark", "export", url, "--to", str(target))
    assert not target.exists()
    options = ("--to", str(target), "--reviewers", "1", "--num-per-task", "1")
    would = _run("benchmark", "export", url, *options, "--dry-run")
    assert would == (
        f"{target}: 1 detailed_caption, 1 mcq, 1 visual_text_res would be written; 0 items are open or disputed\n"
    )
    told = json.loads(_run("benchmark", "export", url, *options, "--dry-run", "--json"))
    assert told["num_items"] == {"detailed_caption": 1, "mcq": 1, "visual_text_res": 1}
    assert not target.exists()
    shown = _run("benchmark", "export", url, *options)
    assert shown.startswith(f"{target}: 1 detailed_caption, 1 mcq, 1 visual_text_res on ")
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "images", "perbench"]
    with pytest.raises(UsageError, match="expected a new or empty folder"):
        _run("benchmark", "export", url, "--to", str(target), "--reviewers", "1")


def test_view_says_which_packages_are_missing(corpus_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pipelines.viewer")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    monkeypatch.setitem(sys.modules, "starlette.routing", None)
    with pytest.raises(UsageError, match=r"sailloft view needs .*; pip install 'sailloft\[view\]'"):
        _run("view", corpus_url)


@pytest.mark.parametrize(
    "arguments", [("benchmark", "build"), ("benchmark", "show"), ("benchmark", "export"), ("view",)]
)
def test_help_has_examples(arguments: tuple[str, ...]) -> None:
    assert "Example" in _run(*arguments, "--help")
