"""Recipes as files: YAML with one `extends:` parent, overrides from the command line, errors that help."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError

from jobs.secret_marks import refuse_secrets
from storage.errors import UsageError
from storage.recipe import NodeError

__all__ = [
    "RECIPES_FOLDER",
    "absent_file",
    "apply_override",
    "merge",
    "packaged_recipes",
    "parse_settings",
    "read_recipe_tree",
    "read_yaml",
    "validate_recipe",
]

RECIPES_FOLDER = Path(__file__).parent / "recipes"
"""Folder of the recipes that come with the package."""

Tree = dict[str, object]
ModelT = TypeVar("ModelT", bound=BaseModel)

_SIMILARITY = 0.5  # difflib ratio; `num_step` against `num_steps` is 0.94, `lr` against `learning_rate` 0.27


_MAX_NODES = 100_000
"""Of a document with its aliases written out; the largest packaged recipe has some hundred."""


class _StrictLoader(yaml.SafeLoader):
    """The safe loader of PyYAML, which in addition refuses a key given twice (PyYAML keeps the last), and
    aliases that multiply: they are a few objects to PyYAML, but whoever walks the tree later meets them all."""

    def construct_document(self, node: yaml.Node) -> Any:
        """Builds the document after making sure that it stays small with its aliases written out."""
        _check_size(node)
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Builds a mapping after making sure that its plain keys are distinct."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value != "<<":
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key_node.value!r} is given twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def _load(text: str) -> object:
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def _check_size(document: yaml.Node) -> None:
    """Counts each node once and adds the sums up, so that the check itself costs what the file's length costs."""
    sizes: dict[int, int | None] = {}  # None: begun, not yet summed up

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node), 0)
        if known is None:
            raise yaml.constructor.ConstructorError(
                None, None, "an alias stands inside its own anchor; write the values out", node.start_mark
            )
        if known == 0:
            sizes[id(node)] = None
            known = sizes[id(node)] = 1 + sum(map(size, _children(node)))
            if known > _MAX_NODES:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"with its aliases written out there are more than {_MAX_NODES:,} values; write out what is needed",
                    node.start_mark,
                )
        return known

    size(document)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value


def packaged_recipes() -> dict[str, Path]:
    """Recipes that come with the package: name to file."""
    return {path.stem: path for path in sorted(RECIPES_FOLDER.glob("*.yaml"))}


def read_recipe_tree(recipe: str, overrides: Sequence[str] = ()) -> Tree:
    """Reads a recipe file with its chain of parents and applies the overrides.

    Args:
        recipe: path of a YAML file, or the name of a packaged recipe such as `demo`.
        overrides: items `a.b=c`, applied in order.

    Returns:
        The merged tree, not yet validated.

    Raises:
        UsageError: the recipe or a parent isn't found or isn't a YAML mapping, the chain of parents is a
            circle, or an override can't be applied.
    """
    tree = _read_chain(_locate(recipe, Path()), ())
    for override in overrides:
        tree = apply_override(tree, override)
    return tree


def _locate(recipe: str, folder: Path) -> Path:
    packaged = packaged_recipes()
    if recipe in packaged:
        return packaged[recipe]
    path = folder / recipe
    if path.is_file():
        return path.resolve()
    raise UsageError(absent_file("recipe", recipe, path, packaged))


def absent_file(what: str, name: str, path: Path, packaged: Iterable[str]) -> str:
    """What to say where neither a YAML file nor something that comes along has a name.

    Args:
        what: such as `recipe`.
        name: as the user gave it.
        path: that it would have as a file.
        packaged: names of what comes along.
    """
    known = sorted(packaged)
    near = _nearest(name, [*known, *(str(other) for other in path.parent.glob("*.yaml"))])
    found = " is a folder" if path.is_dir() else ""
    return f"no {what} {name!r}{found}{near or ':'} expected a YAML file or one of {', '.join(known)}"


def _read_chain(path: Path, children: tuple[Path, ...]) -> Tree:
    if path in children:
        circle = " -> ".join(str(item) for item in (*children, path))
        raise UsageError(f"recipe {path}: `extends` goes in a circle: {circle}; remove one of them")
    tree = read_yaml(path)
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise UsageError(f"recipe {path}: `extends` takes one path or packaged name, got {parent!r}")
    return merge(_read_chain(_locate(parent, path.parent), (*children, path)), tree)


def read_yaml(path: Path) -> Tree:
    """The settings in a YAML file.

    Raises:
        UsageError: it can't be read, or holds no mapping.
    """
    try:
        loaded: object = _load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} can't be read: {error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"recipe {path} isn't valid YAML: {_one_line(error)}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UsageError(f"recipe {path}: expected a mapping of settings, got {type(loaded).__name__}")
    return cast("Tree", loaded)


def parse_settings(settings: Sequence[str], known: Sequence[str], owner: str) -> dict[str, object]:
    """Settings `field=value` of the command line as a tree.

    Args:
        settings: in order; later ones win.
        known: fields there are.
        owner: whose fields they are, for messages.

    Raises:
        UsageError: an unknown field, with the known ones and the nearest.
    """
    tree: dict[str, object] = {}
    for setting in settings:
        tree = apply_override(tree, setting)
    for name in tree:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"{name}: no such field of {owner}{f'; did you mean {close[0]}?' if close else ''}; "
                f"known: {', '.join(known)}"
            )
    return tree


def merge(parent: Tree, child: Tree) -> Tree:
    """Lays a child's settings over its parent's; neither is changed.

    Mappings merge key by key and everything else is replaced, lists as a whole. A mapping whose `kind` changes
    replaces the parent's as a whole too, since the fields of one kind mean nothing to another.

    >>> merge({"a": {"x": 1, "y": 2}, "b": [1, 2]}, {"a": {"x": 3}, "b": [4]})
    {'a': {'x': 3, 'y': 2}, 'b': [4]}
    """
    merged = dict(parent)
    for key, value in child.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            old_tree, new_tree = cast("Tree", old), cast("Tree", value)
            changed = "kind" in new_tree and old_tree.get("kind") != new_tree["kind"]
            merged[key] = dict(new_tree) if changed else merge(old_tree, new_tree)
        else:
            merged[key] = value
    return merged


def apply_override(tree: Tree, override: str) -> Tree:
    """Applies one `a.b=c` to a tree and returns the new one; the value is parsed as YAML.

    A number steps into a list. A mapping as the value is merged, anything else replaces.

    Raises:
        UsageError: no `=`, an empty name, an index outside its list, or a step into something that has no fields.

    >>> apply_override({"teachers": [{"kind": "sam2"}]}, "teachers.0.batch=2")
    {'teachers': [{'kind': 'sam2', 'batch': 2}]}
    """
    name, separator, text = override.partition("=")
    steps = name.split(".")
    if not separator or not all(steps):
        raise UsageError(f"override {override!r}: expected field=value, such as training.num_steps=100")
    try:
        value: object = _load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"override {override!r}: the value isn't valid YAML: {_one_line(error)}") from error
    return cast("Tree", _override_node(tree, steps, value, override))


def _override_node(node: object, steps: Sequence[str], value: object, override: str) -> object:
    if not steps:
        return merge(cast("Tree", node), cast("Tree", value)) if _both_mappings(node, value) else value
    step, rest = steps[0], steps[1:]
    if isinstance(node, list):
        items = list(cast("list[object]", node))
        if not step.isdigit() or int(step) >= len(items):
            known = f"0 to {len(items) - 1}" if items else "none, the list is empty"
            raise UsageError(f"override {override!r}: {step!r} is no index of this list; known: {known}")
        items[int(step)] = _override_node(items[int(step)], rest, value, override)
        return items
    if node is None:
        node = {}
    if not isinstance(node, dict):
        raise UsageError(f"override {override!r}: {step!r} is looked for inside {node!r}, which has no fields")
    mapping = cast("Tree", node)
    return {**mapping, step: _override_node(mapping.get(step), rest, value, override)}


def _both_mappings(first: object, second: object) -> bool:
    return isinstance(first, dict) and isinstance(second, dict)


def validate_recipe(model: type[ModelT], tree: Mapping[str, object], recipe: str) -> ModelT:
    """Builds the recipe from its tree.

    Args:
        model: the class at the root of the tree.
        tree: the merged settings.
        recipe: what the user called the recipe; opens the error message.

    Raises:
        UsageError: a secret among the settings; or one line per wrong field, with its full name, what was expected,
            what was found, and for an unknown name the nearest known one.
    """
    # Before all else: what is wrong with a field is told with its value.
    refuse_secrets(
        tree,
        f"recipe {recipe}",
        "a recipe is stored, shown and sent as it stands: give credentials by the environment (AWS_*, "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)",
    )
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = list(_problems(model, error))
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UsageError("\n  ".join([f"recipe {recipe}: {count}", *problems])) from error


def _problems(model: type[BaseModel], error: ValidationError, where: tuple[str | int, ...] = ()) -> Iterator[str]:
    """One line per wrong field, also of nodes whose class was looked up; `where` leads to the model."""
    for item in error.errors():
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, NodeError):
            place = (*where, *_without_tags(model, item["loc"]))
            yield from _problems(cause.model, cause.error, place)
        else:
            yield _explain(model, dict(item), where)


def _explain(model: type[BaseModel], item: Mapping[str, object], where: tuple[str | int, ...]) -> str:
    location = cast("tuple[str | int, ...]", item["loc"])
    name = ".".join(str(step) for step in (*where, *_without_tags(model, location))) or "(the recipe)"
    found = re.sub(r"\s+", " ", repr(item["input"]))
    found = found if len(found) <= 80 else found[:77] + "..."
    message = str(item["msg"])
    kind = item["type"]
    if kind == "extra_forbidden":
        known = sorted({field for owner in _models_at(model, location[:-1]) for field in owner.model_fields})
        return f"{name}: no such field (value {found}); known: {', '.join(known)}{_nearest(str(location[-1]), known)}"
    if kind == "missing":
        return f"{name}: this field is required, nothing was given"
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        tags = [tag for owner in _models_at(model, location) if (tag := _tag(owner)) is not None]
        tag = str(cast("dict[str, object]", item.get("ctx", {})).get("tag", ""))
        what = f"kind {tag!r} is unknown" if kind == "union_tag_invalid" else "`kind` is required"
        return f"{name}: {what}; known: {', '.join(tags)}{_nearest(tag, tags)}"
    if kind == "value_error":  # a rule of ours, which says itself what it expects
        return f"{name}: {message.removeprefix('Value error, ')}"
    return f"{name}: expected {message.removeprefix('Input should be ')}, got {found}"


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=_SIMILARITY)
    return f"; did you mean {close[0]}?" if close else ""


def _without_tags(model: type[BaseModel], location: Sequence[str | int]) -> Iterator[str | int]:
    """Drops from pydantic's location the tags of unions, which a recipe doesn't spell as a step."""
    annotations: list[object] = [model]
    for step in location:
        models = [item for annotation in annotations for item in _models_in(annotation)]
        if isinstance(step, int):
            annotations = [item for annotation in annotations for item in _arguments(annotation)]
            yield step
            continue
        fields = [owner.model_fields[step].annotation for owner in models if step in owner.model_fields]
        tagged = [owner for owner in models if _tag(owner) == step]
        if not fields and tagged:
            annotations = list(tagged)
            continue
        annotations = list(fields) or annotations
        yield step


def _models_at(model: type[BaseModel], location: Sequence[str | int]) -> list[type[BaseModel]]:
    """Models that may stand at a location of the tree."""
    annotations: list[object] = [model]
    for step in location:
        models = [item for annotation in annotations for item in _models_in(annotation)]
        if isinstance(step, int):
            continue
        fields = [owner.model_fields[step].annotation for owner in models if step in owner.model_fields]
        tagged = [owner for owner in models if _tag(owner) == step]
        annotations = list(fields) or list(tagged) or annotations
    return [item for annotation in annotations for item in _models_in(annotation)]


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [item for argument in _arguments(annotation) for item in _models_in(argument)]


def _arguments(annotation: object) -> tuple[object, ...]:
    return tuple(item for item in typing.get_args(annotation) if item is not type(None) and item is not Ellipsis)


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    values = typing.get_args(field.annotation) if field is not None else ()
    return str(values[0]) if values else None


def _one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))
