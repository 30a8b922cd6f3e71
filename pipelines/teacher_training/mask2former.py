"""Training and scoring of a small Mask2Former: every object a thing of its shape, the background the one stuff."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from pipelines.scenes.chance import Chance
from pipelines.teacher_training.data import BACKGROUND_CLASS, CLASS_NAMES, Example
from pipelines.teacher_training.panoptic import PanopticQuality, Segmentation
from storage.recipe import RecipeModel
from teachers.base import build_seeded
from teachers.mask2former import Mask2FormerSizes, Mask2FormerTeacherConfig, network_config

if TYPE_CHECKING:
    from transformers import Mask2FormerForUniversalSegmentation

__all__ = ["Mask2FormerNetwork", "Mask2FormerTrainee", "true_segmentation"]

_SCORED_AT_ONCE = 16


class Mask2FormerNetwork(RecipeModel):
    """A small Mask2Former with its transformer decoder, which the features don't need but their training does."""

    kind: Literal["mask2former"] = "mask2former"
    """Names this network among the others."""
    sizes: Mask2FormerSizes = Mask2FormerSizes()
    """Sizes of backbone and pixel decoder, and the seed of the initial weights."""
    num_queries: int = Field(default=16, ge=10)
    """Segments that can be found in a picture; scenes have at most 9 objects and the background."""
    num_decoder_layers: int = Field(default=3, ge=1)
    """Layers of the transformer decoder; each is trained to give masks."""
    num_points: int = Field(default=1024, ge=1)
    """Points of each mask that the loss looks at, chosen as in PointRend."""

    def geometry(self, input_px: int) -> Mask2FormerTeacherConfig:
        """How the teacher takes a picture of that side."""
        return Mask2FormerTeacherConfig(short_side_px=input_px, long_side_px=input_px)

    def build(self, device: str = "cpu") -> Mask2FormerTrainee:
        """Draws initial weights from the seed in `sizes`."""
        from transformers import Mask2FormerForUniversalSegmentation

        config = network_config(self.sizes)
        config.num_queries = self.num_queries
        config.decoder_layers = self.num_decoder_layers + 1  # transformers counts the initial prediction too
        config.dim_feedforward = 4 * self.sizes.num_channels
        config.train_num_points = self.num_points
        config.id2label = dict(enumerate(CLASS_NAMES))
        config.label2id = {name: number for number, name in enumerate(CLASS_NAMES)}
        # Weights by fan-in: transformers' deviation of 0.02 is meant for wide layers and leaves these nearly still.
        network = build_seeded(lambda: Mask2FormerForUniversalSegmentation(config), self.sizes.seed)
        module = cast("Mask2FormerForUniversalSegmentation", network)
        nn.Module.to(module, device)  # transformers' own `to` is typed for decorators only
        return Mask2FormerTrainee(module)


@dataclass(frozen=True, slots=True)
class Mask2FormerTrainee:
    """The network with its loss and its score."""

    module: Mask2FormerForUniversalSegmentation

    def loss(self, examples: Sequence[Example], chance: Chance) -> Tensor:
        """Transformers' loss: Hungarian matching, then cross-entropy of classes, BCE and dice of masks, all layers.

        Args:
            examples: pictures of one size.
            chance: unused; points are drawn from torch's generator, which the loop seeds.
        """
        del chance
        device = self.module.device
        masks = [np.concatenate([example.masks, example.background[None]]) for example in examples]
        output = self.module(
            pixel_values=torch.stack([example.pixels for example in examples]).to(device),
            mask_labels=[torch.from_numpy(each).to(device, torch.float32) for each in masks],
            class_labels=[torch.tensor([*each.classes, BACKGROUND_CLASS], device=device) for each in examples],
        )
        assert output.loss is not None
        return output.loss.sum()

    def score(self, examples: Sequence[Example]) -> dict[str, float]:
        """Panoptic quality at the size of the input, with transformers' own way from queries to segments."""
        from transformers import Mask2FormerImageProcessorPil

        processor = Mask2FormerImageProcessorPil()
        quality = PanopticQuality()
        for start in range(0, len(examples), _SCORED_AT_ONCE):
            part = examples[start : start + _SCORED_AT_ONCE]
            with torch.inference_mode():
                output = self.module(torch.stack([example.pixels for example in part]).to(self.module.device))
            found = processor.post_process_panoptic_segmentation(
                output,
                label_ids_to_fuse={BACKGROUND_CLASS},
                target_sizes=[(example.masks.shape[1], example.masks.shape[2]) for example in part],
            )
            for example, item in zip(part, found, strict=True):
                categories = {int(segment["id"]): int(segment["label_id"]) for segment in item["segments_info"]}
                ids = item["segmentation"].cpu().numpy().astype(np.int64)
                quality.add(Segmentation(ids, categories), true_segmentation(example))
        all_, things = quality.score(), quality.score(range(BACKGROUND_CLASS))
        stuff = quality.score([BACKGROUND_CLASS])
        return {"pq": all_.pq, "sq": all_.sq, "rq": all_.rq, "pq_things": things.pq, "pq_stuff": stuff.pq}


def true_segmentation(example: Example) -> Segmentation:
    """Objects are segments 1, 2, ... from back to front; the background is the one after them."""
    num_objects = len(example.masks)
    ids = np.full(example.masks.shape[1:], num_objects + 1, dtype=np.int64)
    for number, mask in enumerate(example.masks):
        ids[mask] = number + 1
    categories = {number + 1: category for number, category in enumerate(example.classes)}
    return Segmentation(ids, {**categories, num_objects + 1: BACKGROUND_CLASS})
