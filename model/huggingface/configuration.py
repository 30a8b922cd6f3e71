"""The student's configuration as transformers knows configurations."""

from __future__ import annotations

from typing import Any, ClassVar, no_type_check

from pydantic import ValidationError
from transformers import PreTrainedConfig

from model.checkpoint import MODEL_TYPE, token_ids
from model.config import StudentConfig
from model.tokenizer import StudentTokenizer

__all__ = ["PixelSailConfig"]


@no_type_check  # run-time checkers take the generated `__init__` for all it accepts; transformers widens it
class PixelSailConfig(PreTrainedConfig):
    """Fields of `model.config.StudentConfig`, flat, and the ids of the special tokens.

    Unlike a recipe's `StudentConfig` it takes fields that it doesn't know, as every configuration of
    transformers does; a field of the student that is wrong is refused at once.

    Raises:
        ValueError: a value that the student can't have.
    """

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["loss_terms", "past_key_values", "last_hidden_state", "masks"]
    attribute_map: ClassVar[dict[str, str]] = {"num_hidden_layers": "num_layers"}

    vision_start_token_id: int | None = None
    image_token_id: int | None = None
    vision_end_token_id: int | None = None
    seg_token_id: int | None = None
    pooled_region_token_id: int | None = None
    visual_prompt_token_ids: list[int] | None = None
    eos_token_id: int | list[int] | None = None
    bos_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if "num_hidden_layers" in kwargs:
            hidden = kwargs.pop("num_hidden_layers")
            if kwargs.setdefault("num_layers", hidden) != hidden:
                raise ValueError(
                    f"num_hidden_layers: expected num_layers {kwargs['num_layers']}, its other name, got {hidden}"
                )
        given = {name: kwargs.pop(name) for name in StudentConfig.model_fields if name in kwargs}
        try:
            student = StudentConfig.model_validate(given)
        except ValidationError as error:
            raise ValueError(f"PixelSailConfig: {error}") from error
        super().__post_init__(**kwargs, **student.model_dump(mode="json"))

    @property
    def student(self) -> StudentConfig:
        """The part that the student is built from."""
        return StudentConfig.model_validate({name: getattr(self, name) for name in StudentConfig.model_fields})

    @classmethod
    def of(cls, student: StudentConfig, tokenizer: StudentTokenizer) -> PixelSailConfig:
        """The configuration of a student with its tokenizer."""
        ids: dict[str, Any] = {**token_ids(tokenizer)}
        return cls(**student.model_dump(mode="json"), **ids, architectures=["PixelSailForConditionalGeneration"])
