"""Captioners by their kind, built in or from other distributions."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Literal

import pytest

from pipelines.benchmark_building.captioners import registry
from pipelines.benchmark_building.captioners.base import BaseCaptionerConfig
from pipelines.benchmark_building.captioners.template import TemplateCaptioner, TemplateCaptionerConfig
from pipelines.benchmark_building.settings import BuildConfig
from storage import plugins
from storage.errors import UnknownKind, UsageError


class PluggedConfig(BaseCaptionerConfig):
    kind: Literal["plugged"] = "plugged"
    words: int = 3

    def build(self) -> TemplateCaptioner:
        return TemplateCaptioner()

    def description(self) -> str:
        return "plugged"


class MisnamedConfig(PluggedConfig):
    kind: Literal["another"] = "another"  # type: ignore[assignment]


def plug(monkeypatch: pytest.MonkeyPatch, *values: str, name: str = "plugged") -> None:
    group_name = registry.PLUGINS.name
    points = [EntryPoint(name, value, group_name) for value in values]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == group_name else [])


def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """This module under a name that entry points can import."""
    import sys

    monkeypatch.setitem(sys.modules, "plugged_captioner", sys.modules[__name__])
    return "plugged_captioner"


def test_unknown_kinds_are_told_with_the_known_ones() -> None:
    with pytest.raises(UnknownKind, match="unknown captioner 'templat'; known: endpoint, template, transformers; did"):
        registry.parse_captioner({"kind": "templat"})
    with pytest.raises(UnknownKind, match="unknown captioner 'None'"):
        registry.parse_captioner({})


def test_settings_hold_any_captioner() -> None:
    config = BuildConfig.model_validate({"captioner": {"kind": "endpoint", "url": "https://host/v1", "model": "m"}})
    again = BuildConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert BuildConfig().captioner == TemplateCaptionerConfig()


def test_a_plugin_joins_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, f"{here(monkeypatch)}:PluggedConfig")
    assert "plugged" in registry.known_kinds()
    found = BuildConfig.model_validate({"captioner": {"kind": "plugged", "words": 5}}).captioner
    assert found.model_dump() == {"kind": "plugged", "words": 5}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("absent_module:X",), "can't be imported: ModuleNotFoundError"),
        (
            ("plugged_captioner:plug",),
            r"expected a subclass of pipelines\..*\.captioners\.base\.BaseCaptionerConfig, got <function",
        ),
        (("plugged_captioner:MisnamedConfig",), 'expected its class to have the field kind: Literal\\["plugged"\\]'),
        (("plugged_captioner:PluggedConfig", "other:X"), "offered by unknown, unknown; uninstall all but one"),
    ],
)
def test_a_broken_plugin_is_told_by_name(
    monkeypatch: pytest.MonkeyPatch, values: tuple[str, ...], message: str
) -> None:
    here(monkeypatch)
    plug(monkeypatch, *values)
    with pytest.raises(UsageError, match=message):
        registry.captioner_class("plugged")


def test_a_built_in_captioner_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, "absent_module:X", name="template")
    assert registry.captioner_class("template") is TemplateCaptionerConfig
