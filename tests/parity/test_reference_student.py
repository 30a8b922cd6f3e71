"""The student against the released model: every output of a golden file from its weights and inputs.

Tolerances: 1e-4 absolute on outputs, 1e-5 relative on losses (float32, CPU).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from model.answers import answered_masks
from model.config import DistillationHead, StudentConfig
from model.huggingface import PixelSailConfig, PixelSailForConditionalGeneration
from model.losses import dice_loss, distillation_loss, mask_bce_loss, next_token_loss
from model.positions import sequence_positions
from model.processor import normalise_and_patchify
from model.reference import from_released, to_released
from model.student import PixelSail, StudentInputs
from model.visual_prompt import patch_prompts

GOLDEN_ENV = "SAILLOFT_GOLDEN"


@dataclass
class Golden:
    facts: dict
    tensors: dict[str, Tensor]
    model: PixelSail

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}

    def numbered(self, prefix: str) -> list[Tensor]:
        return [self.tensors[f"{prefix}.{i}"] for i in range(len(self.facts["patch_grid"]))]

    def inputs(self) -> StudentInputs:
        ids, slots = self.tensors["in.input_ids"], self.tensors["in.vision_patch_indices"].flatten()
        on_patch = (slots >= 0).nonzero()[:, 0]
        patch_slots = torch.empty_like(on_patch)
        patch_slots[slots[on_patch]] = on_patch
        first_prompt = self.facts["special_token_ids"]["<Prompt0>"]
        prompts = self.tensors["in.vp_token_indices"].flatten()[patch_slots]
        special = self.facts["special_token_ids"]
        inside = (ids == special["<vision>"]).cumsum(1) - (ids == special["</vision>"]).cumsum(1)
        inside = inside.bool() | (ids == special["</vision>"])
        return StudentInputs(
            input_ids=ids,
            positions=self.tensors["in.position_ids"],
            document=torch.zeros_like(ids),
            prefix=torch.where(inside, 0, -1),
            branch=torch.zeros_like(ids),
            patches=self.tensors["in.vision_patches"],
            patch_slots=patch_slots,
            patch_prompt_ids=torch.where(prompts >= 0, prompts + first_prompt, -1),
            pooled_slots=torch.zeros(0, dtype=torch.long),
            pooled_patches=torch.zeros(0, dtype=torch.long),
            grids=tuple((rows, columns) for rows, columns in self.facts["patch_grid"]),
        )


@pytest.fixture(scope="module")
def golden() -> Golden:
    default = Path(__file__).resolve().parents[3] / "shared" / "golden" / "reference_a"
    path = os.environ.get(GOLDEN_ENV, str(default))
    if not Path(f"{path}.safetensors").exists():
        pytest.skip(f"no golden file {path}.safetensors; set {GOLDEN_ENV} to a path without extension")
    facts = json.loads(Path(f"{path}.json").read_text())
    tensors = load_file(f"{path}.safetensors")
    sizes = facts["config"]
    weights = {name.removeprefix("weights."): tensor for name, tensor in tensors.items() if name.startswith("weights.")}
    num_blocks = len({name.split(".")[1] for name in weights if name.startswith("upsample_blocks.")})
    config = StudentConfig(
        vocab_size=len(weights["single_transformer.model.embed_tokens.weight"]),
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        num_layers=sizes["num_hidden_layers"],
        num_attention_heads=sizes["num_attention_heads"],
        num_key_value_heads=sizes["num_key_value_heads"],
        rope_theta=sizes["rope_theta"],
        patch_size_px=sizes["patch_size"],
        mask_stride_px=sizes["patch_size"] >> num_blocks,
        mask_dim=sizes["seg_hidden"],
        num_visual_prompts=sizes["num_visual_prompts"],
        distillation=tuple(
            DistillationHead(
                teacher=teacher, num_channels=len(weights[f"{teacher}_distill_linear.weight"]), source=source
            )
            for teacher, source in (("mask2former", "mask_features"), ("sam2", "patches"))
        ),
    )
    model = PixelSail(config)
    model.load_state_dict(from_released(weights, config))
    return Golden(facts, tensors, model.eval())


@dataclass
class Outputs:
    hidden: Tensor
    logits: Tensor
    queries: list[Tensor]
    patch_maps: list[Tensor]
    mask_features: list[Tensor]
    mask_logits: list[Tensor]


@pytest.fixture(scope="module")
def outputs(golden: Golden) -> Outputs:
    inputs, model = golden.inputs(), golden.model
    with torch.no_grad():
        hidden = model(inputs)
        maps: dict[int, Tensor] = {}
        features: dict[int, Tensor] = {}
        for images, stacked in model.patch_maps(hidden, inputs).values():
            for image, patch_map, mask_features in zip(images, stacked, model.mask_features(stacked), strict=True):
                maps[image], features[image] = patch_map, mask_features
        seg = inputs.input_ids == golden.facts["special_token_ids"]["[SEG]"]
        queries = [model.seg_query(hidden[row][seg[row]]) for row in range(len(hidden))]
        logits = [torch.einsum("nq,hwq->nhw", q, features[row]) for row, q in enumerate(queries)]
    ordered = range(len(hidden))
    return Outputs(
        hidden, model.logits(hidden), queries, [maps[i] for i in ordered], [features[i] for i in ordered], logits
    )


def check(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max().item() <= 1e-4


def test_hidden_states_and_logits(golden: Golden, outputs: Outputs) -> None:
    check(outputs.hidden, golden.tensors["out.last_hidden_state"])
    check(outputs.logits, golden.tensors["out.logits"])


def test_masks(golden: Golden, outputs: Outputs) -> None:
    for i in range(len(outputs.queries)):
        check(outputs.queries[i], golden.tensors[f"out.seg_embeddings.{i}"])
        check(outputs.mask_features[i], golden.tensors[f"out.mask_features.{i}"])
        check(outputs.mask_logits[i], golden.tensors[f"out.mask_logits.{i}"])


def test_the_model_of_transformers(golden: Golden) -> None:
    """Hidden states, logits and masks by way of its own arguments: positions and structure follow from the tokens."""
    special, inputs = golden.facts["special_token_ids"], golden.inputs()
    config = PixelSailConfig(
        **golden.model.config.model_dump(mode="json"),
        vision_start_token_id=special["<vision>"],
        image_token_id=special["<vpatch>"],
        vision_end_token_id=special["</vision>"],
        seg_token_id=special["[SEG]"],
    )
    model = PixelSailForConditionalGeneration(config).eval()
    model.model.load_state_dict(golden.model.state_dict())
    given = {
        "input_ids": golden.tensors["in.input_ids"],
        "pixel_values": golden.tensors["in.vision_patches"],
        "image_grids": torch.tensor(golden.facts["patch_grid"]),
        "visual_prompt_ids": inputs.patch_prompt_ids,
    }
    with torch.no_grad():
        output = model(**given)
        prompt = model.student_inputs(**given)
        masks = answered_masks(model.model, prompt, output.last_hidden_state, inputs.input_ids == special["[SEG]"])
    assert prompt.positions.equal(golden.tensors["in.position_ids"])
    check(output.last_hidden_state, golden.tensors["out.last_hidden_state"])
    check(output.logits, golden.tensors["out.logits"])
    for i, of_row in enumerate(masks):
        check(of_row, golden.tensors[f"out.mask_logits.{i}"])


def test_losses(golden: Golden, outputs: Outputs) -> None:
    labels = golden.tensors["in.labels"][:, 1:]
    ntp = next_token_loss(outputs.logits[:, :-1][labels != -100], labels[labels != -100]).mean()
    bce, dice = [], []
    for logits, masks in zip(outputs.mask_logits, golden.numbered("in.gt_masks"), strict=True):
        targets = functional.interpolate(masks[:, None].float(), size=logits.shape[-2:], mode="nearest")[:, 0]
        bce.append(mask_bce_loss(logits.flatten(1), targets.flatten(1)))
        dice.append(dice_loss(logits.flatten(1), targets.flatten(1)))
    num_masks = sum(map(len, bce)) + 1e-4
    expected = {name: tensor.item() for name, tensor in golden.part("out.").items() if tensor.ndim == 0}
    assert ntp.item() == pytest.approx(expected["ntp_loss"], rel=1e-5)
    assert 0.1 * ntp.item() == pytest.approx(expected["llm_loss"], rel=1e-5)
    assert 2.0 * torch.cat(bce).sum().item() / num_masks == pytest.approx(expected["loss_mask"], rel=1e-5)
    assert 0.5 * torch.cat(dice).sum().item() / num_masks == pytest.approx(expected["loss_dice"], rel=1e-5)
    for teacher, maps in (("mask2former", outputs.mask_features), ("sam2", outputs.patch_maps)):
        head = golden.model.distillation_heads[teacher]
        losses = [
            distillation_loss(head(student[None]), features)
            for student, features in zip(maps, golden.numbered(f"in.teacher_{teacher}"), strict=True)
        ]
        loss = 0.5 * torch.cat(losses).sum().item() / (len(losses) + 1e-4)
        assert loss == pytest.approx(expected[f"{teacher}_distill_loss"], rel=1e-5)


def test_inputs_from_pixels(golden: Golden) -> None:
    """Patches, positions and injected prompts follow from the images and prompt masks."""
    size = golden.model.config.patch_size_px
    patches, prompt_ids, positions = [], [], []
    for i, ((rows, columns), image) in enumerate(
        zip(golden.facts["patch_grid"], golden.numbered("in.image"), strict=True)
    ):
        shape = (rows * size, columns * size)
        patches.append(normalise_and_patchify(image.numpy(), shape, size))
        prompts = [
            (int(name.rpartition("id")[2]), mask.bool().numpy())
            for name, mask in golden.part(f"in.prompt_mask.{i}.").items()
        ]
        prompt_ids.append(patch_prompts(prompts, shape, size))
        num_after = golden.tensors["in.input_ids"].shape[1] - 1 - rows * columns
        positions.append(sequence_positions([1, (rows, columns), num_after]))
    assert (torch.cat(patches) - golden.tensors["in.vision_patches"]).abs().max().item() <= 1e-6
    assert torch.stack(positions, dim=1).equal(golden.tensors["in.position_ids"])
    first = golden.facts["special_token_ids"]["<Prompt0>"]
    numbers = torch.cat(prompt_ids)
    assert torch.where(numbers >= 0, numbers + first, -1).equal(golden.inputs().patch_prompt_ids)


def test_released_names_round_trip(golden: Golden) -> None:
    weights = golden.part("weights.")
    back = to_released(golden.model.state_dict())
    assert back.keys() == weights.keys()
    assert all(back[name].equal(tensor) for name, tensor in weights.items())


def test_unknown_released_name_is_refused(golden: Golden) -> None:
    with pytest.raises(ValueError, match="without a place here"):
        from_released({"vision_tower.weight": torch.zeros(1)}, golden.model.config)
