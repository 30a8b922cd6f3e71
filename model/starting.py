"""A student that starts from a base: its decoder as it is, everything new drawn freshly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor, nn

from model.bases import Base
from model.config import StudentConfig
from model.reference import complete_config, decoder_name
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from storage.errors import SourceError, UsageError

__all__ = ["fresh_parts", "fresh_tokens", "redraw_tokens", "start_student"]

_NEW = ("vis_embed", "vp_embed", "mask_features", "seg_query", "distillation_heads")
"""Parts that a base may lack; one that it has, it has to have whole."""
_TABLES = ("embed_tokens.weight", "lm_head.weight")
_SHOWN_PROBLEMS = 5
_ROWS_AT_ONCE = 8192


def start_student(base: Base, settings: Mapping[str, object], seed: int = 0) -> tuple[PixelSail, StudentTokenizer]:
    """Makes a student of a base.

    The decoder and each embedding of a token that the base's tokenizer knows stay bit by bit. Tokens new to it get
    embeddings drawn with the mean and the standard deviation that each channel has among the known ones (spare rows,
    as Qwen2.5 has them, are alike, so that one prompt couldn't be told from the next). The table keeps
    its rows and grows where that isn't enough. Parts that the base lacks are drawn as `PixelSail.init_weights`
    does, `vp_embed` so that prompts come out as large as patches; all of it has the base's number type.

    Args:
        base: from `read_base`.
        settings: fields of `StudentConfig` that the base leaves open, such as `mask_stride_px`. Where
            `modality_weights="separate"` is among them, patches start with copies of the text's weights.
        seed: of what is drawn.

    Returns:
        The student on the CPU and its tokenizer: the base's with the student's special tokens behind.

    Raises:
        UsageError: settings that contradict the base or one another.
        SourceError: the base has no `tokenizer.json` or another model's, or its weights don't fit its `config.json`.
    """
    tokenizer_json = _tokenizer_json(base)
    config = complete_config(base.config_fields, settings, base.source)
    if config.initial_heads.total():
        raise UsageError("initial_heads: expected none, a base has its own heads; leave them out")
    tokenizer = StudentTokenizer.from_json(tokenizer_json, config.num_visual_prompts)
    known = set(Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=True).values())
    if max(known) >= config.vocab_size:
        raise SourceError(
            f"{base.source}/tokenizer.json: expected ids below {config.vocab_size}, the rows of the embeddings, got "
            f"{max(known)}; give the tokenizer that belongs to this base"
        )
    used = set(tokenizer.backend.get_vocab(with_added_tokens=True).values())
    num_rows = max(config.vocab_size, 1 + max(used))
    with torch.device("meta"):
        model = PixelSail(config.model_copy(update={"vocab_size": num_rows}))
    weights = _with_copies_for_patches(base.weights, model)
    _check_fit(base, weights, config, model)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.tensor(sorted(known))
    drawn = torch.tensor(sorted((used - known) | set(range(config.vocab_size, num_rows))), dtype=torch.long)
    sizes: dict[str, float] = {}
    for name in (name for name in _TABLES if name in weights):
        mean, std = _mean_and_std(weights[name], rows)
        sizes[name] = float((mean.square() + std.square()).mean().sqrt())
        new_rows = mean + std * torch.randn(len(drawn), len(mean), generator=generator)
        weights[name] = _with_rows(weights[name], num_rows, drawn, new_rows)
    model.load_state_dict(weights, strict=False, assign=True)
    _draw_new_parts(model, sizes["embed_tokens.weight"], generator)
    return model, tokenizer


def fresh_parts(base: Base, model: PixelSail) -> list[str]:
    """Parts of a student that the base had no weights for."""
    return [name for name, part in model.named_children() if not _has_part(base.weights, name) and _holds_any(part)]


def fresh_tokens(base: Base, tokenizer: StudentTokenizer) -> list[str]:
    """Tokens of a student that the base's tokenizer did not know, by their ids."""
    known = Tokenizer.from_str(_tokenizer_json(base)).get_vocab(with_added_tokens=True)
    ids = tokenizer.backend.get_vocab(with_added_tokens=True)
    return sorted(ids.keys() - known.keys(), key=lambda token: ids[token])


@torch.no_grad()
def redraw_tokens(model: PixelSail, tokens: Sequence[int], seed: int) -> PixelSail:
    """Draws embeddings of some tokens anew, in place, as `start_student` draws those of new tokens.

    Training pushes tokens that never occur away from everything that is said, all to one place: after 1,200 steps on
    captions of scenes, input and output embedding being one, their cosine with the mean was above 0.99.

    Args:
        model: on the CPU.
        tokens: their ids.
        seed: of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = model.state_dict()
    others = torch.ones(model.config.vocab_size, dtype=torch.bool)
    others[list(tokens)] = False
    for name in (name for name in _TABLES if name in weights):
        table = weights[name]
        mean, std = _mean_and_std(table, others.nonzero()[:, 0])
        table[list(tokens)] = (mean + std * torch.randn(len(tokens), len(mean), generator=generator)).to(table.dtype)
    return model


def _tokenizer_json(base: Base) -> str:
    if base.tokenizer_json is None:
        raise SourceError(
            f"{base.source}: expected tokenizer.json, found none; make it with transformers "
            "(AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)) or name a folder that has it"
        )
    return base.tokenizer_json


def _has_part(names: Iterable[str], part: str) -> bool:
    return any(name.startswith(f"{part}.") for name in names)


def _holds_any(part: nn.Module) -> bool:
    return next(part.parameters(), None) is not None


def _with_copies_for_patches(weights: Mapping[str, Tensor], model: PixelSail) -> dict[str, Tensor]:
    """The weights, and if patches have some of their own that the base lacks, copies of the text's."""
    copies: dict[str, Tensor] = {}
    if not any(".vision." in name for name in weights):
        names = [name for name in model.state_dict() if ".vision." in name]
        texts = {name: name.replace(".vision.", ".") for name in names}
        copies = {name: weights[text].clone() for name, text in texts.items() if text in weights}
    return {**weights, **copies}


def _check_fit(base: Base, weights: Mapping[str, Tensor], config: StudentConfig, model: PixelSail) -> None:
    """Raises unless every weight has its place and every place of the decoder has its weight."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in _TABLES:
        if name in expected:
            expected[name] = (config.vocab_size, config.hidden_size)
    new = {part for part in _NEW if not _has_part(weights, part)}
    problems = [
        f"{decoder_name(name)}: expected {expected.get(name, 'no such weight')}, "
        f"got {tuple(weights[name].shape) if name in weights else 'none'}"
        for name in sorted(expected.keys() | weights.keys())
        if name.split(".")[0] not in new and (name not in weights or tuple(weights[name].shape) != expected.get(name))
    ]
    if problems:
        more = f" and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise SourceError(
            f"{base.source}: the weights don't fit config.json: {'; '.join(problems[:_SHOWN_PROBLEMS])}{more}; "
            "both have to be of one checkpoint, download it again"
        )


def _with_rows(
    table: Float[Tensor, "table_rows dim"], num_rows: int, places: Tensor, rows: Float[Tensor, "places dim"]
) -> Float[Tensor, "rows dim"]:
    """A copy of the table with that many rows, some of them replaced."""
    grown = table.new_empty(num_rows, table.shape[1])
    grown[: len(table)] = table
    grown[places] = rows.to(table.dtype)
    return grown


def _mean_and_std(table: Float[Tensor, "table_rows dim"], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over some rows (dim), float32; no copy of the table is made."""
    total = torch.zeros(table.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for some in rows.split(_ROWS_AT_ONCE):
        values = table[some].float()
        total += values.sum(0)
        squares += (values * values).sum(0)
    mean = total / len(rows)
    return mean.float(), (squares / len(rows) - mean.square()).clamp_min(0).sqrt().float()


@torch.no_grad()
def _draw_new_parts(model: PixelSail, embedding_size: float, generator: torch.Generator) -> None:
    """Draws what is still on the meta device.

    Args:
        model: the student with the base's weights.
        embedding_size: root mean square of a known embedding's entries.
        generator: draws.
    """
    for name, part in model.named_children():
        if not any(parameter.is_meta for parameter in part.parameters()):
            continue
        part.to_empty(device="cpu")
        for inner, module in part.named_modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            else:
                model.draw_module(f"{name}.{inner}", module, generator)
        if part is model.vp_embed:  # the patch embedding stands before it
            white = torch.randn(64, 3 * model.config.patch_size_px**2, generator=generator)
            patches = model.vis_embed(white.to(model.embed_tokens.weight.dtype))
            nn.init.orthogonal_(model.vp_embed.weight, float(patches.float().std()) / embedding_size, generator)
        part.to(model.embed_tokens.weight.dtype)
