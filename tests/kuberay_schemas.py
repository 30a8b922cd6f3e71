"""The schemas inside KubeRay's resource definitions, as strict JSON schemas: what they don't name is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

__all__ = ["problems", "strict_schema", "validator_of"]


def validator_of(folder: Path, kind: str, version: str = "v1") -> Draft202012Validator:
    """Validates one kind of KubeRay's resources.

    Args:
        folder: holds `ray.io_<plural>.yaml`.
        kind: such as `RayJob`.
        version: of the API.
    """
    definition = yaml.load((folder / f"ray.io_{kind.lower()}s.yaml").read_text(), Loader=yaml.CSafeLoader)
    (schema,) = [one["schema"] for one in definition["spec"]["versions"] if one["name"] == version]
    return Draft202012Validator(strict_schema(schema["openAPIV3Schema"]))


def strict_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI schema of a resource definition as a JSON schema.

    Objects with properties take no others, unless they say that they keep unknown fields. Quantities are numbers or
    texts. An object without properties, such as the metadata of a resource, takes anything.
    """
    made: dict[str, Any] = {}
    for name, value in schema.items():
        if name == "properties":
            made[name] = {key: strict_schema(one) for key, one in value.items()}
        elif name in {"items", "additionalProperties"} and isinstance(value, dict):
            made[name] = strict_schema(value)
        elif not name.startswith("x-kubernetes-") and name not in {"format", "description", "default"}:
            made[name] = value
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("nullable"):
        return {"anyOf": [{"type": "null"}, made]}
    kept = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-embedded-resource")
    if "properties" in schema and "additionalProperties" not in schema and not kept:
        made["additionalProperties"] = False
    return made


def problems(validator: Draft202012Validator, resource: dict[str, Any]) -> list[str]:
    """What is wrong with a resource, each with its place."""
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(resource)]
