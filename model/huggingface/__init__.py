"""The student in the habits of transformers; importing it registers the Auto classes."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from model.huggingface.configuration import PixelSailConfig
from model.huggingface.modeling import PixelSailForConditionalGeneration, PixelSailOutput
from model.huggingface.processing import PixelSailProcessor

__all__ = ["PixelSailConfig", "PixelSailForConditionalGeneration", "PixelSailOutput", "PixelSailProcessor"]

AutoConfig.register(PixelSailConfig.model_type, PixelSailConfig, exist_ok=True)
AutoModelForImageTextToText.register(PixelSailConfig, PixelSailForConditionalGeneration, exist_ok=True)
AutoProcessor.register(PixelSailConfig, PixelSailProcessor, exist_ok=True)
