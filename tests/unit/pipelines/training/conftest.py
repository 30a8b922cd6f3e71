"""A corpus of four small pictures with squares, features of three of them, and a student of some thousand weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import DistillationHead, StudentConfig
from model.processor import Processor
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from pipelines.training.config import TrainingConfig
from pipelines.training.feed import TrainingFeed
from storage.corpus import Corpus, write_images, write_samples
from storage.features import FeatureRow, FeatureStore
from storage.manifest import Manifest, publish
from storage.masks import encode_mask
from storage.objects import Objects
from storage.schema import (
    SCHEMA_VERSION,
    ImageRecord,
    PromptKind,
    Region,
    Sample,
    Task,
    Turn,
    VisualPrompt,
)
from storage.testing import publish_example_part
from tests.image_records import picture_record

SIZES = ((16, 24), (16, 24), (32, 16), (16, 24))
"""(height, width) of the pictures, px: grids of 2 x 3 and 4 x 2 patches."""
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


def picture(number: int) -> tuple[ImageRecord, dict[str, Region]]:
    """A grey picture with a red and a blue square, and the squares as regions."""
    height, width = SIZES[number]
    pixels = np.full((height, width, 3), 90 + 30 * number, np.uint8)
    regions: dict[str, Region] = {}
    for place, (colour, value) in enumerate(COLOURS.items()):
        bitmap = np.zeros((height, width), np.bool_)
        bitmap[2 + number : 9 + number, 1 + 8 * place : 7 + 8 * place] = True
        pixels[bitmap] = value
        regions[colour] = Region(mask=encode_mask(bitmap), category="square")
    return picture_record(pixels, f"{number}.png"), regions


def make_sample(
    sample_id: str,
    image_id: str | None,
    task: Task,
    turns: Sequence[Turn],
    *,
    regions: Sequence[Region] = (),
    prompts: Sequence[VisualPrompt] = (),
    family: str = "refer",
    split: str = "train",
) -> Sample:
    return Sample(
        sample_id=sample_id,
        image_id=image_id,
        family=family,
        task=task,
        split=split,
        regions=tuple(regions),
        prompts=tuple(prompts),
        turns=tuple(turns),
        source_file="toy.json",
        locator=sample_id,
    )


def samples_of(number: int, image_id: str, regions: dict[str, Region]) -> list[Sample]:
    """Three referring expressions, two descriptions, and a chat of two turns."""
    both = (regions["red"], regions["blue"])
    refer = [
        make_sample(f"{number}-red", image_id, Task.REFERRING, [Turn(text="red", targets=((0,),))], regions=both),
        make_sample(
            f"{number}-both", image_id, Task.REFERRING, [Turn(text="squares", targets=((0, 1),))], regions=both
        ),
        make_sample(f"{number}-none", image_id, Task.REFERRING, [Turn(text="cow", targets=((),))], regions=both),
    ]
    talk = [
        make_sample(
            f"{number}-{colour}-described",
            image_id,
            Task.DESCRIPTION,
            [Turn(text="", answer=f"<region1>: a {colour} square")],
            regions=(region,),
            prompts=(VisualPrompt(kind=PromptKind.MASK, region=0),),
            family="talk",
        )
        for colour, region in regions.items()
    ]
    chat = make_sample(
        f"{number}-chat",
        image_id,
        Task.REASONING,
        [Turn(text="which is warm?", answer="Red [SEG].", targets=((0,),)), Turn(text="how many?", answer="two")],
        regions=both,
        family="chat",
    )
    return [*refer, *talk, chat]


@pytest.fixture(scope="session")
def pictures() -> list[tuple[ImageRecord, dict[str, Region]]]:
    return [picture(number) for number in range(len(SIZES))]


@pytest.fixture(scope="session")
def image_ids(pictures: list[tuple[ImageRecord, dict[str, Region]]]) -> list[str]:
    return [record.image_id for record, _ in pictures]


@pytest.fixture(scope="session")
def corpus(pictures: list[tuple[ImageRecord, dict[str, Region]]]) -> Corpus:
    objects = Objects.open("memory://training-tests/corpus")
    samples = [
        s for number, (record, regions) in enumerate(pictures) for s in samples_of(number, record.image_id, regions)
    ]
    samples += [
        make_sample("text", None, Task.CONVERSATION, [Turn(text="hello", answer="good day")], family="llava"),
        make_sample("lone", pictures[3][0].image_id, Task.UNLABELLED, [], family="plain"),
        make_sample("held-out", pictures[0][0].image_id, Task.REFERRING, [Turn(text="x", targets=((),))], split="val"),
    ]
    files = (
        write_images(objects, "00000", [record for record, _ in pictures]),
        write_samples(objects, "00000", samples),
    )
    publish(objects, Manifest("corpus", "c" * 64, SCHEMA_VERSION, {}, {}, files, {}))
    return Corpus.open(objects)


@pytest.fixture(scope="session")
def features(image_ids: list[str]) -> dict[str, FeatureStore]:
    """Both teachers know the first three pictures; Mask2Former gives the second at twice the size."""
    generator = np.random.default_rng(0)
    shapes = {"mask2former": [(4, 6), (8, 12), (8, 4)], "sam2": [(5, 5)] * 3}
    stores: dict[str, FeatureStore] = {}
    for teacher, of_teacher in shapes.items():
        rows = [
            FeatureRow(image_id, *shape, generator.normal(size=(6, *shape)).astype(np.float32))
            for image_id, shape in zip(image_ids, of_teacher, strict=False)
        ]
        store = Objects.open(f"memory://training-tests/{teacher}")
        publish_example_part(store, "part", rows, "raw16")
        stores[teacher] = FeatureStore.open(store)
    return stores


def _copied(source: Objects, target: Path) -> Objects:
    copy = Objects.open(target)
    for info in list(source.list()):
        copy.put(info.key, source.read(info.key))
    return copy


@pytest.fixture(scope="session")
def corpus_on_disk(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The same corpus where other processes find it."""
    return Corpus.open(_copied(corpus.objects, tmp_path_factory.mktemp("corpus")))


@pytest.fixture(scope="session")
def features_on_disk(
    features: dict[str, FeatureStore], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, FeatureStore]:
    """The same stores where other processes find them."""
    folder = tmp_path_factory.mktemp("features")
    return {name: FeatureStore.open(_copied(store.objects, folder / name)) for name, store in features.items()}


@pytest.fixture(scope="session")
def tokenizer() -> StudentTokenizer:
    return StudentTokenizer.train(["segment the red square", "a blue square", "It is [SEG].", "No target"], 320, 5)


@pytest.fixture(scope="session")
def student_config(tokenizer: StudentTokenizer) -> StudentConfig:
    return StudentConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_theta=100.0,
        patch_size_px=8,
        max_side_px=64,
        mask_stride_px=4,
        mask_dim=16,
        num_visual_prompts=5,
        wordings="short",
        distillation=(
            DistillationHead(teacher="mask2former", num_channels=6, source="mask_features"),
            DistillationHead(teacher="sam2", num_channels=6, source="patches"),
        ),
    )


@pytest.fixture
def student(student_config: StudentConfig) -> PixelSail:
    return PixelSail(student_config).init_weights(torch.Generator().manual_seed(0))


@pytest.fixture
def processor(student_config: StudentConfig, tokenizer: StudentTokenizer) -> Processor:
    return Processor(student_config, tokenizer)


@pytest.fixture
def make_feed(corpus: Corpus, features: dict[str, FeatureStore], processor: Processor) -> Callable[..., TrainingFeed]:
    def make(config: TrainingConfig, rank: int = 0, world_size: int = 1) -> TrainingFeed:
        return TrainingFeed(corpus, features, processor, config, rank, world_size)

    return make


@pytest.fixture
def run_folder(request: pytest.FixtureRequest) -> Objects:
    """An empty prefix of its own for each test."""
    return Objects.open(f"memory://{Path(request.node.name).stem.replace('[', '-').strip(']')}/state")
