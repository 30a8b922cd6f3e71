"""What a training run begins with: the tokenizer and the first weights, the same in every rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from model.checkpoint import load_checkpoint, load_config, load_tokenizer
from model.config import StudentConfig
from model.lora import add_lora
from model.starting import redraw_tokens
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from model.trained_parts import train_parts
from model.wordings import answer_of, example_texts, question_of
from pipelines.training.config import TrainingConfig
from storage.errors import UsageError
from storage.objects import Objects
from storage.schema import Sample

__all__ = ["first_model", "first_tokenizer", "resolved_student", "trunk"]


def first_tokenizer(student: StudentConfig, config: TrainingConfig, samples: Iterable[Sample]) -> StudentTokenizer:
    """That of the checkpoint a run starts from, or one learnt from the wordings and samples of the training splits."""
    if config.init is not None:
        checkpoint = Objects.open(config.init)
        return load_tokenizer(checkpoint, load_config(checkpoint))
    texts = list(example_texts(student.wordings))
    for sample in samples:
        for index in range(len(sample.turns)):
            texts += [question_of(sample, index, None, "short"), answer_of(sample, index, None, "short")]
    return StudentTokenizer.train(texts, student.vocab_size, student.num_visual_prompts)


def resolved_student(student: StudentConfig, config: TrainingConfig, tokenizer: StudentTokenizer) -> StudentConfig:
    """The architecture with its true number of token embeddings; a language model's can exceed its tokenizer's."""
    size = tokenizer.vocab_size if config.init is None else load_config(Objects.open(config.init)).vocab_size
    return student.model_copy(update={"vocab_size": size})


def first_model(student: StudentConfig, config: TrainingConfig) -> PixelSail:
    """Fresh weights by the seed, or those of a checkpoint; distillation heads and adapters are always fresh."""
    model = PixelSail(student).init_weights(torch.Generator().manual_seed(config.seed))
    if config.init is not None:
        weights = trunk(load_checkpoint(Objects.open(config.init))[0].state_dict())
        expected = trunk(model.state_dict())
        wrong = sorted(
            name
            for name in expected.keys() | weights.keys()
            if name not in expected or name not in weights or expected[name].shape != weights[name].shape
        )
        if wrong:
            raise UsageError(
                f"training.init {config.init}: expected the weights of student {student.model_dump()}, "
                f"these differ: {', '.join(wrong)}"
            )
        model.load_state_dict(weights, strict=False)
        if config.pixel_tokens == "drawn":
            redraw_tokens(model, first_tokenizer(student, config, ()).pixel_tokens, config.seed)
    if config.lora is not None:
        add_lora(model, config.lora, config.seed)
    return train_parts(model, config.trained)


def trunk(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a checkpoint keeps: all but the distillation heads."""
    return {name: weight for name, weight in weights.items() if not name.startswith("distillation_heads.")}
