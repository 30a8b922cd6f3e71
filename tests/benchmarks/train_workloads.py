"""What the benchmarks of training train: a narrow student of the 0.5B depth, and teachers of like relative cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from model.config import DistillationHead, StudentConfig
from model.flops import ForwardFlops, attended_pairs, student_flops
from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.steps import decode_rgb
from pipelines.distillation.teaching import teaching_of
from pipelines.progress import NullProgress
from storage.calibration import TIERS, CalibrationSample
from storage.corpus import Corpus, image_bytes, write_images, write_samples
from storage.features import FeatureStore
from storage.klt import KltCodec
from storage.manifest import Manifest, publish
from storage.masks import encode_mask
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, ImageRecord, Region, Sample, Task, Turn
from teachers.base import BaseTeacherConfig, Teacher
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.mask2former_sizes import MASK2FORMER_SIZES, Mask2FormerSizes
from teachers.sam2 import Sam2TeacherConfig
from teachers.sam2_sizes import SAM2_SIZES, Sam2Sizes
from tests.benchmarks.mfu import trained_student
from tests.benchmarks.student_counts import counted_flops
from tests.benchmarks.student_workloads import SampleMaker, training_batch_of
from tests.shards_here import run_shards_here
from tests.small_corpora import noise_picture

__all__ = [
    "FEATURES",
    "PHOTOGRAPH_PX",
    "Cost",
    "labelled_corpus",
    "narrow_student",
    "narrow_teachers",
    "published_student_flops",
    "published_teachers",
    "taught",
    "teacher_cost",
]

FEATURES = FeaturesConfig.model_validate({"codec": "klt", "batch_size": 2})
PHOTOGRAPH_PX = (480, 640)
"""(height, width) of the commonest photograph of COCO."""
_WORDS = ("the", "large", "small", "red", "blue", "left", "upper", "person", "dog", "window", "car", "of", "near")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network takes for one image."""

    parameters: int
    forward_flops: int


def narrow_student(vocab_size: int, *, tiny: bool) -> StudentConfig:
    """The 0.5B shape with every width divided by seven (but for the vocabulary)."""
    channels = 32 if tiny else 64
    return StudentConfig(
        vocab_size=vocab_size,
        hidden_size=32 if tiny else 128,
        intermediate_size=48 if tiny else 696,
        num_layers=2 if tiny else 24,
        num_attention_heads=2,
        num_key_value_heads=1,
        mask_dim=16 if tiny else 72,
        distillation=(
            DistillationHead(teacher="mask2former", num_channels=channels, source="mask_features"),
            DistillationHead(teacher="sam2", num_channels=channels, source="patches"),
        ),
    )


def narrow_teachers(*, tiny: bool) -> tuple[BaseTeacherConfig, ...]:
    """Half the published resolution for pictures of half the size, and as deep; narrow enough for narrow students."""
    if tiny:
        return Mask2FormerTeacherConfig(short_side_px=64, long_side_px=96), Sam2TeacherConfig(image_size_px=64)
    swin = Mask2FormerSizes(embed_dim=40, depths=(2, 2, 8, 2), window_size=6, num_channels=64, num_encoder_layers=3)
    hiera = Sam2Sizes(embed_dim=40, blocks=(1, 2, 10, 2), num_channels=64)
    return (
        Mask2FormerTeacherConfig(short_side_px=400, long_side_px=667, tiny=swin),
        Sam2TeacherConfig(image_size_px=512, tiny=hiera),
    )


def teacher_cost(config: BaseTeacherConfig, teacher: Teacher, size_px: tuple[int, int]) -> Cost:
    """Of one picture of a size (height, width)."""
    inputs = torch.zeros(1, 3, *config.input_size(*size_px))
    network: nn.Module = teacher._module  # type: ignore[attr-defined]
    return Cost(_parameters(network), counted_flops(lambda: teacher.forward(inputs)))


def published_teachers() -> dict[str, Cost]:
    """Swin-L with its pixel decoder and SAM 2's Hiera-L on a photograph of 640 x 480 px; nothing is computed."""
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerModel
    from transformers.models.sam2.modeling_sam2 import Sam2VisionModel

    swin, hiera = MASK2FORMER_SIZES["swin-large"].network_config(), SAM2_SIZES["hiera-large"].vision_config()
    builders: dict[str, tuple[BaseTeacherConfig, Callable[[], nn.Module]]] = {
        "mask2former": (Mask2FormerTeacherConfig(), lambda: Mask2FormerModel(swin).pixel_level_module),
        "sam2": (Sam2TeacherConfig(), lambda: Sam2VisionModel(hiera)),
    }
    costs: dict[str, Cost] = {}
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        for kind, (config, build) in builders.items():
            network, inputs = build().eval(), torch.zeros(1, 3, *config.input_size(*PHOTOGRAPH_PX))
            costs[kind] = Cost(_parameters(network), counted_flops(lambda n=network, x=inputs: n(x)))
    return costs


def published_student_flops() -> tuple[ForwardFlops, int]:
    """Of the 0.5B shape on a photograph with five expressions; and its tokens."""
    config = trained_student()
    maker = SampleMaker(config, 0)
    height, width = (side // config.patch_size_px for side in PHOTOGRAPH_PX)
    batch, _ = training_batch_of([[maker.sample((height, width), 200, 5)]], maker.tokenizer)
    pairs = attended_pairs(batch.inputs.structure)
    return (
        student_flops(config, batch.inputs, len(batch.label_ids), batch, pairs=pairs),
        batch.inputs.input_ids.numel(),
    )


def labelled_corpus(folder: Path, num_images: int, size_px: tuple[int, int]) -> Corpus:
    """Pictures of coarse noise, each with five expressions about rectangles."""
    generator = np.random.default_rng(7)
    images = [noise_picture(number, *size_px, "JPEG") for number in range(num_images)]
    samples = [sample for image in images for sample in _samples(image, generator)]
    objects = Objects.open(folder)
    files = (write_images(objects, "0", images), write_samples(objects, "0", samples))
    publish(objects, Manifest("corpus", "b" * 64, SCHEMA_VERSION, {}, {}, files))
    return Corpus.open(objects)


def _samples(image: ImageRecord, generator: np.random.Generator) -> list[Sample]:
    samples: list[Sample] = []
    for number in range(5):
        mask = np.zeros((image.height, image.width), np.bool_)
        y0, x0 = generator.integers(0, [image.height // 2, image.width // 2])
        mask[y0 : y0 + image.height // 3, x0 : x0 + image.width // 3] = True
        samples.append(
            Sample(
                sample_id=f"{image.image_id[:16]}-{number}",
                image_id=image.image_id,
                family="refcoco",
                task=Task.REFERRING,
                split="train",
                regions=(Region(mask=encode_mask(mask)),),
                turns=(Turn(text=" ".join(generator.choice(_WORDS, 5)), targets=((0,),)),),
                source_file="",
                locator=str(number),
            )
        )
    return samples


def taught(corpus: Corpus, teachers: Sequence[BaseTeacherConfig], folder: Path) -> dict[str, FeatureStore]:
    """The teachers' features of a corpus, as `teach` stores them."""
    stores: dict[str, FeatureStore] = {}
    for teacher in teachers:
        sample, built = CalibrationSample(), teacher.build()
        for image in list(corpus.images())[:8]:
            inputs = teacher.preprocess(decode_rgb(image_bytes(image)))[None]
            sample.add(built.forward(inputs)[0].numpy())
        codec, output = KltCodec(sample.fit(TIERS[FEATURES.codec])), Objects.open(folder / teacher.kind)
        teaching_of(corpus, teacher, FEATURES, codec, output).complete(run_shards_here, NullProgress())
        stores[teacher.kind] = FeatureStore.open(output)
    return stores


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
