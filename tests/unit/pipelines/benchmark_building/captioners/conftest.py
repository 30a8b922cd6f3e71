"""Requests for drafts on drawn objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.benchmark_building.build import pictures_of
from pipelines.benchmark_building.captioners.base import DraftRequest
from pipelines.benchmark_building.drawing import decoded
from pipelines.benchmark_building.records import BenchmarkTask, Candidate
from pipelines.benchmark_building.settings import BuildConfig
from storage.objects import Objects
from tests.object_corpora import write_object_corpus

AskFor = Callable[[BenchmarkTask, str], DraftRequest]


@pytest.fixture
def ask_for(tmp_path: Path) -> AskFor:
    """Makes a request on the first object of a category; of an expression, with the dog as the prompt."""
    corpus = write_object_corpus(Objects.open(tmp_path / "corpus"), 1)
    (picture,), categories = pictures_of(corpus, BuildConfig())
    places = {region.category: place for place, region in reversed(list(enumerate(picture.regions)))}
    data = corpus.image(picture.image_id).data
    assert data is not None

    def ask(task: BenchmarkTask, category: str) -> DraftRequest:
        is_referring = task is BenchmarkTask.VISUAL_TEXT_REFERRING
        prompts, targets = ((places["dog"],), (places[category],)) if is_referring else ((places[category],), ())
        return DraftRequest(Candidate(task, picture, prompts, targets), decoded(data), categories, 3, 0)

    return ask
