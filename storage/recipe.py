"""The base of every configuration: frozen, and refusing what it doesn't know."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = ["NodeError", "RecipeModel"]


class RecipeModel(BaseModel):
    """A node of the recipe tree.

    Frozen, `extra="forbid"`, docstrings become field descriptions. A field marked with
    `json_schema_extra={"hashed": False}` changes only how a stage runs, never what it writes, and
    stays out of content keys (see `hashed_fields`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def hashed_fields(self) -> dict[str, object]:
        """The resolved configuration, less every field that changes no output."""
        return {
            name: _plain(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if not (isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("hashed") is False)
        }


class NodeError(ValueError):
    """Wrong fields of a node whose class was looked up when the recipe was read.

    Raised by a validator, it lets the message name each field by its place in the whole recipe.

    Args:
        model: the node's class.
        error: what pydantic says of its fields.
    """

    def __init__(self, model: type[BaseModel], error: ValidationError) -> None:
        super().__init__(str(error))
        self.model = model
        self.error = error


def _plain(value: object) -> object:
    if isinstance(value, RecipeModel):
        return value.hashed_fields()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
