"""The example `docs/gallery.py` on a tiny student and a corpus with a question for each task."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from storage.corpus import write_images, write_samples
from storage.manifest import Manifest, publish
from storage.masks import encode_mask
from storage.objects import Objects
from storage.schema import (
    SCHEMA_VERSION,
    PromptKind,
    Region,
    Sample,
    Task,
    Turn,
    VisualPrompt,
)
from tests.image_records import file_record

SCRIPT = Path(__file__).resolve().parents[3] / "docs" / "gallery.py"
SIZE = (24, 32)


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gallery", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(np.full((*SIZE, 3), 128, np.uint8)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def regions() -> tuple[Region, Region]:
    left = np.zeros(SIZE, bool)
    left[4:12, 2:10] = True
    return Region(mask=encode_mask(left)), Region(mask=encode_mask(left[:, ::-1]))


def make_sample(image_id: str, task: Task, turn: Turn, *, is_prompted: bool = False, split: str = "val") -> Sample:
    return Sample(
        sample_id=f"{task}-{turn.targets}-{split}",
        image_id=image_id,
        family="toy",
        task=task,
        split=split,
        regions=regions(),
        prompts=(VisualPrompt(kind=PromptKind.MASK, region=0),) if is_prompted else (),
        turns=(turn,),
        source_file="toy.json",
        locator="0",
    )


@pytest.fixture
def corpus(tmp_path: Path, picture: Path) -> Path:
    image = file_record(picture.read_bytes(), *SIZE)
    samples = [
        make_sample(image.image_id, Task.REFERRING, Turn(text="the left one", targets=((0,),))),
        make_sample(image.image_id, Task.REFERRING, Turn(text="the black star", targets=((),))),
        make_sample(image.image_id, Task.REFERRING, Turn(text="both", targets=((0, 1),)), split="train"),
        make_sample(image.image_id, Task.DESCRIPTION, Turn(text="", answer="a grey square"), is_prompted=True),
        make_sample(
            image.image_id,
            Task.VISUAL_TEXT_REFERRING,
            Turn(text="what is right of <region1>", answer="[SEG]", targets=((1,),)),
            is_prompted=True,
        ),
    ]
    objects = Objects.open(tmp_path / "corpus")
    files = (write_images(objects, "00000", [image]), write_samples(objects, "00000", samples))
    publish(objects, Manifest("corpus", "c" * 64, SCHEMA_VERSION, {}, {}, files, {}))
    return tmp_path / "corpus"


def num_rows(path: Path, gallery: ModuleType) -> int:
    """Counts the lines that end each row, on a picture of which every pixel is opaque."""
    with Image.open(path) as image:
        shown = np.asarray(image.convert("RGB"))
    assert shown.shape[1] == gallery.TEXT + 3 * gallery.SIDE + 5 * gallery.GAP
    pale = tuple(bytes.fromhex(gallery.PALE[1:]))
    return int((shown[:, gallery.GAP : -gallery.GAP] == pale).all((1, 2)).sum())


def test_a_row_for_each_task_that_the_corpus_has(
    gallery: ModuleType, masking_checkpoint: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gallery.png"
    gallery.main([str(out), "--checkpoint", str(masking_checkpoint), "--corpus", str(corpus)])
    assert capsys.readouterr().out == ("Several targets: left out, the split val of the corpus has no such question\n")
    assert num_rows(out, gallery) == 4
    gallery.main([str(out), "--checkpoint", str(masking_checkpoint), "--corpus", str(corpus), "--split", "train"])
    assert num_rows(out, gallery) == 1


def test_questions_come_with_their_truth(gallery: ModuleType, corpus: Path) -> None:
    asked = {question.task: question for question in gallery.questions_of_corpus(str(corpus), "val", "short", 0)}
    assert [len(asked[task].truth) for task in asked] == [1, 1, 0, 1]
    assert asked["Referring"].text == "the left one"
    assert asked["Referring"].truth[0].sum() == 64
    assert not asked["No target"].truth[0].any()
    assert (asked["Region caption"].text, asked["Region caption"].truth_text) == ("describe <region1>", "a grey square")
    assert (asked["Visual-text referring"].prompts[0] == asked["Referring"].truth[0]).all()


def test_a_run_names_checkpoint_corpus_and_wording(
    gallery: ModuleType, masking_checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "workspace" / "runs" / "demo-0123"
    folder.mkdir(parents=True)
    stages = [{"name": "curate", "url": str(corpus)}, {"name": "train", "url": str(masking_checkpoint)}]
    record = {"stages": stages, "recipe": {"evaluation": {"wording": "short"}}}
    (folder / "record.json").write_text(json.dumps(record))
    gallery.main([str(tmp_path / "gallery.png"), "--run", str(tmp_path / "workspace")])
    assert num_rows(tmp_path / "gallery.png", gallery) == 4


def test_questions_of_ones_own(gallery: ModuleType, masking_checkpoint: Path, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "gallery.png"
    question = ["--ask", "Referring", "the red square", "--ask", "Region caption", "describe <region1>"]
    own = ["--checkpoint", str(masking_checkpoint), "--picture", str(picture), "--box", "2,3,10,12"]
    gallery.main([str(out), *own, *question])
    assert num_rows(out, gallery) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected --run, or --checkpoint with --corpus, or --checkpoint with --picture and --ask"),
        (("--checkpoint", "student", "--picture", "x.png"), "expected --run, or"),
        (("--run", "no/such"), "no/such: no finished run there"),
    ],
)
def test_wrong_usage(
    gallery: ModuleType, arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        gallery.main(["gallery.png", *arguments])
    assert message in capsys.readouterr().err
