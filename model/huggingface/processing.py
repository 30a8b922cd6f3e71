"""The student's processor as transformers knows processors: chats and pictures in, tensors out."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import BatchFeature, ProcessorMixin, TokenizersBackend
from transformers.image_utils import load_image

from model.checkpoint import CHAT_TEMPLATE
from model.config import StudentConfig
from model.packing import collate
from model.pictures import as_rgb
from model.processor import EncodedRow, Picture, Processor, Text
from model.regions import region_mask
from model.student import StudentInputs
from model.tokenizer import END_OF_TEXT, SEG, TURN_END, TURN_START, StudentTokenizer, name_prompts
from model.visual_prompt import largest_first
from storage.pictures import open_picture

__all__ = ["PixelSailProcessor", "masks_at", "model_inputs"]

_START, _TURN_END, _END = re.escape(TURN_START), re.escape(TURN_END), re.escape(END_OF_TEXT)
_PLAIN = rf"(?:(?!{_START}|<vision>).)"
_PARTS = re.compile(
    r"(?P<image><vision>(?:<vpatch>)+</vision>)"
    rf"|(?P<question>(?:{_START})?{_PLAIN}*?{_TURN_END}\n)"
    rf"|(?P<answer>{_PLAIN}+?{_END})"
    rf"|(?P<rest>{_START}{_PLAIN}*|{_PLAIN}+|<vision>)",
    re.DOTALL,
)
_VISION = re.compile(r"</?vision>|<vpatch>")
_SPECIAL = re.compile(r"<Prompt\d+>|<region\d+>|</?vision>|<vpatch>|<NO_Prompt>|\[SEG\d+\]")


def model_inputs(rows: Sequence[EncodedRow], tokenizer: StudentTokenizer) -> dict[str, Tensor]:
    """Rows, padded on the left, by the names of the model's arguments."""
    inputs, labels = collate(rows, tokenizer.end_of_text, pad_left=True)
    named = {"input_ids": inputs.input_ids, "attention_mask": (inputs.document >= 0).long(), "labels": labels}
    if inputs.grids:
        named |= {
            "pixel_values": inputs.patches,
            "image_grids": torch.tensor(inputs.grids),
            "visual_prompt_ids": inputs.patch_prompt_ids,
        }
    if len(inputs.pooled_slots):
        named |= {"pooled_tokens": _ordinals(inputs, tokenizer.pooled_region), "pooled_patches": inputs.pooled_patches}
    return named


def _ordinals(inputs: StudentInputs, pooled_region: int) -> Tensor:
    """Numbers of the tokens for pooled regions, counted through the batch, of each pair."""
    slots = (inputs.input_ids.flatten() == pooled_region).nonzero()[:, 0]
    return torch.searchsorted(slots, inputs.pooled_slots)


class PixelSailProcessor(ProcessorMixin):
    """Makes the student's inputs and reads its outputs.

    Args:
        tokenizer: with the student's special tokens.
        patch_size_px: side of a patch.
        max_side_px: upper bound of the resized image's long side.
        visual_prompt: how regions are shown, see `StudentConfig.visual_prompt`.
        chat_template: turns messages into text; the student's own by default.

    Raises:
        ValueError: a tokenizer that lacks the student's special tokens.
    """

    tokenizer: TokenizersBackend

    def __init__(
        self,
        tokenizer: TokenizersBackend,
        patch_size_px: int = 16,
        max_side_px: int = 1024,
        visual_prompt: Literal["injected", "pooled"] = "injected",
        chat_template: str | None = None,
    ) -> None:
        self.patch_size_px, self.max_side_px, self.visual_prompt = patch_size_px, max_side_px, visual_prompt
        known = tokenizer.get_vocab()
        num_prompts = 0
        while f"<Prompt{num_prompts}>" in known:
            num_prompts += 1
        StudentTokenizer.check(known)
        super().__init__(tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        # Of the student's configuration only what decides its inputs; the rest stays at its defaults.
        config = StudentConfig(
            patch_size_px=patch_size_px,
            mask_stride_px=patch_size_px,
            max_side_px=max_side_px,
            visual_prompt=visual_prompt,
            num_visual_prompts=num_prompts,
        )
        self._rows = Processor(config, StudentTokenizer(tokenizer.backend_tokenizer, num_prompts))

    @classmethod
    def of(cls, config: StudentConfig, tokenizer: StudentTokenizer) -> PixelSailProcessor:
        """The processor of a student."""
        wrapped = TokenizersBackend(
            tokenizer_object=tokenizer.backend,
            eos_token=END_OF_TEXT,
            pad_token=END_OF_TEXT,
            padding_side="left",
            clean_up_tokenization_spaces=False,
        )
        return cls(wrapped, config.patch_size_px, config.max_side_px, config.visual_prompt)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] (no videos, no audio)
        self,
        images: object = None,
        text: str | Sequence[str] | None = None,
        visual_prompts: Sequence[object] | None = None,
        *,
        max_length: int | None = None,
        truncation: bool = False,
        return_labels: bool = False,
        return_tensors: str | None = "pt",
        **others: Any,
    ) -> BatchFeature:
        """Makes a batch, padded on the left.

        Args:
            images: one picture (PIL, NumPy, torch, or a file) for one text, or for each text a picture, a
                sequence of pictures in their order, or None. See `model.pictures.as_rgb`. URLs and base64 are
                read by transformers, which also turns pictures upright by their EXIF tag; nothing else does.
            text: what `apply_chat_template` gives, with `<vision><vpatch></vision>` where a picture stands.
            visual_prompts: for one text its regions, or for each text its regions; see
                `model.regions.region_mask`. A region given as a mapping may name its picture by
                `"image": 1`; otherwise it is the first. `<region1>` (or `<Prompt0>`) in the text is the first of them.
            max_length: upper bound of tokens per row.
            truncation: whether a row that is too long loses text at its end; what would cut a
                picture or a `[SEG]` is refused even so.
            return_labels: whether `labels` are wanted: answers, ended by `<|endoftext|>`, carry them.
            return_tensors: `"pt"`; nothing else.
            **others: options of other processors (`padding`, ...) that mean nothing here are accepted if
                they ask for what is done anyway.

        Returns:
            `input_ids`, `attention_mask`, with pictures `pixel_values`, `image_grids` and
            `visual_prompt_ids`, with pooled regions `pooled_tokens` and `pooled_patches`.

        Raises:
            ValueError: what the student can't be shown; the message names expected and actual.
            TypeError: a picture or region of another type.
        """
        self._check_options(return_tensors, others)
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length: expected at least 1, got {max_length}")
        rows: list[EncodedRow] = []
        for number, parts in enumerate(zip(*self._per_text(images, text, visual_prompts), strict=True)):
            try:
                rows.append(_cut(self.encode(*parts), max_length, truncation, self._rows.tokenizer))
            except ValueError as error:
                raise ValueError(f"text {number}: {error}") from error
            except TypeError as error:
                raise TypeError(f"text {number}: {error}") from error
        named = model_inputs(rows, self._rows.tokenizer)
        if not return_labels:
            del named["labels"]
        return BatchFeature(named)

    @property
    def model_input_names(self) -> list[str]:
        """Names of what a call returns."""
        visual = ["pixel_values", "image_grids", "visual_prompt_ids", "pooled_tokens", "pooled_patches"]
        return ["input_ids", "attention_mask", *visual]

    def post_process_masks(
        self,
        masks: Sequence[Float[Tensor, "_masks _h _w"]],
        sizes_px: Sequence[tuple[int, int]],
    ) -> list[tuple[NDArray[np.bool_], list[float]]]:
        """Mask logits as masks of the pictures' sizes.

        Args:
            masks: `generate`'s `masks`.
            sizes_px: (height, width) of the picture that each row asks about.

        Returns:
            For each row bool (masks, height, width), and for each mask its mean certainty in [0, 1].

        Raises:
            ValueError: another number of sizes than of rows.
        """
        if len(sizes_px) != len(masks):
            raise ValueError(f"sizes_px: expected {len(masks)}, one per row of masks, got {len(sizes_px)}")
        return [masks_at(logits, size) for logits, size in zip(masks, sizes_px, strict=True)]

    def _check_options(self, return_tensors: str | None, others: Mapping[str, object]) -> None:
        if return_tensors not in (None, "pt"):
            raise ValueError(f"return_tensors: expected 'pt', got {return_tensors!r}")
        done_anyway = {
            "padding": (True, "longest"),
            "padding_side": ("left",),
            "add_special_tokens": (True, False),
            "return_attention_mask": (True,),
        }
        for name, value in others.items():
            if value is not None and value not in done_anyway.get(name, ()):
                known = ", ".join(f"{key}={values[0]!r}" for key, values in done_anyway.items())
                raise ValueError(f"{name}: expected none of {name}={value!r}; this processor always does {known}")

    def _per_text(
        self, images: object, text: str | Sequence[str] | None, visual_prompts: Sequence[object] | None
    ) -> tuple[list[str], list[list[object]], list[Sequence[object]]]:
        """Text, pictures and regions of each row."""
        if text is None or isinstance(text, str):
            if not text:
                raise ValueError(f"text: expected a question, got {text!r}; apply_chat_template makes one of messages")
            of_text = _listed(images)
            if len(of_text) == 1:
                of_text = _listed(of_text[0])
            return [text], [of_text], [() if visual_prompts is None else visual_prompts]
        texts = list(text)
        if not texts or not all(isinstance(item, str) and item for item in texts):
            raise ValueError(f"text: expected texts that aren't empty, got {texts!r}")
        if images is not None and not isinstance(images, list | tuple):
            raise ValueError(f"images: expected a list of {len(texts)}, one entry per text, got one picture")
        per_text = [None] * len(texts) if images is None else list(cast("Sequence[object]", images))
        regions = [()] * len(texts) if visual_prompts is None else _single(visual_prompts)
        for name, items in (("images", per_text), ("visual_prompts", regions)):
            if len(items) != len(texts):
                raise ValueError(f"{name}: expected {len(texts)} entries, one per text, got {len(items)}")
        pictures = [_listed(entry) for entry in per_text]
        return texts, pictures, cast("list[Sequence[object]]", [() if entry is None else entry for entry in regions])

    def encode(self, text: str, images: Sequence[object] = (), visual_prompts: Sequence[object] = ()) -> EncodedRow:
        """Makes one row; arguments and errors as of a call with one text."""
        pictures = [_picture(image, place) for place, image in enumerate(images, 1)]
        regions = _single(visual_prompts)
        known = len(self._rows.tokenizer.visual_prompts)
        if len(regions) > known:
            raise ValueError(
                f"visual prompts: expected at most {known}, as many as the student has tokens, got {len(regions)}"
            )
        prompts = [_painted(region, pictures, place) for place, region in enumerate(regions, 1)]
        text = name_prompts(text, list(range(len(regions))))
        self._check_tokens(text)
        # Someone may have used the tokenizer by itself, and left it cutting or padding.
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.backend_tokenizer.no_padding()
        parts: list[Picture | Text] = []
        shown = 0
        for match in _PARTS.finditer(text):
            if match.lastgroup == "image":
                if shown < len(pictures):
                    own = [(place, mask) for place, (image, mask) in enumerate(prompts) if image == shown]
                    parts.append(Picture(pictures[shown], largest_first(own)))
                shown += 1
                continue
            if loose := _VISION.search(match[0]):
                raise ValueError(f"expected a picture as <vision><vpatch></vision> in the text, got {loose[0]} alone")
            parts.append(Text(match[0], is_answer=match.lastgroup == "answer"))
        if shown != len(pictures):
            raise ValueError(
                f"images: expected {shown}, one per <vision><vpatch></vision> in the text, got {len(pictures)}; "
                "apply_chat_template puts one for each {'type': 'image'}"
            )
        return self._rows.encode_parts(parts)

    def _check_tokens(self, text: str) -> None:
        vocabulary = self.tokenizer.get_vocab()
        for token in _SPECIAL.findall(text):
            if token not in vocabulary:
                known = len(self._rows.tokenizer.visual_prompts)
                prompts = f"<Prompt0> to <Prompt{known - 1}>, " if known else ""
                raise ValueError(f"expected special tokens that the student has ({prompts}{SEG}), got {token}")


def _picture(image: object, place: int) -> NDArray[np.uint8]:
    """A picture in any form as RGB."""
    try:
        if isinstance(image, os.PathLike) or (isinstance(image, str) and os.path.isfile(image)):
            with open_picture(image) as opened:
                return as_rgb(opened)
        return as_rgb(load_image(image) if isinstance(image, str) else image)
    except ValueError as error:
        raise ValueError(f"picture {place}: {error}") from error
    except TypeError as error:
        raise TypeError(f"picture {place}: {error}") from error


def _listed(images: object) -> list[object]:
    """Pictures of one text as a list."""
    if images is None:
        return []
    return list(cast("Sequence[object]", images)) if isinstance(images, list | tuple) else [images]


def _single(regions: object) -> list[object]:
    """Regions of one text as a list."""
    if regions is None:
        return []
    if not isinstance(regions, Sequence) or isinstance(regions, str | bytes):
        raise TypeError(
            f"visual prompts: expected a list of regions, got one {type(regions).__name__}; put it in a list"
        )
    return list(cast("Sequence[object]", regions))


def _painted(region: object, images: Sequence[NDArray[np.uint8]], place: int) -> tuple[int, NDArray[np.bool_]]:
    """Number of the picture that a region lies in, and its mask."""
    image: object = 0
    if isinstance(region, Mapping) and "image" in region:
        image = region["image"]
        region = {key: value for key, value in region.items() if key != "image"}
    if not isinstance(image, Integral) or isinstance(image, bool) or not 0 <= int(image) < len(images):
        raise ValueError(f"visual prompt {place}: expected one of {len(images)} pictures, got number {image!r}")
    height, width = images[int(image)].shape[:2]
    try:
        return int(image), region_mask(region, height, width)
    except ValueError as error:
        raise ValueError(f"visual prompt {place}: {error}") from error
    except TypeError as error:
        raise TypeError(f"visual prompt {place}: {error}") from error


def _cut(row: EncodedRow, max_length: int | None, truncation: bool, tokenizer: StudentTokenizer) -> EncodedRow:
    """The row, shortened at its end if that is allowed."""
    length = len(row.input_ids)
    if max_length is None or length <= max_length:
        return row
    if not truncation:
        raise ValueError(
            f"expected at most {max_length} tokens, got {length} ({len(row.patches)} of them patches); "
            "raise max_length, show smaller pictures, or allow truncation=True"
        )
    in_picture = int((row.prefix[max_length:] >= 0).sum())
    num_seg = int((row.input_ids[max_length:] == tokenizer.seg).sum())
    if in_picture or num_seg:
        raise ValueError(
            f"cutting {length} tokens to {max_length} would lose {in_picture} tokens of pictures and {num_seg} {SEG}; "
            f"raise max_length to {length} or ask less at once"
        )
    return row.shortened(max_length)


def masks_at(
    logits: Float[Tensor, "masks h w"], size_px: tuple[int, int]
) -> tuple[Bool[np.ndarray, "masks height width"], list[float]]:
    """Mask logits of one row as masks of its picture, and for each its mean certainty in [0, 1]."""
    if not len(logits):
        return np.zeros((0, *size_px), np.bool_), []
    resized = functional.interpolate(logits[:, None].float(), size=size_px, mode="bilinear", align_corners=False)[:, 0]
    masks = resized > 0
    certainty = torch.where(masks, resized.sigmoid(), 0).sum((1, 2)) / masks.sum((1, 2)).clamp_min(1)
    return masks.cpu().numpy(), certainty.tolist()
