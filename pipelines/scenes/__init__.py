"""Synthetic pictures with exact masks and expressions that need more than one word."""

from pipelines.scenes.config import ScenesConfig
from pipelines.scenes.draw import DrawnScene, draw_scene

__all__ = ["DrawnScene", "ScenesConfig", "draw_scene"]
