"""The student against the stack that it replaces: language model, vision encoder and segmentation model.

Sizes of the stack, each from its authors' configuration: Qwen2.5-0.5B (the student has the same layers),
CLIP ViT-L/14 at 336 px with a projector of two linears as in LLaVA, SAM 2.1 Hiera-L without its video
memory, prompted by a projected `[SEG]` as in LISA and Sa2VA. Weights are arbitrary: only shapes matter.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    DynamicCache,
    Qwen2Config,
    Qwen2ForCausalLM,
    Sam2Config,
    Sam2Model,
)
from transformers.initialization import no_init_weights

from model.config import StudentConfig
from model.packing import collate
from model.student import PixelSail, StudentInputs
from storage.keys import Json
from tests.benchmarks.measuring import (
    Figures,
    Options,
    PeakMemory,
    alternate,
    compared,
    compared_times,
    fixed_threads,
    in_fresh_process,
    judged,
    machine,
    resident_bytes,
)
from tests.benchmarks.student_counts import counted_flops, tera
from tests.benchmarks.student_workloads import SampleMaker, fill, filled_student, shape_of, tiny_student

__all__ = ["Stack", "StackWorkload", "half_billion_student", "student_vs_stack"]

_SEED = 41

Side = Literal["student", "stack"]

logger = logging.getLogger(__name__)


def half_billion_student() -> StudentConfig:
    """The shape of Qwen2.5-0.5B, without heads of distillation, as released."""
    return StudentConfig(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4_864,
        num_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        distillation=(),
    )


@dataclass(frozen=True, slots=True)
class StackWorkload:
    """One picture, a short question and the `[SEG]` of the answer."""

    student: StudentConfig
    grid: tuple[int, int]
    """Rows and columns of the student's patches."""
    num_text_tokens: int
    stack: str
    """What the stack is made of, in words."""
    encoder: CLIPVisionConfig
    encoder_px: int
    segmenter: Sam2Config
    segmenter_px: int

    @classmethod
    def of(cls, *, tiny: bool) -> StackWorkload:
        """A picture of 640 x 480 px."""
        if tiny:
            student, name = tiny_student(distillation=()), "tiny CLIP, Qwen2 of the student's shape, tiny SAM2"
            return cls(student, (3, 4), 30, name, _tiny_encoder(), 28, _tiny_segmenter(), 64)
        name = "CLIP ViT-L/14 at 336 px, Qwen2.5-0.5B, SAM 2.1 Hiera-L at 1024 px"
        return cls(half_billion_student(), (30, 40), 32, name, _clip_large(), 336, _sam2_large(), 1_024)

    def inputs(self) -> StudentInputs:
        """The student's row; its last tokens are the answer with `[SEG]`."""
        maker = SampleMaker(self.student, _SEED)
        return collate([maker.row(self.grid, self.num_text_tokens, 1)], maker.tokenizer.end_of_text)[0]

    def seg_slot(self) -> int:
        """Index of `[SEG]` from the end: `<|endoftext|>` stands behind it."""
        return -2


def _clip_large() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=1_024,
        intermediate_size=4_096,
        projection_dim=768,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )


def _tiny_encoder() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )


def _sam2_large() -> Sam2Config:
    """`sam2.1_hiera_l.yaml` of facebookresearch/sam2."""
    return Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 144,
                "num_attention_heads": 2,
                "blocks_per_stage": [2, 6, 36, 4],
                "embed_dim_per_stage": [144, 288, 576, 1_152],
                "num_attention_heads_per_stage": [2, 4, 8, 16],
                "window_size_per_stage": [8, 4, 16, 8],
                "global_attention_blocks": [23, 33, 43],
                "window_positional_embedding_background_size": [7, 7],
            },
            "backbone_channel_list": [1_152, 576, 288, 144],
        }
    )


def _tiny_segmenter() -> Sam2Config:
    return Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [64, 64],
                "num_attention_heads": 1,
                "blocks_per_stage": [1, 1, 1, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_size_per_stage": [2, 2, 2, 2],
                "global_attention_blocks": [],
                "window_positional_embedding_background_size": [2, 2],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        prompt_encoder_config={"image_size": 64},
    )


class Stack(nn.Module):
    """Encoder, projector, language model and segmentation model, as such stacks are put together."""

    def __init__(self, workload: StackWorkload) -> None:
        super().__init__()
        config, dim = workload.student, workload.student.hidden_size
        with no_init_weights():
            self.encoder = CLIPVisionModel(workload.encoder)
            self.language = Qwen2ForCausalLM(
                Qwen2Config(
                    vocab_size=config.vocab_size,
                    hidden_size=dim,
                    intermediate_size=config.intermediate_size,
                    num_hidden_layers=config.num_layers,
                    num_attention_heads=config.num_attention_heads,
                    num_key_value_heads=config.num_key_value_heads,
                    max_position_embeddings=32_768,
                    rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
                    tie_word_embeddings=True,
                )
            )
            self.language.tie_weights()
            self.segmenter = Sam2Model(workload.segmenter)
        prompt_dim = self.segmenter.prompt_encoder.no_mask_embed.embedding_dim
        self.projector = nn.Sequential(nn.Linear(workload.encoder.hidden_size, dim), nn.GELU(), nn.Linear(dim, dim))
        self.seg_query = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, prompt_dim))
        for module in self.children():
            fill(module)

    def forward(self, small: Tensor, large: Tensor, text: Tensor, seg_slot: int) -> tuple[Tensor, Tensor]:
        """Logits of the next token, and the mask logits of `[SEG]`.

        Args:
            small: picture at the encoder's size (1, 3, h, w).
            large: picture at the segmentation model's size.
            text: token ids behind the picture (1, tokens).
            seg_slot: index of `[SEG]` in the row.
        """
        patches = self.projector(self.encoder(small).last_hidden_state[:, 1:])
        embedded = torch.cat([patches, self.language.get_input_embeddings()(text)], dim=1)
        hidden = self.language.model(inputs_embeds=embedded, use_cache=True).last_hidden_state
        return self.language.lm_head(hidden[:, -1]), self._mask(large, self.seg_query(hidden[:, seg_slot]))

    def _mask(self, picture: Tensor, query: Tensor) -> Tensor:
        segmenter = self.segmenter
        *fine, coarse = segmenter.get_image_embeddings(picture)
        dense = segmenter.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand_as(coarse)
        masks, *_ = segmenter.mask_decoder(
            image_embeddings=coarse,
            image_positional_embeddings=segmenter.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=query[:, None, None],
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=fine,
        )
        return masks[0, 0, 0]

    def part_parameters(self) -> dict[str, Json]:
        """Numbers of each part."""
        return {name: count_parameters(module) for name, module in self.named_children()}


def count_parameters(module: nn.Module) -> int:
    """Numbers that a model holds, tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def student_answers(student: PixelSail, inputs: StudentInputs, seg_slot: int) -> tuple[Tensor, Tensor]:
    """Logits of the next token, and the mask logits of `[SEG]`."""
    hidden = student(inputs, DynamicCache())
    logits = student.logits(hidden[:, -1])
    ((_, maps),) = student.patch_maps(hidden, inputs).values()
    query = student.seg_query(hidden[0, seg_slot])
    return logits, torch.einsum("q,hwq->hw", query, student.mask_features(maps)[0])


def _work(side: Side, workload: StackWorkload) -> tuple[nn.Module, Callable[[], tuple[Tensor, Tensor]]]:
    """A side's model, and the work that is measured."""
    inputs = workload.inputs()
    if side == "student":
        student = filled_student(workload.student).eval()
        return student, partial(student_answers, student, inputs, workload.seg_slot())
    stack = Stack(workload).eval()
    generator = torch.Generator().manual_seed(_SEED)
    small, large = (
        torch.randn(1, 3, size, size, generator=generator) for size in (workload.encoder_px, workload.segmenter_px)
    )
    text = inputs.input_ids[:, -workload.num_text_tokens :]
    run = torch.no_grad()(partial(stack, small, large, text, workload.seg_slot()))
    return stack, run


def student_vs_stack(options: Options) -> Figures:
    """Latency of prefill and first mask; parameters; memory with the weights."""
    workload = StackWorkload.of(tiny=options.tiny)
    repeats = options.times(3)
    sides: dict[Side, Callable[[], tuple[Tensor, Tensor]]] = {}
    parameters: dict[Side, int] = {}
    parts: dict[str, Json] = {}
    for side in _SIDES:
        model, sides[side] = _work(side, workload)
        parameters[side] = count_parameters(model)
        parts = model.part_parameters() if isinstance(model, Stack) else parts
        del model
    outputs: dict[str, Json] = {}
    tflop: dict[str, Json] = {}
    with fixed_threads(options.num_threads):
        for side, work in sides.items():  # counting runs the work once: a warm-up
            found: list[Tensor] = []
            tflop[side] = tera(counted_flops(lambda work=work, found=found: found.extend(work())))
            assert all(bool(part.isfinite().all()) for part in found)
            outputs[side] = {"logits": list(found[0].shape), "mask": list(found[1].shape)}
        seconds = alternate({str(side): work for side, work in sides.items()}, repeats, 0)
    sides.clear()
    gc.collect()
    peaks: dict[str, dict[str, float]] = {}
    for side in _SIDES:
        peaks[side] = in_fresh_process(peak_mib_of, side, tiny=options.tiny, num_threads=options.num_threads)
        logger.info("%s: %s MiB", side, peaks[side])
    over = ("student", "stack")
    latency, latency_ratio = compared_times(seconds, "s", over)
    peak, peak_ratio = compared({side: [found["peak"]] for side, found in peaks.items()}, "MiB", over)
    above = compared({side: [found["peak_above_weights"]] for side, found in peaks.items()}, "MiB", over)
    return {
        "workload": {
            "seed": _SEED,
            "student": shape_of(workload.student),
            "picture_px": [side * workload.student.patch_size_px for side in workload.grid],
            "student_tokens": workload.grid[0] * workload.grid[1] + 2 + workload.num_text_tokens,
            "stack": workload.stack,
            "stack_tokens": (workload.encoder_px // 14) ** 2 + workload.num_text_tokens,
            "text_tokens": workload.num_text_tokens,
            "precision": "float32",
            "from": "normalised pixels to the next token's logits and one mask's logits",
            "tflop": tflop,
            "outputs": outputs,
        },
        "machine": machine(options, repeats),
        "parameters": {
            **parameters,
            "stack_parts": parts,
            "ratio": {"of": "student / stack", "value": round(parameters["student"] / parameters["stack"], 4)},
        },
        "latency": {**latency, "ratio": judged(latency_ratio, at_most=1.0)},
        "peak_memory": {
            "method": f"{PeakMemory.method}, in a fresh process a side, weights included",
            **peak,
            "ratio": peak_ratio,
            "above_weights": {**above[0], "ratio": above[1]},
        },
    }


_SIDES: tuple[Side, Side] = ("student", "stack")


def peak_mib_of(side: Side, *, tiny: bool, num_threads: int) -> dict[str, float]:
    """Peak of resident memory of a side, with its weights and above them."""
    torch.set_num_threads(num_threads)
    workload = StackWorkload.of(tiny=tiny)
    before = resident_bytes()
    _, work = _work(side, workload)
    with PeakMemory() as memory:
        work()
    weights = memory.start_bytes - before
    return {"peak": (memory.peak_bytes + weights) / 2**20, "peak_above_weights": memory.peak_bytes / 2**20}
