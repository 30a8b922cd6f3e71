"""Teachers of other distributions: real ones, with metadata, on a path that lasts for one test."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jobs.config import load_recipe
from storage.errors import UnknownKind, UsageError
from teachers import registry
from teachers.registry import TEACHERS, known_kinds, parse_teacher, teacher_card, teacher_class
from teachers.testing import textured_image

MODULE = '''
from typing import ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from teachers.base import BaseTeacherConfig, ModuleTeacher, StudentSource, build_seeded
from teachers.device import real_dtype, wants_compilation
from teachers.resize import require_rgb, resize_antialiased


class EdgesConfig(BaseTeacherConfig, frozen=True):
    """Responses to a few random kernels."""

    student_source: ClassVar[StudentSource] = "patches"
    kind: Literal["edges"] = "edges"
    num_channels: int = 4
    side_px: int = 64

    def input_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        return self.side_px, self.side_px

    def output_grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        return self.side_px // 16, self.side_px // 16

    def preprocess(self, image: Image.Image) -> Tensor:
        require_rgb(image)
        return resize_antialiased(image, self.side_px, self.side_px)

    def build(self, device: str = "cpu") -> "EdgesTeacher":
        network = build_seeded(lambda: nn.Conv2d(3, self.num_channels, 16, stride=16), seed=0)
        return EdgesTeacher(
            network,
            num_channels=self.num_channels,
            geometry=self,
            identity={"kind": self.kind, "side_px": self.side_px},
            dtype=real_dtype(self, device),
            device=device,
            compiled=wants_compilation(self, device),
        )


class EdgesTeacher(ModuleTeacher):
    def _features(self, batch: Tensor) -> Tensor:
        return self._module(batch)
'''


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path; what a test imports from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def install(site: Path, name: str, entry: str, module: str, source: str) -> None:
    """Puts a module and its distribution's metadata where an installer would."""
    (site / f"{module}.py").write_text(source)
    metadata = site / f"{name}-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (metadata / "entry_points.txt").write_text(f"[sailloft.teachers]\n{entry}\n")


@pytest.fixture
def edges(site: Path) -> Path:
    install(site, "sailloft-edges", "edges = sailloft_edges:EdgesConfig", "sailloft_edges", MODULE)
    return site


@pytest.mark.usefixtures("edges")
def test_an_installed_teacher_is_like_a_built_in_one() -> None:
    assert known_kinds() == sorted([*TEACHERS, "edges"])
    config = parse_teacher({"kind": "edges", "side_px": 32})
    assert parse_teacher(config.model_dump(mode="json")) == config
    teacher = config.build()
    assert teacher_card(config).fingerprint == teacher.fingerprint
    features = teacher.forward(teacher.preprocess(textured_image(50, 70))[None])
    assert tuple(features.shape) == (1, 4, *config.output_grid(50, 70))
    assert bool(torch.isfinite(features).all())


@pytest.mark.usefixtures("edges")
def test_recipes_take_installed_teachers() -> None:
    recipe = load_recipe("demo", ["teachers=[{kind: edges, num_channels: 6}, {kind: sam2}]"])
    assert [teacher.kind for teacher in recipe.teachers] == ["edges", "sam2"]
    dumped = recipe.model_dump(mode="json")
    assert dumped["teachers"][0]["num_channels"] == 6
    assert type(recipe).model_validate(dumped) == recipe
    with pytest.raises(UsageError, match=r"teachers\.0\.num_chanels: no such field .* did you mean num_channels\?"):
        load_recipe("demo", ["teachers=[{kind: edges, num_chanels: 6}]"])
    with pytest.raises(
        UsageError, match=r"teachers\.0: unknown teacher 'edge'; known: edges, mask2former, radio, sam2"
    ):
        load_recipe("demo", ["teachers=[{kind: edge}]"])


def test_without_the_distribution_the_kind_is_unknown() -> None:
    with pytest.raises(UnknownKind, match="unknown teacher 'edges'; known: mask2former, radio, sam2"):
        parse_teacher({"kind": "edges"})


@pytest.mark.parametrize(
    ("entry", "source", "message"),
    [
        ("bad = bad_teacher:Config", "raise RuntimeError('no such thing')", "can't be imported: RuntimeError: no such"),
        ("bad = bad_teacher:Config", "import absent_library", "can't be imported: ModuleNotFoundError"),
        ("bad = bad_teacher:Config", "", "can't be imported: AttributeError"),
        ("bad = bad_teacher:Config", "class Config: pass", "expected a subclass of teachers.base.BaseTeacherConfig"),
        ("bad = bad_teacher:EdgesConfig", MODULE, r'expected its class to have the field kind: Literal\["bad"\]'),
    ],
)
def test_a_broken_distribution_is_named(site: Path, entry: str, source: str, message: str) -> None:
    install(site, "sailloft-bad", entry, "bad_teacher", source)
    assert "bad" in known_kinds()
    assert parse_teacher({"kind": "sam2"}).kind == "sam2"
    with pytest.raises(
        UsageError, match=rf"teacher bad of the distribution sailloft-bad 1\.2 \(bad_teacher:.*{message}"
    ):
        parse_teacher({"kind": "bad"})
    with pytest.raises(UsageError, match=r"teachers\.0: teacher bad of the distribution sailloft-bad"):
        load_recipe("demo", ["teachers=[{kind: bad}]"])


@pytest.mark.usefixtures("edges")
def test_two_distributions_of_one_kind_are_named(site: Path) -> None:
    install(site, "other-edges", "edges = other_edges:EdgesConfig", "other_edges", MODULE)
    with pytest.raises(UsageError, match=r"offered by other-edges 1\.2, sailloft-edges 1\.2; uninstall all but one"):
        teacher_class("edges")


def test_built_in_teachers_are_not_shadowed(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "sailloft-evil", "sam2 = evil:EdgesConfig", "evil", "raise SystemExit")
    registry._note_shadowed.cache_clear()
    with caplog.at_level(logging.WARNING, logger="teachers"):
        assert teacher_class("sam2") is TEACHERS["sam2"]
        assert teacher_class("sam2") is TEACHERS["sam2"]
    assert caplog.text.count("teacher sam2 of sailloft-evil 1.2 isn't used") == 1
