"""`sailloft convert`: students of public bases and released weights, released weights of students, teachers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save as save_safetensors
from tokenizers import Tokenizer
from torch import Tensor

from jobs.convert_teacher import place_of, teacher_details, teacher_files, teacher_summary
from jobs.display import Display
from jobs.loading import parse_settings
from jobs.new_folder import make_folder, target_folder
from jobs.told import Told
from model.bases import read_base
from model.checkpoint import (
    CONFIG_FILE,
    MODEL_TYPE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    checkpoint_files,
    load_checkpoint,
    load_weights,
)
from model.config import StudentConfig
from model.reference import from_released, is_released, released_config, to_released
from model.starting import fresh_parts, fresh_tokens, start_student
from model.student import PixelSail
from model.tokenizer import StudentTokenizer
from model.weight_files import RELEASED_FILES, read_json, read_weight_file, read_weights, to_one_dtype
from storage.errors import DataError, UsageError
from storage.keys import Json
from storage.objects import Objects
from teachers.conversion import looks_official

__all__ = ["Form", "convert"]

Form = Literal["student", "released"]

_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_CHUNK_BYTES = 64 * 1024 * 1024  # a moment of writing between two reports
_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class _Found:
    """What was read, as a student."""

    kind: str
    model: PixelSail
    tokenizer: StudentTokenizer
    facts: Mapping[str, str]
    """Lines of the summary by their names."""
    is_trained: bool


def convert(
    source: str,
    output: Path,
    settings: Sequence[str] = (),
    *,
    form: Form = "student",
    tokenizer: str | None = None,
    seed: int = 0,
    display: Display,
    dry_run: bool = False,
) -> Told:
    """Reads weights of one form and writes them in another.

    Args:
        source: folder or URL of a base, of released weights, or of a student of ours; or one file of released weights,
            or of a teacher as its authors published it.
        output: folder to make; it comes to be whole or not at all.
        settings: `FIELD=VALUE` of `StudentConfig`, or of a teacher's `Sam2Details`, for what the source leaves open.
        form: `student`: a checkpoint of ours. `released`: `model.safetensors` by the released names, and the tokenizer.
        tokenizer: folder with the `tokenizer.json` to use, where the source has none beside it.
        seed: of what is drawn freshly.
        display: shows how far it is.
        dry_run: read and convert, which finds whatever doesn't fit, and write nothing.

    Returns:
        What was found, made, drawn and dropped, and the next command.

    Raises:
        UsageError: a setting or path that can't be used; an output that is there already.
        DataError: a source that can't be used.
        InfrastructureError: the output can't be written.
    """
    target = target_folder(output)
    if looks_official(Path(source)):
        if form != "student" or tokenizer is not None or seed:
            raise UsageError(
                f"{source}: a teacher's checkpoint takes none of --format, --tokenizer and --seed; leave them out"
            )
        return _convert_teacher(Path(source), output, None if dry_run else target, settings, display)
    fields = parse_settings(settings, list(StudentConfig.model_fields), "a student")
    progress = display.stage("convert")
    progress.update(0, 2, unit="steps", now=f"reading {source}")
    found = _read(source, fields, tokenizer, seed)
    progress.update(1, 2, unit="steps", now="putting it in the new form")
    if form == "student":
        files = checkpoint_files(found.model, found.tokenizer)
    else:
        files = _released_files(found.model.state_dict(), found.tokenizer)
    display.note("convert", f"read {source}")
    if not dry_run:
        _write(target, files, display)
    return _summary(found, output, form, sum(len(content) for content in files.values()), dry_run)


def _convert_teacher(path: Path, output: Path, target: Path | None, settings: Sequence[str], display: Display) -> Told:
    details = teacher_details(settings)
    display.stage("convert").update(0, 1, unit="steps", now=f"reading {path}")
    converted, files = teacher_files(path, details)
    display.note("convert", f"read {path}")
    if target is not None:
        _write(target, files, display)
    return teacher_summary(converted, output, sum(len(content) for content in files.values()), target is None)


def _read(source: str, settings: Mapping[str, object], tokenizer: str | None, seed: int) -> _Found:
    path = Path(source)
    if path.is_file():
        if path.suffix not in _WEIGHT_SUFFIXES:
            raise UsageError(f"{source}: expected a folder or a file {', '.join(_WEIGHT_SUFFIXES)}, got {path.name}")
        folder = Objects.open(path.parent)
        return _read_released(read_weight_file(folder, path.name), folder, source, settings, tokenizer)
    folder = Objects.open(source)
    if next(folder.list(), None) is None:
        raise UsageError(f"{source}: expected a file or a folder with weights, found nothing; correct the path")
    if folder.exists(CONFIG_FILE) and read_json(folder, CONFIG_FILE).get("model_type") == MODEL_TYPE:
        return _read_student(folder, settings, tokenizer)
    weights = read_weights(folder, RELEASED_FILES)
    if is_released(weights):
        return _read_released(weights, folder, source, settings, tokenizer)
    return _start(folder, settings, tokenizer, seed)


def _read_student(folder: Objects, settings: Mapping[str, object], tokenizer: str | None) -> _Found:
    if settings or tokenizer is not None:
        given = [*settings, *([] if tokenizer is None else ["--tokenizer"])]
        raise UsageError(
            f"{folder.url}: expected nothing but IN and OUT for a student, which has its configuration and its "
            f"tokenizer, got {', '.join(given)}; leave them out"
        )
    model, own = load_checkpoint(folder)
    return _Found("student", model, own, {"dropped": "nothing"}, is_trained=True)


def _start(folder: Objects, settings: Mapping[str, object], tokenizer: str | None, seed: int) -> _Found:
    base = read_base(folder)
    if tokenizer is not None:
        base = replace(base, tokenizer_json=_tokenizer_json(Objects.open(tokenizer)))
    model, own = start_student(base, settings, seed)
    drawn = fresh_parts(base, model)
    if tokens := fresh_tokens(base, own):
        drawn.append(f"embeddings of {len(tokens)} tokens ({_shortened(tokens)})")
    if model.config.modality_weights == "separate" and "modality_weights" not in base.config_fields:
        drawn.append("patches' own weights as copies of the text's")
    facts = {"drawn": f"{', '.join(drawn)}; seed {seed}", "dropped": _shortened(list(base.dropped)) or "nothing"}
    return _Found(f"base {base.kind}", model, own, facts, is_trained=False)


def _read_released(
    weights: Mapping[str, Tensor], folder: Objects, source: str, settings: Mapping[str, object], tokenizer: str | None
) -> _Found:
    place = folder if tokenizer is None else Objects.open(tokenizer)
    backend = Tokenizer.from_str(_tokenizer_json(place))
    if num_prompts := _num_visual_prompts(backend):
        settings = {"num_visual_prompts": num_prompts, **settings}
    config = released_config(weights, settings)
    with torch.device("meta"):
        model = PixelSail(config)
    load_weights(model, to_one_dtype(from_released(weights, config)), source)
    num_before = backend.get_vocab_size(with_added_tokens=True)
    own = StudentTokenizer(backend, config.num_visual_prompts)
    num_ids = 1 + max(own.backend.get_vocab(with_added_tokens=True).values())
    # The released program adds its tokens behind the base's and then cuts the table to fit.
    if num_ids > config.vocab_size or (own.vocab_size > num_before and num_ids != config.vocab_size):
        raise DataError(
            f"{place.url}/{TOKENIZER_FILE}: expected {config.vocab_size} tokens, one for each row of the embeddings, "
            f"got {num_before} and {own.vocab_size - num_before} special ones that are missing; "
            "give the folder of this student's tokenizer by --tokenizer"
        )
    return _Found("released weights", model, own, {"dropped": "nothing"}, is_trained=True)


def _num_visual_prompts(tokenizer: Tokenizer) -> int:
    number = 0
    while tokenizer.token_to_id(f"<Prompt{number}>") is not None:
        number += 1
    return number


def _tokenizer_json(folder: Objects) -> str:
    if not folder.exists(TOKENIZER_FILE):
        raise UsageError(
            f"{folder.url}: expected {TOKENIZER_FILE}, found none; name a folder that has it by --tokenizer"
            " (transformers writes it: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER))"
        )
    return folder.read(TOKENIZER_FILE).decode()


def _released_files(weights: Mapping[str, Tensor], tokenizer: StudentTokenizer) -> dict[str, bytes]:
    tensors = {name: tensor.contiguous() for name, tensor in to_released(weights).items()}
    return {
        WEIGHTS_FILE: save_safetensors(tensors, metadata={"format": "pt"}),
        TOKENIZER_FILE: tokenizer.to_json().encode(),
    }


def _write(target: Path, files: Mapping[str, bytes], display: Display) -> None:
    progress = display.stage("write")
    total, done = sum(len(content) for content in files.values()), 0
    with make_folder(target) as folder:
        for name, content in files.items():
            with (folder / name).open("wb") as stream:
                for start in range(0, len(content), _CHUNK_BYTES):
                    done += stream.write(memoryview(content)[start : start + _CHUNK_BYTES])
                    progress.update(done // _MEGABYTE, total // _MEGABYTE, unit="MB")
    display.note("write", f"wrote {target}")


def _summary(found: _Found, output: Path, form: Form, size_bytes: int, dry_run: bool) -> Told:
    model, config = found.model, found.model.config
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    dtype = str(model.embed_tokens.weight.dtype).removeprefix("torch.")
    place = shlex.quote(str(output))
    if form == "released":
        command = (
            f"sailloft convert {place} STUDENT num_attention_heads={config.num_attention_heads} "
            f"rope_theta={config.rope_theta} rms_norm_eps={config.rms_norm_eps}  (which the weights don't tell)"
        )
    elif found.is_trained:
        command = f"sailloft predict {place} IMAGE TEXT"
    else:
        command = f"sailloft run RECIPE training.init={place}"
    place_told = place_of(output, dry_run)
    lines = {
        "found": f"{found.kind}, {config.num_layers} layers of hidden size {config.hidden_size}",
        "made": f"{form}, {num_parameters:,} parameters, {dtype}, {size_bytes / _MEGABYTE:,.1f} MB {place_told}",
        **found.facts,
        "next": command,
    }
    data: dict[str, Json] = {
        "folder": str(output),
        "dry_run": dry_run,
        "found": found.kind,
        "form": form,
        "num_parameters": num_parameters,
        "dtype": dtype,
        "size_bytes": size_bytes,
        **found.facts,
    }
    return Told("\n".join(f"{name:<8} {text}" for name, text in lines.items()), data)


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]}, ... {names[-1]}"
