from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from torch import nn

from jobs.config import load_recipe
from storage.errors import UsageError
from teachers import base
from teachers.device import default_batch_size, on_device, real_dtype, wants_compilation
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.radio import RadioTeacherConfig
from teachers.registry import teacher_card
from teachers.sam2 import Sam2TeacherConfig


def test_auto_is_bfloat16_on_cuda_alone() -> None:
    config = Sam2TeacherConfig(dtype="auto")
    assert [real_dtype(config, device) for device in ("cpu", "cuda", "cuda:1", "mps")] == [
        "float32",
        "bfloat16",
        "bfloat16",
        "float32",
    ]
    assert on_device(config, "cuda").dtype == "bfloat16"
    named = Sam2TeacherConfig(dtype="float16")
    assert on_device(named, "cuda") is named
    assert real_dtype(named, "cpu") == "float16"


def test_fingerprints_name_the_real_dtype() -> None:
    auto = Sam2TeacherConfig(dtype="auto", image_size_px=64)
    with pytest.raises(UsageError, match="its fingerprint names the real dtype, got auto; resolve it"):
        teacher_card(auto)
    assert auto.build("cpu").fingerprint == Sam2TeacherConfig(image_size_px=64).build().fingerprint
    for device, dtype in (("cpu", "float32"), ("cuda", "bfloat16")):
        card = teacher_card(on_device(auto, device))
        assert card == teacher_card(Sam2TeacherConfig.model_validate({"image_size_px": 64, "dtype": dtype}))


@pytest.mark.parametrize(("num_gpus", "dtype"), [(0, "float32"), (0.5, "bfloat16")])
def test_a_recipe_resolves_auto_by_the_gpus_that_teachers_get(num_gpus: float, dtype: str) -> None:
    overrides = ["teachers.0.dtype=auto", "teachers.1.dtype=float16", f"features.num_gpus_per_actor={num_gpus}"]
    recipe = load_recipe("demo", overrides)
    assert [teacher.dtype for teacher in recipe.teachers] == [dtype, "float16"]
    assert type(recipe).model_validate(recipe.model_dump(mode="json")) == recipe


def test_compilation_is_left_out_of_fingerprints_and_noted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = Sam2TeacherConfig(compile=True, image_size_px=64)
    assert "compile" not in config.hashed_fields()
    compiled: list[nn.Module] = []

    def compile_module(module: nn.Module) -> nn.Module:
        compiled.append(module)
        return module

    monkeypatch.setattr(base.torch, "compile", compile_module)
    with caplog.at_level(logging.INFO, logger="teachers"):
        teacher = config.build()
    plain = Sam2TeacherConfig(image_size_px=64).build()
    assert len(compiled) == 1
    assert teacher.fingerprint == plain.fingerprint
    assert "compiled; the last bits may differ" in caplog.text
    assert teacher_card(config) is teacher_card(Sam2TeacherConfig(image_size_px=64))


@pytest.mark.parametrize(
    ("choice", "device", "expected"),
    [("auto", "cpu", False), ("auto", "cuda:0", True), (True, "cpu", True), (False, "cuda", False)],
)
def test_auto_compiles_on_cuda(choice: object, device: str, expected: bool) -> None:
    assert wants_compilation(Sam2TeacherConfig.model_validate({"compile": choice}), device) is expected


COMPILED = """
import torch
from teachers.radio import RadioTeacherConfig
from teachers.testing import textured_image

plain, compiled = (RadioTeacherConfig(compile=choice, image_size_px=64).build() for choice in (False, True))
inputs = torch.stack([plain.preprocess(textured_image(64, 64, seed)) for seed in range(2)])
expected = plain.forward(inputs)
assert plain.fingerprint == compiled.fingerprint
print(float((compiled.forward(inputs) - expected).abs().max() / expected.std()))
"""


@pytest.mark.slow
def test_a_compiled_teacher_gives_the_same_features() -> None:
    # In a process of its own: the compiler can't see through the checks of types that tests put on every function.
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=True)
    # Fused kernels sum in another order; measured: 8e-7 (RADIO), 2e-6 (SAM 2), 4e-6 (Mask2Former).
    assert float(done.stdout) <= 1e-5


def test_batches_fit_the_kind_of_device() -> None:
    sizes = {
        (type(config).__name__, device): default_batch_size(config, device)
        for config in (
            Mask2FormerTeacherConfig(),
            Sam2TeacherConfig(),
            Sam2TeacherConfig(image_size_px=128),
            RadioTeacherConfig(image_size_px=64),
        )
        for device in ("cpu", "cuda")
    }
    assert sizes["Mask2FormerTeacherConfig", "cpu"] == 1
    assert sizes["Mask2FormerTeacherConfig", "cuda"] == 16
    assert sizes["Sam2TeacherConfig", "cuda"] == 64  # the small one
    assert sizes["RadioTeacherConfig", "cpu"] == 64
    assert default_batch_size(Sam2TeacherConfig(), "cuda:3") == default_batch_size(Sam2TeacherConfig(), "cuda")
    assert default_batch_size(Sam2TeacherConfig(), "mps") == default_batch_size(Sam2TeacherConfig(), "cpu")
