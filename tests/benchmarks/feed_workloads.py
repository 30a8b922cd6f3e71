"""What the benchmarks of the feed read: a corpus of scenes, features of two teachers, and the demo's student."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore

from jobs.config import load_recipe
from model.tokenizer import StudentTokenizer
from model.wordings import answer_of, example_texts, question_of
from pipelines.scenes.config import ScenesConfig
from pipelines.scenes.draw import draw_scene
from pipelines.scenes.png import encode_png
from pipelines.training.config import LoaderConfig
from pipelines.training.feed import TrainingFeed
from pipelines.training.loader import FeedSpec
from storage.calibration import TIERS, CalibrationSample
from storage.codecs import Codec, codec_of
from storage.corpus import Corpus, write_images, write_samples
from storage.feature_plan import PlannedRow
from storage.keys import Json
from storage.klt import KltCodec
from storage.manifest import Manifest, publish
from storage.masks import encode_mask
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, ImageRecord, Region, Sample, Task, Turn
from tests.benchmarks.feature_workloads import FeatureMaker, write_store
from tests.image_records import file_record

__all__ = ["FeedWorkload", "Slow", "demo_workload"]

_SPLIT = "train"


@dataclass(frozen=True)
class FeedWorkload:
    """A feed as the demo has it."""

    spec: FeedSpec
    shapes: dict[str, tuple[int, int, int]]
    """Channels, rows and columns of each teacher's features."""

    def described(self) -> dict[str, Json]:
        """For the figures."""
        config, store = self.spec.config, next(iter(self.spec.features.values()))
        assert store.codec is not None
        return {
            "images": len(store),
            "image_px": [64, 64],
            "features": {teacher: list(shape) for teacher, shape in self.shapes.items()},
            "encoding": store.codec.encoding.partition(":")[0],
            "batch_rows": config.batch_rows,
            "turns_per_row": config.mixture[0].turns_per_row,
            "loader": config.loader.model_dump(mode="json"),
        }


def demo_workload(
    folder: Path, num_images: int, codec: str = "klt", shapes: dict[str, tuple[int, int, int]] | None = None
) -> FeedWorkload:
    """Scenes, expressions, student and batches of the demo, with generated features.

    Args:
        folder: for corpus and stores.
        num_images: scenes.
        codec: encoding of the features.
        shapes: channels, rows and columns by teacher; None: those of the demo's tiny teachers.
    """
    recipe = load_recipe("demo")
    assert recipe.scenes is not None
    corpus = _scenes(folder / "corpus", recipe.scenes, num_images)
    shapes = shapes or {"mask2former": (32, 16, 16), "sam2": (64, 8, 8)}
    table = corpus.image_table(["image_id"])
    image_ids: list[str] = table["image_id"].to_pylist()
    features = {
        teacher: write_store(
            folder / teacher,
            [PlannedRow(image_id, *shape[1:]) for image_id in image_ids],
            _codec(codec, shape),
            _Made(shape[0]),
        )
        for teacher, shape in shapes.items()
    }
    samples = list(corpus.samples())
    texts = list(example_texts(recipe.student.wordings))
    for sample in samples:
        texts += [question_of(sample, 0, None, "short"), answer_of(sample, 0, None, "short")]
    tokenizer = StudentTokenizer.train(texts, recipe.student.vocab_size, recipe.student.num_visual_prompts)
    heads = [head.model_copy(update={"num_channels": shapes[head.teacher][0]}) for head in recipe.student.distillation]
    student = recipe.student.model_copy(update={"vocab_size": tokenizer.vocab_size, "distillation": tuple(heads)})
    config = recipe.training.model_copy(
        update={"num_workers": 1, "loader": LoaderConfig(kind="processes", prefetch_steps=4)}
    )
    return FeedWorkload(FeedSpec(corpus, features, student, tokenizer.to_json(), config), shapes)


@dataclass(frozen=True)
class Slow:
    """Makes a feed all of whose requests for bytes wait before they are sent; for a process of its own."""

    spec: FeedSpec
    latency_s: float

    def __call__(self) -> TrainingFeed:
        """The feed; from here on this process is slow."""
        for name in ("get", "get_range", "get_ranges"):
            setattr(obstore, name, _delayed(getattr(obstore, name), self.latency_s))
        return self.spec()


def _delayed(request: Any, latency_s: float) -> Any:
    def send(*arguments: Any, **options: Any) -> Any:
        time.sleep(latency_s)
        return request(*arguments, **options)

    return send


class _Made(FeatureMaker):
    """Features by the first digits of an image's id."""

    def features(self, number: int, height: int = 64, width: int = 64) -> Any:
        return super().features(number % 2**32, height, width)


def _codec(name: str, shape: tuple[int, int, int]) -> Codec:
    if name not in TIERS:
        return codec_of(name)
    maker, sample = FeatureMaker(shape[0]), CalibrationSample()
    for number in range(24):
        sample.add(maker.features(number, *shape[1:]))
    return KltCodec(sample.fit(TIERS[name]))


def _scenes(folder: Path, config: ScenesConfig, num_images: int) -> Corpus:
    """A corpus of scenes with their expressions, each a sample of one turn."""
    images: list[ImageRecord] = []
    samples: list[Sample] = []
    for index in range(num_images):
        scene = draw_scene(config, _SPLIT, index)
        height, width = scene.image.shape[:2]
        image = file_record(encode_png(scene.image), height, width, f"{index}.png")
        images.append(image)
        regions = tuple(Region(mask=encode_mask(mask)) for mask in scene.masks)
        samples += [
            Sample(
                sample_id=f"{index}-{number}",
                image_id=image.image_id,
                family="grefcoco",
                task=Task.REFERRING,
                split=_SPLIT,
                regions=regions,
                turns=(Turn(text=expression.text, targets=(tuple(expression.targets),)),),
                source_file="scenes",
                locator=str(index),
            )
            for number, expression in enumerate(scene.expressions)
        ]
    objects = Objects.open(folder)
    files = (write_images(objects, "0", images), write_samples(objects, "0", samples))
    publish(objects, Manifest("corpus", "f" * 64, SCHEMA_VERSION, {}, {}, files))
    return Corpus.open(objects)
