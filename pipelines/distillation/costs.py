"""What resources cost; for forecasts alone."""

from __future__ import annotations

from pydantic import Field

from storage.recipe import RecipeModel

__all__ = ["CostsConfig"]

_USD = Field(default=None, ge=0)


class CostsConfig(RecipeModel):
    """Prices and rates of a forecast. What has no price is left out of the sum, and the forecast says so."""

    usd_per_accelerator_hour: float | None = _USD
    """One accelerator for one hour, with the machine around it."""
    usd_per_cpu_hour: float | None = _USD
    """One logical CPU for one hour."""
    usd_per_tb_month: float | None = _USD
    """10^12 bytes stored for a month."""
    usd_per_million_puts: float | None = _USD
    """10^6 writing or listing requests."""
    usd_per_million_gets: float | None = _USD
    """10^6 reading requests."""
    seconds_per_image: dict[str, float] = Field(default_factory=dict)
    """By `kind` of teacher: what its forward pass takes per image, in seconds, where nothing is measured."""
    peak_tflops: float = Field(default=312.0, gt=0)
    """Dense bfloat16 peak of one accelerator in 10^12 operations per second: A100 312, H100 and H200 989."""
    mfu: float = Field(default=0.4, gt=0, le=1)
    """Share of the peak that training reaches, as assumed; a run's own figure stands in its progress."""
    characters_per_token: float = Field(default=4.0, gt=0)
    """Of text, in the tokenizer of a language model; one that was trained on a small corpus has more."""
    mixture_rows: tuple[float, ...] | None = None
    """Conversations of each part of the mixture before `repeats`, for a forecast before anything is curated: for
    single-turn samples the number of images, for conversations their own; null: unknown."""
    image_px: tuple[int, int] = (480, 640)
    """Height and width of a picture, where there is no corpus."""
    text_tokens_per_row: float = Field(default=150.0, ge=0)
    """Questions, answers and their frame in a conversation, where there is no corpus."""
    answer_tokens_per_row: float = Field(default=30.0, ge=0)
    """Of these, tokens of answers."""
    masks_per_row: float = Field(default=5.0, ge=0)
    """Masks asked for in a conversation, where there is no corpus."""
