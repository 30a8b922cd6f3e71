"""Training and scoring of a small SAM 2 on pictures: a point or a box in, the mask of the object out.

Ravi et al., "SAM 2: Segment Anything in Images and Videos" (arXiv 2408.00714), appendix D, for single
pictures: of three masks for a point the best one is trained, a box gives one mask, and a head learns
the IoU of each. Mask prompts, several clicks, memory and the object score are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from model.losses import dice_loss
from pipelines.scenes.chance import Chance
from pipelines.teacher_training.data import Example
from storage.recipe import RecipeModel
from teachers.base import build_seeded
from teachers.sam2 import Sam2Sizes, Sam2TeacherConfig, vision_config

if TYPE_CHECKING:
    from transformers import Sam2Model

__all__ = ["Sam2Network", "Sam2Trainee", "box_of", "deepest_point"]

_STRIDE = 16
_WEAK_FEATURES = 0.25
"""Factor that brings initial features from 2.2 to 0.5 in deviation; that of the embedding of places is 0.7."""
_SHARP_ATTENTION = math.sqrt(2)
"""Factor of queries and of keys; a point's own place then has about half of its attention."""
_BOX_JITTER = 0.1
"""Largest shift of a side of a training box, as a share of the box's extent; as in SAM."""


class Sam2Network(RecipeModel):
    """A small SAM 2 with prompt encoder and mask decoder, which the features don't need but their training does."""

    kind: Literal["sam2"] = "sam2"
    """Names this network among the others."""
    sizes: Sam2Sizes = Sam2Sizes()
    """Sizes of the image encoder, and the seed of the initial weights."""
    image_size_px: int = Field(default=128, ge=64, multiple_of=32)
    """Side of the input that the saved configuration states; training may use others besides."""
    num_prompts: int = Field(default=3, ge=1, le=3)
    """Objects of each picture that a step asks for, each by a point and by a box."""
    iou_weight: float = Field(default=1.0, ge=0)
    """Weight of the squared error of the predicted IoU, beside BCE and dice."""

    def geometry(self, input_px: int) -> Sam2TeacherConfig:
        """How the teacher takes a picture."""
        return Sam2TeacherConfig(image_size_px=input_px)

    def build(self, device: str = "cpu") -> Sam2Trainee:
        """Draws initial weights from the seed in `sizes`."""
        from transformers import Sam2Config, Sam2MaskDecoderConfig, Sam2Model, Sam2PromptEncoderConfig

        num_channels, grid = self.sizes.num_channels, self.image_size_px // _STRIDE
        vision = vision_config(self.sizes)
        vision.backbone_feature_sizes = [[scale * grid, scale * grid] for scale in (4, 2, 1)]
        prompts = Sam2PromptEncoderConfig(hidden_size=num_channels, image_size=self.image_size_px, patch_size=_STRIDE)
        decoder = Sam2MaskDecoderConfig(
            hidden_size=num_channels,
            mlp_dim=4 * num_channels,
            num_attention_heads=2,
            attention_downsample_rate=2,
            iou_head_hidden_dim=num_channels,
            # One mask is then always that of the first token, in training as afterwards.
            dynamic_multimask_via_stability=False,
        )
        config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
        # Weights by fan-in: transformers' deviation of 0.02 is meant for wide layers and leaves these nearly still.
        module = cast("Sam2Model", build_seeded(lambda: Sam2Model(config), self.sizes.seed))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(self.sizes.seed)
            _begin_with_places(module)
        nn.Module.to(module, device)  # transformers' own `to` is typed for decorators only
        return Sam2Trainee(module, self)


@dataclass(frozen=True, slots=True)
class Sam2Trainee:
    """The network with its loss and its score."""

    module: Sam2Model
    config: Sam2Network

    def loss(self, examples: Sequence[Example], chance: Chance) -> Tensor:
        """BCE, dice and error of the IoU head, averaged over prompts; of several masks the best one counts.

        Args:
            examples: pictures of one size.
            chance: draws objects, points and boxes.
        """
        chosen = [chance.sample(range(len(example.masks)), self.config.num_prompts) for example in examples]
        masks = [example.masks[numbers] for example, numbers in zip(examples, chosen, strict=True)]
        points = np.array([[_random_point(mask, chance) for mask in row] for row in masks], dtype=np.float32)
        boxes = np.array([[_random_box(mask, chance) for mask in row] for row in masks], dtype=np.float32)
        embeddings = self._embed(torch.stack([example.pixels for example in examples]))
        truth = torch.from_numpy(np.stack(masks)).to(self.module.device)
        anything = torch.from_numpy(np.stack([example.masks.any(axis=0) for example in examples])).to(truth.device)
        several = chance.happens(0.5)
        by_point = self._prompted_loss(self._ask(embeddings, points, None, several), truth, anything)
        by_box = self._prompted_loss(self._ask(embeddings, None, boxes, False), truth, anything)
        return by_point + by_box

    def score(self, examples: Sequence[Example]) -> dict[str, float]:
        """Mean IoU over all objects, asked for by their deepest point and by their exact box, one mask each.

        `iou_error` is how far the predicted IoU is from the true one, on average over both.
        """
        ious: dict[str, list[float]] = {"point": [], "box": []}
        errors: list[float] = []
        for example in examples:
            points = np.array([[deepest_point(mask) for mask in example.masks]], dtype=np.float32)
            boxes = np.array([[box_of(mask) for mask in example.masks]], dtype=np.float32)
            truth = torch.from_numpy(example.masks[None]).to(self.module.device)
            with torch.inference_mode():
                embeddings = self._embed(example.pixels[None])
                for name, (some_points, some_boxes) in {"point": (points, None), "box": (None, boxes)}.items():
                    logits, predicted = self._ask(embeddings, some_points, some_boxes, False)
                    actual = _ious(_upsampled(logits, truth.shape[-1]), truth)
                    ious[name].extend(actual.flatten().tolist())
                    errors.extend((predicted - actual).abs().flatten().tolist())
        return {
            "point_iou": float(np.mean(ious["point"])),
            "box_iou": float(np.mean(ious["box"])),
            "iou_error": float(np.mean(errors)),
        }

    def _embed(self, pixels: Float[Tensor, "batch 3 side side"]) -> list[Tensor]:
        """`Sam2Model.get_image_embeddings` with gradients and for any side."""
        side = pixels.shape[-1]
        self.module.prompt_encoder.input_image_size = side
        self.module.prompt_encoder.image_embedding_size = (side // _STRIDE, side // _STRIDE)
        finest, finer, coarsest = self.module.vision_encoder(pixels.to(self.module.device)).fpn_hidden_states
        decoder = self.module.mask_decoder
        coarsest = coarsest + self.module.no_memory_embedding.view(1, -1, 1, 1)
        return [decoder.conv_s0(finest), decoder.conv_s1(finer), coarsest]

    def _ask(
        self,
        embeddings: list[Tensor],
        points_xy_px: NDArray[np.float32] | None,
        boxes_xyxy_px: NDArray[np.float32] | None,
        several: bool,
    ) -> tuple[Float[Tensor, "batch prompts masks h w"], Float[Tensor, "batch prompts masks"]]:
        """Mask logits at stride 4 and predicted IoUs; points are (batch, prompts, 2), boxes (batch, prompts, 4)."""
        device = self.module.device
        points = None if points_xy_px is None else torch.from_numpy(points_xy_px).to(device)[:, :, None]
        output = self.module(
            image_embeddings=embeddings,
            input_points=points,
            input_labels=None if points is None else torch.ones(points.shape[:3], dtype=torch.long, device=device),
            input_boxes=None if boxes_xyxy_px is None else torch.from_numpy(boxes_xyxy_px).to(device),
            multimask_output=several,
        )
        return output.pred_masks, output.iou_scores

    def _prompted_loss(
        self,
        answer: tuple[Tensor, Tensor],
        truth: Bool[Tensor, "batch prompts side side"],
        anything: Bool[Tensor, "batch side side"],
    ) -> Tensor:
        logits, predicted = answer
        full = _upsampled(logits, truth.shape[-1])
        others = anything[:, None] & ~truth
        regions = torch.stack([truth, others, ~anything[:, None].expand_as(truth)], dim=2)
        bce = balanced_bce_loss(full, truth, regions)
        flat = full.flatten(0, 2).flatten(1)
        targets = truth[:, :, None].expand_as(full).flatten(0, 2).flatten(1).to(flat.dtype)
        dice = dice_loss(flat, targets).view_as(predicted)
        error = functional.mse_loss(predicted, _ious(full.detach(), truth))
        return (bce + dice).amin(dim=2).mean() + self.config.iou_weight * error


def balanced_bce_loss(
    logits: Float[Tensor, "batch prompts masks side side"],
    truth: Bool[Tensor, "batch prompts side side"],
    regions: Bool[Tensor, "batch prompts regions side side"],
) -> Float[Tensor, "batch prompts masks"]:
    """Binary cross-entropy in which a region weighs as the square root of its area.

    With object, other objects and background as regions, a mask of all objects costs more than with all pixels alike;
    a small network that has learnt such masks ignores prompts for long. Equal weights of regions make edges blurred.

    Args:
        logits: of each mask.
        truth: the object that each prompt means.
        regions: disjoint and covering the picture; some may be empty.
    """
    targets = truth[:, :, None].expand_as(logits).to(logits.dtype)
    each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    roots = regions.sum((-2, -1)).to(logits.dtype).sqrt()
    sums = torch.einsum("bpmyx,bpryx->bpmr", each, regions.to(logits.dtype))
    return (sums / roots.clamp(min=1)[:, :, None]).sum(-1) / roots.sum(-1, keepdim=True)


def _begin_with_places(module: Sam2Model) -> None:
    """Sets initial weights so that a prompt begins by looking at its own place, and that place at the prompt.

    Otherwise a network of this size marks every object whatever the prompt. Prompts and pictures get one embedding of
    places, as in the original (transformers draws two); features begin weaker than that embedding; between tokens and
    picture keys are projected as queries are; tokens have deviation 1, as in the original. Transposed convolutions,
    which `build_seeded` leaves nearly still, get weights by fan-in.
    """
    shared = module.shared_image_embedding.positional_embedding
    module.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
    for layer in module.modules():
        if isinstance(layer, nn.Embedding):
            layer.weight.normal_()
        elif isinstance(layer, nn.ConvTranspose2d):
            layer.weight.normal_(std=1 / math.sqrt(layer.in_channels))
    for name, layer in module.named_modules():
        if name.startswith("vision_encoder.neck.convs") and isinstance(layer, nn.Conv2d):
            layer.weight.mul_(_WEAK_FEATURES)
        elif name.endswith(("token_to_image", "image_to_token")):
            queries, keys = layer.get_submodule("q_proj"), layer.get_submodule("k_proj")
            assert isinstance(queries, nn.Linear)
            queries.weight.mul_(_SHARP_ATTENTION)
            keys.load_state_dict(queries.state_dict())


def box_of(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """The tight box `x0, y0, x1, y1` of a mask that isn't empty, in pixels, ends exclusive."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def deepest_point(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """The pixel (x, y) of a mask that is furthest from what isn't of the mask; the first of several."""
    depth = np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1)))
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return float(column - 1), float(row - 1)


def _random_point(mask: NDArray[np.bool_], chance: Chance) -> tuple[float, float]:
    pixels = np.flatnonzero(mask)
    row, column = divmod(int(pixels[chance.below(len(pixels))]), mask.shape[1])
    return float(column), float(row)


def _random_box(mask: NDArray[np.bool_], chance: Chance) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box_of(mask)
    width, height = _BOX_JITTER * (x1 - x0), _BOX_JITTER * (y1 - y0)
    x0, x1 = (x + chance.between(-width, width) for x in (x0, x1))
    y0, y1 = (y + chance.between(-height, height) for y in (y0, y1))
    return x0, y0, x1, y1


def _upsampled(logits: Float[Tensor, "batch prompts masks h w"], side: int) -> Tensor:
    """Bilinear to the size of the input: (batch, prompts, masks, side, side)."""
    stretched = functional.interpolate(logits.flatten(0, 1), size=(side, side), mode="bilinear", align_corners=False)
    return stretched.unflatten(0, logits.shape[:2])


def _ious(
    logits: Float[Tensor, "batch prompts masks side side"], truth: Bool[Tensor, "batch prompts side side"]
) -> Float[Tensor, "batch prompts masks"]:
    found, wanted = logits > 0, truth[:, :, None]
    return (found & wanted).sum((-2, -1)) / (found | wanted).sum((-2, -1)).clamp(min=1)
