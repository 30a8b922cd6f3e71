"""The student as a model of transformers: loads, saves, generates and trains like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.generation.utils import GenerateOutput
from transformers.utils.generic import ModelOutput

from model.answers import answered_masks, extended
from model.attention import DenseMask
from model.huggingface.configuration import PixelSailConfig
from model.huggingface.inputs import VisualInputs, student_inputs
from model.objective import LossWeights, draw_points, losses_of, training_batch
from model.student import PixelSail, StudentInputs
from model.tokenizer import StudentTokenizer

__all__ = ["PixelSailForConditionalGeneration", "PixelSailOutput"]

_VISUAL = ("pixel_values", "image_grids", "visual_prompt_ids", "pooled_tokens", "pooled_patches")
_MASK_POINTS = 12_544


@dataclass
class PixelSailOutput(ModelOutput):
    """What one pass gives."""

    loss: Float[Tensor, ""] | None = None
    """With `labels`: the published objective without teachers."""
    loss_terms: dict[str, Float[Tensor, ""]] | None = None
    """Each term of the loss, unweighted."""
    logits: Float[Tensor, "batch tokens vocab"] | None = None
    """Next-token logits; None where only a loss is asked for in training mode."""
    past_key_values: Cache | None = None
    last_hidden_state: Float[Tensor, "batch tokens dim"] | None = None
    """Behind the final norm."""


class AnswerCache(DynamicCache):
    """Keys and values of every layer and, as one layer more, the last hidden states, which masks are made of.

    As a layer of the cache they follow the rows wherever beam search moves them.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self._num_layers = num_layers

    def keep(self, hidden: Float[Tensor, "batch tokens dim"]) -> None:
        """Adds the last hidden states of new tokens."""
        self.update(hidden[:, None], hidden[:, None, :, :0], self._num_layers)

    @property
    def hidden(self) -> Float[Tensor, "batch tokens dim"]:
        """Last hidden states of all tokens seen."""
        keys = cast("DynamicLayer", self.layers[self._num_layers]).keys
        assert keys is not None
        return keys[:, 0]


class PixelSailForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A Pixel-SAIL student: text and pictures in, text and masks out.

    `model` is the student itself (`model.student.PixelSail`), so that names of weights are those of
    Qwen2 behind `model.`. Inputs come from `PixelSailProcessor`.
    """

    config_class = PixelSailConfig
    config: PixelSailConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities: ClassVar[list[str]] = ["image", "text"]  # pyright: ignore[reportIncompatibleVariableOverride]
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["DecoderLayer"]  # pyright: ignore[reportIncompatibleVariableOverride]
    _supports_sdpa = True
    _supports_flex_attn = True

    def __init__(self, config: PixelSailConfig) -> None:
        super().__init__(config)
        self.model = PixelSail(config.student)
        self.loss_weights = LossWeights()
        self.generation_config = generation_config(config)
        self.post_init()

    @classmethod
    def of(cls, student: PixelSail, tokenizer: StudentTokenizer) -> PixelSailForConditionalGeneration:
        """Wraps a student without copying it."""
        with torch.device("meta"):
            wrapped = cls(PixelSailConfig.of(student.config, tokenizer))
        wrapped.model = student
        return wrapped

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the token embeddings."""
        self.model.embed_tokens = cast("nn.Embedding", value)

    def get_output_embeddings(self) -> nn.Module | None:
        """The output embedding, where it isn't the input embedding itself."""
        return self.model.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replaces the output embedding."""
        if self.model.lm_head is not None:
            self.model.lm_head = cast("nn.Linear", new_embeddings)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        names = {part: name for name, part in self.model.named_modules()}
        name = names.get(module)
        if name is None or any(parameter.is_meta for parameter in module.parameters(recurse=False)):
            return
        if isinstance(module, nn.RMSNorm | nn.LayerNorm):
            module.reset_parameters()
        self.model.draw_module(name, module)
        if name == "vp_embed":
            self.model.draw_prompt_embedding()

    def student_inputs(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
        **visual: Tensor | None,
    ) -> StudentInputs:
        """The batch as the student itself takes it, see `model.student.StudentInputs`."""
        return student_inputs(
            self.config, input_ids, attention_mask, VisualInputs.of(self.config, visual, input_ids.device)
        )

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch keys"] | None = None,
        position_ids: Int[Tensor, "3 batch tokens"] | None = None,
        past_key_values: Cache | None = None,
        pixel_values: Float[Tensor, "patches pixels"] | None = None,
        image_grids: Int[Tensor, "images 2"] | None = None,
        visual_prompt_ids: Int[Tensor, " patches"] | None = None,
        pooled_tokens: Int[Tensor, " pairs"] | None = None,
        pooled_patches: Int[Tensor, " pairs"] | None = None,
        labels: Int[Tensor, "batch tokens"] | None = None,
        mask_labels: Sequence[Tensor] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> PixelSailOutput:
        """One pass.

        Args:
            input_ids: rows as the processor makes them.
            attention_mask: 1 for tokens, 0 for padding; with a filled cache, of all tokens so far.
            position_ids: positions on the axes (t, h, w); needed with a filled cache alone.
            past_key_values: earlier tokens; what follows them is text.
            pixel_values: patches of all images.
            image_grids: rows and columns of patches of each image.
            visual_prompt_ids: token id of the visual prompt on each patch, -1 for none.
            pooled_tokens: see `model.huggingface.inputs.VisualInputs`.
            pooled_patches: see there.
            labels: tokens to learn, -100 for those without loss.
            mask_labels: for each image, target masks (masks, height, width), one per labelled `[SEG]`.
            use_cache: whether a cache is made where none is given.
            logits_to_keep: last tokens to compute logits of; 0: all.

        Raises:
            ValueError: inputs that don't fit each other.
        """
        visual = VisualInputs.of(
            self.config,
            {
                "pixel_values": pixel_values,
                "image_grids": image_grids,
                "visual_prompt_ids": visual_prompt_ids,
                "pooled_tokens": pooled_tokens,
                "pooled_patches": pooled_patches,
            },
            input_ids.device,
        )
        if past_key_values is not None and past_key_values.get_seq_length():
            if labels is not None:
                raise ValueError("labels: expected no filled cache beside them")
            return self._continue(input_ids, attention_mask, position_ids, past_key_values, logits_to_keep)
        if past_key_values is None and use_cache and labels is None:
            past_key_values = AnswerCache(self.config.num_layers)
        inputs = student_inputs(self.config, input_ids, attention_mask, visual)
        if position_ids is not None:
            inputs = _with_positions(inputs, position_ids)
        hidden = self.model(inputs, past_key_values)
        if isinstance(past_key_values, AnswerCache):
            past_key_values.keep(hidden)
        output = PixelSailOutput(past_key_values=past_key_values, last_hidden_state=hidden)
        if labels is not None:
            self._add_losses(output, inputs, labels, mask_labels, hidden)
        if labels is None or not self.training:
            output.logits = self.model.logits(hidden[:, -logits_to_keep:] if logits_to_keep else hidden)
        return output

    def _continue(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache,
        logits_to_keep: int,
    ) -> PixelSailOutput:
        """Text behind what the cache holds."""
        if position_ids is None:
            raise ValueError(
                "position_ids: expected those of the new tokens beside a filled cache (after an image they don't "
                "follow from lengths), got none"
            )
        if bool((input_ids == self.config.vision_start_token_id).any()):
            raise ValueError("input_ids: expected text behind a filled cache, got an image; start anew with all of it")
        num_new, num_past = input_ids.shape[1], cache.get_seq_length()
        num_keys = num_past + num_new
        mask = torch.ones(num_new, num_keys, dtype=torch.bool, device=input_ids.device).tril(num_past)[None, None]
        if attention_mask is not None:
            if attention_mask.shape[1] != num_keys:
                raise ValueError(
                    f"attention_mask: expected {num_keys} tokens, {num_past} of them in the cache, "
                    f"got {attention_mask.shape[1]}"
                )
            mask = mask & attention_mask.bool()[:, None, None]
        embedded = self.model.embed_tokens(input_ids)
        hidden = self.model.decode(embedded, position_ids, DenseMask(mask.expand(len(input_ids), -1, -1, -1)), cache)
        if isinstance(cache, AnswerCache):
            cache.keep(hidden)
        logits = self.model.logits(hidden[:, -logits_to_keep:] if logits_to_keep else hidden)
        return PixelSailOutput(logits=logits, past_key_values=cache, last_hidden_state=hidden)

    def _add_losses(
        self,
        output: PixelSailOutput,
        inputs: StudentInputs,
        labels: Tensor,
        mask_labels: Sequence[Tensor] | None,
        hidden: Tensor,
    ) -> None:
        seg_id = self.config.seg_token_id
        if mask_labels is None:
            mask_labels, seg_id = [torch.zeros(0, 1, 1)] * len(inputs.grids), None
        targets = training_batch(inputs.to("cpu"), labels.cpu(), mask_labels, {}, -1 if seg_id is None else seg_id)
        batch = targets.to(hidden.device)
        generator = torch.Generator(hidden.device).manual_seed(int(torch.randint(2**62, ())))
        losses = losses_of(self.model, hidden, batch, self.loss_weights, draw_points(batch, _MASK_POINTS, generator))
        output.loss, output.loss_terms = losses.total, dict(losses.terms)

    @torch.no_grad()
    def generate(  # pyright: ignore[reportIncompatibleMethodOverride] (the rest goes on by name)
        self, inputs: Tensor | None = None, **kwargs: Any
    ) -> Int[Tensor, "rows tokens"] | GenerateOutput:
        """Continues rows, with every option of transformers' `generate` (sampling, beams, streamers ...).

        Args:
            inputs: `input_ids`, which can also be given by that name; padded on the left.
            **kwargs: the processor's other outputs and options of generation.

        Returns:
            Token ids (rows, prompt and new tokens). With `return_dict_in_generate=True` an output that also
            has `masks`: for each row the logits (masks, h, w) at the mask grid, one map per generated
            `[SEG]`, on the image shown last before it; none for text alone. See
            `PixelSailProcessor.post_process_masks`.

        Raises:
            ValueError: inputs that don't fit each other.
        """
        input_ids = kwargs.pop("input_ids", inputs)
        if not isinstance(input_ids, Tensor) or input_ids.ndim != 2 or not input_ids.shape[1]:
            got = tuple(input_ids.shape) if isinstance(input_ids, Tensor) else type(input_ids).__name__
            raise ValueError(f"input_ids: expected a tensor (rows, tokens) of at least one token, got {got}")
        visual = VisualInputs.of(self.config, {name: kwargs.pop(name, None) for name in _VISUAL}, input_ids.device)
        if kwargs.get("position_ids") is None:
            kwargs["position_ids"] = student_inputs(
                self.config, input_ids, kwargs.get("attention_mask"), visual
            ).positions
        wants_cache = kwargs.get("use_cache") is not False and kwargs.get("cache_implementation") is None
        if wants_cache and kwargs.get("past_key_values") is None and kwargs.get("generation_config") is None:
            kwargs["past_key_values"] = AnswerCache(self.config.num_layers)
        output = super().generate(input_ids=input_ids, **visual.as_arguments(), **kwargs)  # pyright: ignore
        if not isinstance(output, Tensor):
            attention_mask = kwargs.get("attention_mask")
            output["masks"] = self._masks(cast("GenerateOutput", output), input_ids, attention_mask, visual)
        return cast("Tensor | GenerateOutput", output)

    def _masks(
        self, output: GenerateOutput, input_ids: Tensor, attention_mask: Tensor | None, visual: VisualInputs
    ) -> tuple[Tensor, ...]:
        """Mask logits of each row of an output."""
        sequences = cast("Tensor", output.sequences)
        times = len(sequences) // len(input_ids)
        if times > 1:
            visual = visual.repeated(*self._per_row(input_ids), times)
            input_ids = input_ids.repeat_interleave(times, 0)
            attention_mask = None if attention_mask is None else attention_mask.repeat_interleave(times, 0)
        prompt = student_inputs(self.config, input_ids, attention_mask, visual)
        is_seg = sequences == self.config.seg_token_id
        is_seg[:, : input_ids.shape[1]] = False
        cache = output.past_key_values
        hidden = cache.hidden if isinstance(cache, AnswerCache) else None
        if hidden is None or len(hidden) != len(sequences) or bool(is_seg[:, hidden.shape[1] :].any()):
            # Beams end elsewhere than where they ran, and the last token was never fed back: once more, as a whole.
            hidden = self.model(extended(prompt, sequences))
        return answered_masks(self.model, prompt, hidden, is_seg)

    def _per_row(self, input_ids: Tensor) -> tuple[list[int], list[int]]:
        """Images and tokens for pooled regions of each row."""
        images = (input_ids == self.config.vision_start_token_id).sum(1)
        return images.tolist(), (input_ids == self.config.pooled_region_token_id).sum(1).tolist()

    def _expand_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Repeats rows with their images; along the first axis images would be torn apart."""
        given = {name: model_kwargs.pop(name) for name in _VISUAL if name in model_kwargs}
        expanded, others = super()._expand_inputs_for_generation(  # pyright: ignore
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        if expand_size > 1 and given and input_ids is not None:
            visual = VisualInputs.of(self.config, given, input_ids.device)
            given = visual.repeated(*self._per_row(input_ids), expand_size).as_arguments()
        return cast("tuple[Tensor, dict[str, Any]]", (expanded, {**others, **given}))

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: Tensor, past_key_values: Cache | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Images go in once, with the prompt, and with every pass where nothing is cached."""
        if past_key_values is not None and past_key_values.get_seq_length():
            for name in _VISUAL:
                kwargs.pop(name, None)
        return super().prepare_inputs_for_generation(input_ids, past_key_values=past_key_values, **kwargs)  # pyright: ignore


def generation_config(config: PixelSailConfig) -> GenerationConfig:
    """Where answers end, and that they hold no images."""
    never = [config.vision_start_token_id, config.image_token_id, config.vision_end_token_id]
    return GenerationConfig(
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        suppress_tokens=[token for token in (*never, config.pooled_region_token_id) if token is not None] or None,
    )


def _with_positions(inputs: StudentInputs, positions: Tensor) -> StudentInputs:
    if positions.shape != inputs.positions.shape:
        raise ValueError(f"position_ids: expected {tuple(inputs.positions.shape)}, got {tuple(positions.shape)}")
    return replace(inputs, positions=positions)
