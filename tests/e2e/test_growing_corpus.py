"""A corpus that grows by a file a day, by the command line, on a disk and on S3: each goes on from the latest one."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from storage.corpus import Corpus
from storage.manifest import verify_manifest
from storage.objects import Objects
from tests.s3_server import S3Server
from tests.small_workspaces import encoded_picture

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.timeout(420),
    # Ray Data's settings object warns of its own old settings when it is made.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]


class Growing:
    """A recipe that goes on from the latest corpus, and its sources.

    Args:
        url: of an empty prefix, for sources and workspace.
        recipe: where the recipe is written.
    """

    def __init__(self, url: str, recipe: Path) -> None:
        self.url, self.recipe = url, recipe
        self.sources = Objects.open(f"{url}/in")
        curation = {"parent": "latest", "root": self.sources.url, "max_reject_share": 1, "images_per_shard": 2}
        tree = {"extends": "smoke", "name": "growing", "scenes": None, "workspace": f"{url}/work"}
        recipe.write_text(json.dumps({**tree, "curation": {**curation, "sources": []}}))

    def bring(self, day: int) -> None:
        """A file of rows on two pictures, of which the next day knows one too, and one that is missing."""
        for number in (day, day + 1):
            self.sources.create(f"{number}.png", encoded_picture(number))
        rows = [{"image": f"{name}.png", "caption": f"day {day}"} for name in (day, day + 1, "none")]
        self.sources.create(f"day{day}.jsonl", "\n".join(map(json.dumps, rows)).encode())

    def curate(self, days: Sequence[int], *overrides: str) -> tuple[Corpus, str]:
        """Runs `sailloft curate` on the files of some days; returns the corpus, and what was said."""
        names = ", ".join(f"day{day}.jsonl" for day in days)
        sources = f"curation.sources=[{{kind: generic, rows: [{names}]}}]"
        result = CliRunner().invoke(app, ["curate", str(self.recipe), sources, *overrides])
        assert result.exit_code == 0, result.output
        found = re.search(r"^curate: (\S+)$", result.output, re.MULTILINE)
        assert found is not None, result.output
        verify_manifest(Objects.open(found[1]))
        return Corpus.open(found[1]), result.output

    def keys(self) -> list[str]:
        """Names of the folders of all corpora."""
        return list(Objects.open(f"{self.url}/work/curate").folders())


@pytest.fixture(params=["disk", "S3"])
def growing(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Growing:
    if request.param == "disk":
        return Growing(str(tmp_path / "all"), tmp_path / "recipe.yaml")
    server: S3Server = request.getfixturevalue("s3_server")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return Growing(f"s3://{server.bucket}/{uuid.uuid4().hex}", tmp_path / "recipe.yaml")


def test_every_day_goes_on_from_the_latest(growing: Growing) -> None:
    for day in (1, 2, 3):
        growing.bring(day)
    first, said = growing.curate([1])
    assert first.manifest.facts["parents"] == []
    assert "since the parent" not in said
    assert "nothing to do" in growing.curate([1])[1]
    second, said = growing.curate([1, 2])
    assert second.manifest.facts["parents"] == [first.manifest.key]
    assert "1 parts kept, 1 read, 0 gone or replaced; 2 samples added, 0 taken out" in said
    # The second one keeps more of these than the first.
    third, said = growing.curate([2, 3])
    assert third.manifest.facts["parents"] == [second.manifest.key, first.manifest.key]
    assert "1 parts kept, 1 read, 1 gone or replaced; 2 samples added, 2 taken out" in said
    # What was is the one that it was, and the address follows from the parent, not from how it was found.
    again, said = growing.curate([1, 2])
    assert (again.manifest, "nothing to do" in said) == (second.manifest, True)
    named, said = growing.curate([2, 3], f"curation.parent={second.objects.url}")
    assert (named.manifest, "nothing to do" in said) == (third.manifest, True)
    assert growing.keys() == sorted(corpus.manifest.key for corpus in (first, second, third))
    fresh, _ = growing.curate([2, 3], "curation.parent=null")
    assert fresh.manifest.key != third.manifest.key
    assert sorted(sample.sample_id for sample in fresh.samples()) == sorted(s.sample_id for s in third.samples())
    assert [row.locator for row in third.rejects()] == ["row=2", "row=2"]
