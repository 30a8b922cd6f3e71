"""`sailloft features`: what the commands show and leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipelines.calibration.steps import calibration_key, codec_for
from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.plan import store_key
from storage.errors import CorruptObject, ObjectNotFound, UnknownKind, UsageError
from storage.features import FeatureStore
from storage.objects import Objects
from storage.testing import example_features, publish_example_part


@pytest.fixture
def url(tmp_path: Path) -> str:
    for number, row in enumerate(example_features()):
        publish_example_part(Objects.open(tmp_path), f"part{number}", [row], "klt")
    return str(tmp_path)


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["features", *arguments])
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0
    return result.stdout


def test_stat_shows_images_encoding_and_its_cost(url: str) -> None:
    shown = _run("stat", url).splitlines()
    assert shown[0].startswith(f"{url}: 7 images, 1 rejected, ")
    assert "6 channels, teacher and grid teacher (stride 4)" in shown[1]
    assert shown[2].startswith("  encoding klt:")
    assert len(shown) == 3 + 8
    assert "1 images  1 size classes  1 shards" in shown[3]
    assert "bits per value" in shown[3]
    assert " dB" in shown[3]


def test_verify_says_that_all_is_well_or_what_is_not(url: str) -> None:
    assert "40 files of 8 parts are whole" in _run("verify", url)
    part = FeatureStore.open(url).parts[2]
    part.objects.put("l20/c/0/0/0", b"other")
    with pytest.raises(CorruptObject, match=r"part2/l20/c/0/0/0: expected .* bytes with SHA-256"):
        _run("verify", url)


def test_compact_then_gc(url: str) -> None:
    shown = _run("compact", url, "--forget", "image0")
    assert "8 parts retired, 7 rows copied, 1 rows left out" in shown
    assert f"sailloft features gc {url}" in shown
    assert "nothing to do" in _run("compact", url)
    assert "0 objects, 0.0 MiB removed" in _run("gc", url)
    assert "48 objects" in (looked := _run("gc", url, "--older-than-hours", "0", "--dry-run"))
    assert "would be removed" in looked
    assert "and 38 more" in looked
    assert "48 objects" in _run("gc", url, "--older-than-hours", "0")
    assert sorted(FeatureStore.open(url)) == [f"image{number}" for number in (1, 2, 3, 4, 6, 7)]


def test_a_dry_run_of_compact_and_transcode_counts_and_leaves_everything(url: str, tmp_path: Path) -> None:
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    shown = _run("compact", url, "--forget", "image0", "--dry-run")
    assert shown == f"{url}: 8 parts would be retired, 7 rows would be copied, 1 rows would be left out\n"
    told = json.loads(_run("compact", url, "--dry-run", "--json"))
    assert (len(told["retired"]), told["part"], told["num_images"]) == (8, None, 8)
    with pytest.raises(UsageError, match="expected a finer encoding than klt to begin with, got klt:"):
        _run("transcode", url, "--codec", "klt-20db", "--workspace", f"{url}/runs", "--dry-run")
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["stat", "verify", "compact"])
def test_an_absent_store_is_named(tmp_path: Path, command: str) -> None:
    with pytest.raises(ObjectNotFound, match="absent/index: no snapshot; no features there, run teach first"):
        _run(command, str(tmp_path / "absent"))


def test_transcode_puts_features_where_teach_looks(tmp_path: Path) -> None:
    source, workspace = Objects.open(tmp_path / "source"), tmp_path / "runs"
    publish_example_part(source, "part", example_features(), "raw16")
    arguments = ("transcode", source.url, "--workspace", str(workspace), "--codec", "klt")
    told = json.loads(_run(*arguments, "--dry-run", "--json"))
    assert (told["store"], told["num_images"]) == (None, 8)
    assert not workspace.exists()
    shown = _run(*arguments)
    assert "7 images, 1 rejected" in shown
    (calibration,) = (workspace / "calibrate").iterdir()
    features = FeaturesConfig(codec="klt")
    assert calibration.name == calibration_key("teacher", features)
    codec = codec_for(features, Objects.open(calibration))
    store = workspace / "features" / store_key("teacher", codec.encoding)
    assert len(FeatureStore.open(store)) == 7
    again = json.loads(_run(*arguments, "--dry-run", "--json"))
    assert (again["store"], again["num_images"]) == (str(store), 0)
    assert "has all that" in _run(*arguments)
    with pytest.raises(UnknownKind, match="unknown feature encoding 'jpeg'; known: int8, klt, klt-20db"):
        _run("transcode", source.url, "--workspace", str(workspace), "--codec", "jpeg")
