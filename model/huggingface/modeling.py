"""The student as a model of transformers: loads, saves, generates and trains like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, StaticCache
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput, GenerateOutput
from transformers.utils.generic import ModelOutput

from model.answers import answered_masks, extended
from model.attention import Attention, DenseMask
from model.huggingface.configuration import PixelSailConfig
from model.huggingface.inputs import VisualInputs, is_token, student_inputs
from model.initial_heads import draw_initial_heads
from model.objective import LossTerms, LossWeights, draw_points, losses_of, training_batch
from model.processor import IGNORED
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
    logits: Float[Tensor, "batch kept vocab"] | None = None
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
    accepts_loss_kwargs = False  # the loss is a mean over conversations, whatever Trainer counts
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
        wrapped.training = student.training
        return wrapped

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride] (the rest goes on by place and name)
        cls, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """Loads a folder or repository, with every option of transformers' `from_pretrained`.

        Raises:
            ValueError: weights of other shapes than the configuration says; the message lists each.
        """
        if kwargs.get("ignore_mismatched_sizes"):
            return super().from_pretrained(*args, output_loading_info=output_loading_info, **kwargs)
        # Transformers' own error says that there are some, but not which.
        kwargs["ignore_mismatched_sizes"] = True
        model, info = cast("tuple[Any, Any]", super().from_pretrained(*args, output_loading_info=True, **kwargs))
        wrong = [
            f"{name}: expected {tuple(expected)}, got {tuple(found)}"
            for name, found, expected in sorted(info["mismatched_keys"])
        ]
        if wrong:
            raise ValueError(f"weights don't fit the configuration: {'; '.join(wrong)}")
        return (model, info) if output_loading_info else model

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

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Gives the vocabulary another size, in the student's configuration too."""
        resized = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        self.model.config = self.config.student
        return resized

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        own = dict(module.named_parameters(recurse=False))
        if any(parameter.is_meta for parameter in own.values()):
            return
        loaded = {name: parameter.clone() for name, parameter in own.items() if _is_loaded(parameter)}
        # Embeddings that are to replace the student's, as they get another size, have no name in it yet.
        name = {part: name for name, part in self.model.named_modules()}.get(module, "")
        if isinstance(module, nn.RMSNorm | nn.LayerNorm):
            module.reset_parameters()
        self.model.draw_module(name, module)
        if name == "vp_embed":
            self.model.draw_prompt_embedding()
        # Transformers counts modules, so that one without bias, say, is drawn as a whole.
        for part, values in loaded.items():
            own[part].copy_(values)
        if name.endswith(".k_proj"):
            # Queries come first; the layer itself, which has no weight of its own, is never asked for.
            attention = self.model.get_submodule(name.removesuffix(".k_proj"))
            if isinstance(attention, Attention) and not any(map(_is_loaded, attention.parameters())):
                generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
                draw_initial_heads(attention, self.model.config, self.model.vp_embed.weight, generator)

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
        **others: Any,
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
            labels: tokens to learn, -100 for those without loss; padding has none.
            mask_labels: for each image, target masks (masks, height, width), one per labelled `[SEG]`.
            use_cache: whether a cache is made where none is given.
            logits_to_keep: last tokens to compute logits of; 0: all.
            **others: what transformers hands to every model is accepted and not used.

        Raises:
            ValueError: inputs that don't fit each other, or outputs that are not given.
        """
        for name in ("output_attentions", "output_hidden_states"):
            if others.get(name):
                raise ValueError(f"{name}: expected none of it, got {others[name]}; there is last_hidden_state alone")
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
        _check_cache(past_key_values)
        if past_key_values is not None and past_key_values.get_seq_length():
            if labels is not None:
                raise ValueError("labels: expected no filled cache beside them")
            return self._continue(input_ids, attention_mask, position_ids, past_key_values, logits_to_keep)
        recomputes = self.model.gradient_checkpointing and self.training and torch.is_grad_enabled()
        if past_key_values is None and use_cache and labels is None and not recomputes:
            past_key_values = AnswerCache(self.config.num_layers)
        inputs = student_inputs(self.config, input_ids, attention_mask, visual)
        if position_ids is not None:
            inputs = _with_positions(inputs, position_ids)
        hidden = self.model(inputs, past_key_values)
        if isinstance(past_key_values, AnswerCache):
            past_key_values.keep(hidden)
        losses, logits = self._losses(inputs, labels, mask_labels, hidden), None
        if losses is None or not self.training:
            logits = self.model.logits(hidden[:, -logits_to_keep:] if logits_to_keep else hidden)
        return PixelSailOutput(
            loss=None if losses is None else losses.total,
            loss_terms=None if losses is None else dict(losses.terms),
            logits=logits,
            past_key_values=past_key_values,
            last_hidden_state=hidden,
        )

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
        if bool(is_token(input_ids, self.config.vision_start_token_id).any()):
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

    def _losses(
        self, inputs: StudentInputs, labels: Tensor | None, mask_labels: Sequence[Tensor] | None, hidden: Tensor
    ) -> LossTerms | None:
        if labels is None:
            if mask_labels is not None:
                raise ValueError("mask_labels: expected labels beside them, got none")
            return None
        if labels.shape != inputs.input_ids.shape:
            raise ValueError(
                f"labels: expected {tuple(inputs.input_ids.shape)} like input_ids, got {tuple(labels.shape)}"
            )
        seg_id = self.config.seg_token_id
        if mask_labels is None:
            mask_labels, seg_id = [torch.zeros(0, 1, 1)] * len(inputs.grids), None
        if len(mask_labels) != len(inputs.grids):
            raise ValueError(f"mask_labels: expected {len(inputs.grids)}, one entry per image, got {len(mask_labels)}")
        labels = labels.masked_fill(inputs.document < 0, IGNORED)
        targets = training_batch(inputs.to("cpu"), labels.cpu(), mask_labels, {}, -1 if seg_id is None else seg_id)
        batch = targets.to(hidden.device)
        generator = torch.Generator(hidden.device).manual_seed(int(torch.randint(2**62, ())))
        return losses_of(self.model, hidden, batch, self.loss_weights, draw_points(batch, _MASK_POINTS, generator))

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
        attention_mask = kwargs.get("attention_mask")
        if attention_mask is not None and not bool(attention_mask[:, -1].all()):
            raise ValueError(
                "attention_mask: expected padding on the left, so that answers follow the text, got it on the right"
            )
        visual = VisualInputs.of(self.config, {name: kwargs.pop(name, None) for name in _VISUAL}, input_ids.device)
        if kwargs.get("position_ids") is None:
            kwargs["position_ids"] = student_inputs(self.config, input_ids, attention_mask, visual).positions
        if kwargs.get("past_key_values") is None and self._grows_a_cache(kwargs):
            kwargs["past_key_values"] = AnswerCache(self.config.num_layers)
        output = super().generate(input_ids=input_ids, **visual.as_arguments(), **kwargs)  # pyright: ignore
        if not isinstance(output, Tensor):
            output["masks"] = self._masks(cast("GenerateOutput", output), input_ids, attention_mask, visual)
        return cast("Tensor | GenerateOutput", output)

    def _grows_a_cache(self, options: Mapping[str, Any]) -> bool:
        """Whether options of generation, by name, in a configuration or the model's own, leave the cache to us."""
        configurations = (options.get("generation_config"), self.generation_config)

        def setting(name: str) -> object:
            found = (options.get(name), *(getattr(known, name, None) for known in configurations))
            return next((value for value in found if value is not None), None)

        return setting("use_cache") is not False and setting("cache_implementation") is None

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
        is_seg = is_token(sequences, self.config.seg_token_id)
        is_seg[:, : input_ids.shape[1]] = False
        cache, by_beams = output.past_key_values, isinstance(output, GenerateBeamDecoderOnlyOutput)
        hidden = cache.hidden if isinstance(cache, AnswerCache) and not by_beams else None
        if hidden is None or bool(is_seg[:, hidden.shape[1] :].any()):
            # Beams end elsewhere than where they ran, and the last token was never fed back: once more, as a whole.
            hidden = self.model(extended(prompt, sequences).to(self.device))
        return answered_masks(self.model, prompt, hidden, is_seg)

    def _per_row(self, input_ids: Tensor) -> tuple[list[int], list[int]]:
        """Images and tokens for pooled regions of each row."""
        known = (self.config.vision_start_token_id, self.config.pooled_region_token_id)
        images, regions = (is_token(input_ids, token).sum(1).tolist() for token in known)
        return images, regions

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
        _check_cache(past_key_values)
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


def _is_loaded(parameter: nn.Parameter) -> bool:
    """Whether transformers has put a weight of a checkpoint here."""
    return bool(getattr(parameter, "_is_hf_initialized", False))


def _check_cache(cache: Cache | None) -> None:
    if isinstance(cache, StaticCache):
        raise ValueError(
            f"past_key_values: expected a cache that grows, as DynamicCache does, got {type(cache).__name__}; "
            "leave cache_implementation out"
        )


def _with_positions(inputs: StudentInputs, positions: Tensor) -> StudentInputs:
    if positions.shape != inputs.positions.shape:
        raise ValueError(f"position_ids: expected {tuple(inputs.positions.shape)}, got {tuple(positions.shape)}")
    return replace(inputs, positions=positions)
