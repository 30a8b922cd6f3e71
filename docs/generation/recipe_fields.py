"""The fields of recipes as a page, from the models that read them."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from jobs.config import Recipe
from pipelines.benchmark_building.settings import BuildConfig
from pipelines.teacher_training.config import TeacherTrainingConfig
from storage.keys import canonical_json
from teachers.base import BaseTeacherConfig
from teachers.registry import TEACHERS

__all__ = ["recipe_page"]

_INTRODUCTION = """\
# Fields of recipes

Made from the models that read recipes; a field that isn't here is refused by name. A recipe is YAML with `extends:` one
parent and the lines that differ; on the command line `a.b=c` overrides, and a number steps into a list
(`teachers.0.checkpoint=...`). Fields marked ○ change how a command runs and never what it writes: no address has them.
"""
_OTHERS: Sequence[tuple[str, str, type[BaseModel]]] = (
    ("benchmark", "Settings of `sailloft benchmark build`.", BuildConfig),
    ("train-teacher", "A recipe of `sailloft train-teacher`.", TeacherTrainingConfig),
)
_LIMITS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def recipe_page() -> str:
    """All fields with type, default and meaning, section by section, as Markdown."""
    lines = [_INTRODUCTION, *_table(Recipe.model_fields, "")]
    for name, field in Recipe.model_fields.items():
        if found := _models(field.annotation):
            lines += _sections(name, found, 2)
    for name, what, model in _OTHERS:
        lines += [f"## {name}\n", f"{what}\n", *_section_of(model, name, 2)]
    return "\n".join(lines)


def _sections(path: str, found: Sequence[type[BaseModel]], level: int) -> Iterator[str]:
    """What stands at a place of the recipe: one model, or several that are told apart by `kind`."""
    yield f"{'#' * level} {path}\n"
    if len(found) == 1:
        yield from _described(found[0])
        yield from _section_of(found[0], path, level)
        return
    shared = _shared(found)
    if set(shared) - {"kind"}:
        yield "Of every kind:\n"
        yield from _table({name: field for name, field in shared.items() if name != "kind"}, path)
    for model in sorted(found, key=_kind):
        own = {name: field for name, field in model.model_fields.items() if name not in {*shared, "kind"}}
        yield f"{'#' * (level + 1)} {path}: {_kind(model)}\n"
        yield from _described(model)
        yield from _fields(own, f"{path}: {_kind(model)}", level + 1)


def _section_of(model: type[BaseModel], path: str, level: int) -> Iterator[str]:
    yield from _fields(model.model_fields, path, level)


def _fields(fields: Mapping[str, FieldInfo], path: str, level: int) -> Iterator[str]:
    yield from _table(fields, path)
    for name, field in fields.items():
        if found := _models(field.annotation):
            yield from _sections(f"{path}.{name}", found, min(level + 1, 4))


def _described(model: type[BaseModel]) -> Iterator[str]:
    summary = " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())
    if summary:
        yield f"{_escaped(summary)}\n"


def _table(fields: Mapping[str, FieldInfo], path: str) -> Iterator[str]:
    if not fields:
        return
    yield "| field | type | default | |\n|---|---|---|---|"
    for name, field in fields.items():
        mark = " ○" if _is_unhashed(field) else ""
        what = _escaped(" ".join((field.description or "").split()))
        yield f"| `{name}`{mark} | {_type(field, path, name)} | {_default(field)} | {what} |"
    yield ""


def _is_unhashed(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("hashed") is False


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return ""
    if isinstance(value, BaseModel) or (isinstance(value, tuple) and any(isinstance(x, BaseModel) for x in value)):
        return "as below"
    return f"`{canonical_json(to_jsonable_python(value)).decode()}`"


def _type(field: FieldInfo, path: str, name: str) -> str:
    text = _type_text(field.annotation)
    if _models(field.annotation):
        where = f"{path}.{name}" if path else name
        text = f"[{text}](#{_anchor(where)})"
    limits = [
        f"{sign} {getattr(item, name)}"
        for item in field.metadata
        for name, sign in _LIMITS.items()
        if isinstance(item, annotated_types.BaseMetadata) and hasattr(item, name)
    ]
    return ", ".join([text, *limits])


def _type_text(kind: Any) -> str:
    """A type in the words of YAML."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _type_text(inner[0])
    if origin is Literal:
        return " or ".join(f"`{canonical_json(value).decode()}`".replace('"', "") for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_text(one) for one in inner))
    if origin in (tuple, list, frozenset, set):
        if origin is tuple and inner and inner[-1] is not Ellipsis:
            return f"list of {len(inner)}: " + ", ".join(_type_text(one) for one in inner)
        return f"list of {_type_text(inner[0])}".replace("list of mapping", "list of mappings")
    if origin is not None and issubclass(origin, Mapping):
        return f"mapping of {_type_text(inner[1])}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "mapping"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _models(kind: Any) -> list[type[BaseModel]]:
    """The models that a field may hold, each once; of teachers those of the registry."""
    if isinstance(kind, type) and issubclass(kind, BaseTeacherConfig):
        return list(TEACHERS.values())
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return list(dict.fromkeys(model for inner in get_args(kind) for model in _models(inner)))


def _kind(model: type[BaseModel]) -> str:
    field = model.model_fields.get("kind")
    return str(field.default) if field is not None else model.__name__


def _shared(found: Sequence[type[BaseModel]]) -> dict[str, FieldInfo]:
    """Fields that all have, with the same type, default and meaning."""
    first, *others = found
    return {
        name: field
        for name, field in first.model_fields.items()
        if name == "kind"
        or all(
            (other := model.model_fields.get(name)) is not None
            and (other.annotation, other.description, _default(other))
            == (field.annotation, field.description, _default(field))
            for model in others
        )
    }


def _anchor(heading: str) -> str:
    """The anchor of a heading, as the site makes it."""
    return heading.replace(".", "").replace(":", "").replace(" ", "-").lower()


def _escaped(text: str) -> str:
    parts = text.split("`")
    signs = str.maketrans({"&": "&amp;", "<": "&lt;", "*": "\\*", "_": "\\_", "|": "\\|"})
    parts[::2] = [part.translate(signs) for part in parts[::2]]  # what stands between backticks is code
    return "`".join(parts)
