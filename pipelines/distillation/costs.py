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
