"""Every registered teacher meets the contract."""

from __future__ import annotations

from teachers.mask2former import Mask2FormerSizes, Mask2FormerTeacherConfig
from teachers.radio import RadioSizes, RadioTeacherConfig
from teachers.registry import TEACHERS
from teachers.sam2 import Sam2Sizes, Sam2TeacherConfig
from teachers.testing import TeacherSuite


class TestMask2Former(TeacherSuite):
    config = Mask2FormerTeacherConfig(tiny=Mask2FormerSizes(), short_side_px=96, long_side_px=200)
    changes = (
        {"short_side_px": 128},
        {"long_side_px": 160},
        {"multiple_px": 64},
        {"dtype": "bfloat16"},
        {"tiny": {"seed": 1}},
        {"tiny": {"num_channels": 64}},
    )


class TestMask2FormerPadded(TeacherSuite):
    config = Mask2FormerTeacherConfig(tiny=Mask2FormerSizes(), resize="pad", short_side_px=96, long_side_px=200)
    changes = ({"resize": "stretch"}, {"short_side_px": 128}, {"multiple_px": 64})


class TestRadio(TeacherSuite):
    config = RadioTeacherConfig(tiny=RadioSizes(), image_size_px=96)
    changes = (
        {"image_size_px": 128},
        {"patch_size_px": 32},
        {"dtype": "bfloat16"},
        {"tiny": {"seed": 1}},
        {"tiny": {"num_heads": 4}},
    )


class TestSam2(TeacherSuite):
    config = Sam2TeacherConfig(tiny=Sam2Sizes(), image_size_px=128)
    changes = (
        {"image_size_px": 96},
        {"dtype": "bfloat16"},
        {"tiny": {"seed": 1}},
        {"tiny": {"num_channels": 64}},
    )


def test_every_registered_teacher_has_a_suite() -> None:
    covered = {suite.config.kind for suite in TeacherSuite.__subclasses__()}
    assert covered == set(TEACHERS)
