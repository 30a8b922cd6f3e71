"""A corpus of drawn objects, and drafts on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.benchmark_building.build import build_drafts
from pipelines.benchmark_building.drafts import Drafts
from pipelines.benchmark_building.settings import BuildConfig
from storage.corpus import Corpus
from storage.objects import Objects
from tests.object_corpora import write_object_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write_object_corpus(Objects.open(tmp_path / "corpus"))


@pytest.fixture
def drafts(corpus: Corpus, tmp_path: Path) -> Drafts:
    return build_drafts(corpus, BuildConfig(num_per_task=4), Objects.open(tmp_path / "drafts"))
