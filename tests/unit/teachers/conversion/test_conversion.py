"""Converters of official checkpoints: what they infer, what they carry, what they refuse."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from storage.errors import DataError, SourceError, UnsafePickle, UsageError
from teachers.conversion import convert_official, looks_official
from teachers.conversion.mask2former import mask2former_architecture
from teachers.conversion.sam2 import sam2_architecture
from teachers.conversion.testing import official_mask2former, official_sam2
from teachers.conversion.weights import OfficialWeights
from teachers.mask2former import Mask2FormerTeacherConfig
from teachers.mask2former_sizes import MASK2FORMER_SIZES, Mask2FormerArchitecture
from teachers.sam2 import Sam2TeacherConfig
from teachers.sam2_sizes import SAM2_SIZES, Sam2Architecture, Sam2Details
from teachers.testing import textured_image

SMALL_SAM2 = Sam2Architecture(
    embed_dim=8,
    blocks=(1, 2, 2, 1),
    num_heads=2,
    window_sizes=(8, 4, 8, 4),
    global_attention_blocks=(4,),
    num_channels=16,
)
SMALL_MASK2FORMER = Mask2FormerArchitecture(
    embed_dim=12,
    depths=(1, 2, 1, 1),
    num_heads=(1, 2, 3, 4),
    window_size=3,
    mlp_ratio=2.0,
    num_channels=32,
    num_mask_channels=16,
    num_encoder_layers=2,
    num_encoder_heads=4,
    encoder_feedforward_channels=24,
)
DETAILS = Sam2Details(num_heads=2, window_sizes=(8, 4, 8, 4), global_attention_blocks=(4,))


def write_sam2(path: Path, weights: Mapping[str, Tensor]) -> Path:
    torch.save({"model": dict(weights)}, path)
    return path


def write_mask2former(path: Path, weights: Mapping[str, Tensor]) -> Path:
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody", "matching_heuristics": False}, 2))
    return path


@pytest.mark.parametrize("size", SAM2_SIZES)
def test_published_sam2_sizes_are_recognised(size: str) -> None:
    weights = OfficialWeights("here", official_sam2(SAM2_SIZES[size], device="meta"))
    assert sam2_architecture(weights, Sam2Details()) == (SAM2_SIZES[size], size)


@pytest.mark.parametrize("size", MASK2FORMER_SIZES)
def test_published_mask2former_sizes_are_recognised(size: str) -> None:
    weights = OfficialWeights("here", official_mask2former(MASK2FORMER_SIZES[size], device="meta"))
    assert mask2former_architecture(weights) == (MASK2FORMER_SIZES[size], size)


def test_sam2_of_another_size_needs_details(tmp_path: Path) -> None:
    path = write_sam2(tmp_path / "small.pt", official_sam2(SMALL_SAM2))
    with pytest.raises(
        UsageError, match=r"none of the published sizes .* don't tell num_heads, window_sizes, global_a"
    ):
        convert_official(path)
    with pytest.raises(UsageError, match="don't tell window_sizes"):
        convert_official(path, Sam2Details(num_heads=2, global_attention_blocks=(4,)))
    with pytest.raises(UsageError, match="expected window_sizes to begin with 8"):
        convert_official(path, DETAILS.model_copy(update={"window_sizes": (4, 4, 8, 4)}))
    for blocks in ((3,), (4, 6)):
        with pytest.raises(UsageError, match=r"from 0 to 5 without \[1, 3, 5\]"):
            convert_official(path, DETAILS.model_copy(update={"global_attention_blocks": blocks}))
    converted = convert_official(path, DETAILS)
    assert converted.kind == "sam2"
    assert converted.size is None
    assert Sam2Architecture.of(converted.config.vision_config) == SMALL_SAM2


def test_details_decide_the_features_and_so_the_fingerprint(tmp_path: Path) -> None:
    path = str(write_sam2(tmp_path / "small.pt", official_sam2(SMALL_SAM2)))
    inputs = Sam2TeacherConfig(image_size_px=64).preprocess(textured_image(64, 64))[None]
    teachers = [
        Sam2TeacherConfig(checkpoint=path, image_size_px=64, details=DETAILS.model_copy(update=update)).build()
        for update in ({}, {"num_heads": 1}, {"global_attention_blocks": (2,)}, {"top_down_levels": (3,)})
    ]
    assert len({teacher.fingerprint for teacher in teachers}) == len(teachers)
    features = [teacher.forward(inputs) for teacher in teachers]
    assert all(not torch.equal(features[0], other) for other in features[1:])


def test_usual_networks_are_fingerprinted_by_their_weights_alone() -> None:
    for architecture in SAM2_SIZES.values():
        assert architecture.unusual() == {}
    assert SMALL_SAM2.unusual() == {"num_heads": 2}
    assert SMALL_SAM2.model_copy(update={"num_heads": 1}).unusual() == {}


def test_mask2former_loads_without_details(tmp_path: Path) -> None:
    path = write_mask2former(tmp_path / "small.pkl", official_mask2former(SMALL_MASK2FORMER))
    converted = convert_official(path)
    assert converted.kind == "mask2former"
    assert "sem_seg_head.predictor.query_feat.weight" in converted.unused
    teacher = Mask2FormerTeacherConfig(checkpoint=str(path), short_side_px=64, long_side_px=128).build()
    assert teacher.num_channels == 16
    assert bool(torch.isfinite(teacher.forward(teacher.preprocess(textured_image(60, 80))[None])).all())
    with pytest.raises(UsageError, match="tell its whole architecture, got num_heads; leave it out"):
        convert_official(path, Sam2Details(num_heads=2))


def test_a_file_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    path = write_mask2former(tmp_path / "small.pkl", official_mask2former(SMALL_MASK2FORMER))
    with pytest.raises(DataError, match="expected a checkpoint for a teacher sam2, got one for mask2former"):
        Sam2TeacherConfig(checkpoint=str(path)).build()


@pytest.mark.parametrize("config", [Sam2TeacherConfig, Mask2FormerTeacherConfig], ids=["sam2", "mask2former"])
def test_absent_files_are_named(
    config: type[Sam2TeacherConfig] | type[Mask2FormerTeacherConfig], tmp_path: Path
) -> None:
    for name in ("absent.pt", "absent.pkl"):
        with pytest.raises(FileNotFoundError, match=f"no such checkpoint file.*{name}"):
            config(checkpoint=str(tmp_path / name)).build()


def test_torch_files_of_mask2former_and_bare_state_dicts_are_read(tmp_path: Path) -> None:
    torch.save(
        {"model": official_mask2former(SMALL_MASK2FORMER), "iteration": 3, "optimizer": {"state": {}}},
        tmp_path / "model_final.pth",
    )
    assert convert_official(tmp_path / "model_final.pth").kind == "mask2former"
    torch.save(official_sam2(SMALL_SAM2), tmp_path / "bare.pt")
    assert convert_official(tmp_path / "bare.pt", DETAILS).kind == "sam2"


@pytest.mark.parametrize(
    "name", ["image_encoder.trunk.blocks.2.mlp.layers.1.bias", "image_encoder.neck.convs.3.conv.weight", "no_mem_embed"]
)
def test_missing_sam2_weights_are_named(tmp_path: Path, name: str) -> None:
    weights = official_sam2(SMALL_SAM2)
    del weights[name]
    with pytest.raises(DataError, match=f"1 weights of the feature network are missing: {name}"):
        convert_official(write_sam2(tmp_path / "small.pt", weights), DETAILS)


@pytest.mark.parametrize(
    "name",
    [
        "backbone.layers.1.blocks.1.attn.proj.bias",
        "backbone.layers.3.blocks.0.attn.relative_position_bias_table",
        "sem_seg_head.pixel_decoder.adapter_1.norm.weight",
        "sem_seg_head.pixel_decoder.transformer.level_embed",
    ],
)
def test_missing_mask2former_weights_are_named(tmp_path: Path, name: str) -> None:
    weights = official_mask2former(SMALL_MASK2FORMER)
    del weights[name]
    with pytest.raises(DataError, match=f"1 weights of the feature network are missing: {name}"):
        convert_official(write_mask2former(tmp_path / "small.pkl", weights))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("backbone.absolute_pos_embed", (1, 12, 8, 8), "a Swin without absolute position embeddings"),
        ("sem_seg_head.pixel_decoder.input_proj.3.0.weight", (1,), "attends to 3 levels"),
        ("sem_seg_head.pixel_decoder.adapter_2.weight", (1,), "one level above the attended ones"),
        ("backbone.patch_embed.proj.weight", (12, 3, 8, 8), r"patches of 4 x 4 px, got \(8, 8\)"),
        (
            "backbone.layers.2.blocks.0.attn.relative_position_bias_table",
            (49, 3),
            "one square window in every stage",
        ),
        ("backbone.layers.1.blocks.0.mlp.fc1.weight", (7, 24), "don't fit each other"),
    ],
)
def test_networks_of_other_forms_are_refused(tmp_path: Path, name: str, shape: tuple[int, ...], message: str) -> None:
    weights = official_mask2former(SMALL_MASK2FORMER) | {name: torch.zeros(shape)}
    path = write_mask2former(tmp_path / "odd.pkl", weights)
    with pytest.raises(DataError, match=message):
        Mask2FormerTeacherConfig(checkpoint=str(path)).build()


def test_stages_that_do_not_double_are_refused(tmp_path: Path) -> None:
    weights = official_sam2(SMALL_SAM2)
    weights["image_encoder.trunk.blocks.1.attn.proj.weight"] = torch.zeros(12, 12)
    with pytest.raises(DataError, match=r"twice the channels .* got blocks of \[8, 12, 16"):
        convert_official(write_sam2(tmp_path / "odd.pt", weights), DETAILS)


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"fc.weight": torch.zeros(3)}}, tmp_path / "other.pt")
    with pytest.raises(DataError, match=r"expected a checkpoint of SAM 2 or of Mask2Former .* found 1 other tensors"):
        convert_official(tmp_path / "other.pt")
    torch.save({"model": {"x": Path("x")}}, tmp_path / "unsafe.pt")
    with pytest.raises(UnsafePickle, match="expected tensors alone"):
        convert_official(tmp_path / "unsafe.pt")
    (tmp_path / "torn.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:300])
    with pytest.raises(SourceError, match="can't be read"):
        convert_official(tmp_path / "torn.pt")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(SourceError, match="expected weights by name, got list"):
        convert_official(tmp_path / "list.pkl")
    (tmp_path / "objects.pkl").write_bytes(pickle.dumps({"model": {"w": np.array([None, "x"], object)}}))
    with pytest.raises(SourceError, match="w: expected plain numbers, got an object array"):
        convert_official(tmp_path / "objects.pkl")
    (tmp_path / "weights.npz").write_bytes(b"")
    with pytest.raises(SourceError, match=r"expected a file \.pt, \.pth, \.pkl"):
        convert_official(tmp_path / "weights.npz")


def test_official_files_are_told_from_others(tmp_path: Path) -> None:
    assert looks_official(write_sam2(tmp_path / "small.pt", official_sam2(SMALL_SAM2)))
    torch.save({"model": {"fc.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    assert not looks_official(tmp_path / "other.pth")
    assert not looks_official(tmp_path / "absent.pt")
    assert not looks_official(tmp_path)
