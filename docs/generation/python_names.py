"""The Python API as pages: which names they show. mkdocstrings writes what is said of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

import sailloft

__all__ = ["MODULES", "python_page"]

MODULES: Mapping[str, Sequence[str]] = {
    "sailloft": (),
    "storage": (
        *("storage.schema", "storage.corpus", "storage.features", "storage.feature_index", "storage.feature_writer"),
        *("storage.codecs", "storage.objects", "storage.manifest", "storage.keys", "storage.masks", "storage.prompts"),
        *("storage.geometry", "storage.registry", "storage.recipe", "storage.errors"),
    ),
    "teachers": (
        *("teachers.base", "teachers.registry", "teachers.mask2former", "teachers.sam2", "teachers.radio"),
        *("teachers.resize", "teachers.device", "teachers.testing"),
    ),
    "model": (
        *("model.config", "model.predictor", "model.student", "model.objective", "model.feature_targets"),
        *("model.processor", "model.tokenizer", "model.wordings", "model.drawing", "model.flops"),
        *("model.huggingface.configuration", "model.huggingface.modeling", "model.huggingface.processing"),
    ),
}
"""The modules of each page, of which it shows what `__all__` names; `sailloft` is a table of names from the others."""
_NAMES = """\
# sailloft

What `import sailloft` offers. Each name is imported from its package when it is first used; taking it from here first
makes sure that `storage`, `model` and the other packages are Sailloft's own.

| name | |
|---|---|"""
_OF_THE_PROGRAM = {"PACKAGES", "check_packages", "main"}


def python_page(package: str) -> str:
    """One page of the reference, as Markdown with a line of mkdocstrings for each module."""
    if package == "sailloft":
        return "\n".join([_NAMES, *_names_of_sailloft()])
    summary = (import_module(package).__doc__ or "").strip()
    return "\n".join([f"# {package}\n", f"{summary}\n", *(f"::: {module}\n" for module in MODULES[package])])


def _names_of_sailloft() -> Iterator[str]:
    for name in sorted(set(sailloft.__all__) - _OF_THE_PROGRAM):
        value = getattr(sailloft, name)
        summary = " ".join((value.__doc__ or "").strip().split("\n\n")[0].split())
        yield f"| [`{name}`][{value.__module__}.{value.__qualname__}] | {summary} |"
