"""Published benchmarks by name, as `evaluation.suite` takes them: one benchmark per published split."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pipelines.evaluation.benchmarks.captions import RegionCaptionConfig
from pipelines.evaluation.benchmarks.grounded import GroundedCaptionConfig
from pipelines.evaluation.benchmarks.perbench import PerBenchConfig
from pipelines.evaluation.benchmarks.referring import ReferringConfig
from pipelines.evaluation.benchmarks.registry import AnyBenchmarkConfig
from pipelines.evaluation.records import Variant
from storage.schema import Task

__all__ = ["SUITES", "SuiteName"]

SuiteName: TypeAlias = Literal[
    "refcoco", "refcoco+", "refcocog", "grefcoco", "reason_seg", "region_caption", "gcg", "perbench", "published"
]

_ALONE = (Variant.STANDARD,)


def _res(title: str, family: str, splits: dict[str, str]) -> tuple[ReferringConfig, ...]:
    """One benchmark per split; `splits` leads from ours to the published name."""
    return tuple(
        ReferringConfig(
            name=f"{title} {split}",
            families=(family,),
            splits=(split,),
            variants=_ALONE,
            protocol="gres" if family == "grefcoco" else "res",
            published=(title, published),
        )
        for split, published in splits.items()
    )


_THREE = {split: split for split in ("val", "testA", "testB")}
_SINGLE: dict[SuiteName, tuple[AnyBenchmarkConfig, ...]] = {
    "refcoco": _res("RefCOCO", "refcoco", _THREE),
    "refcoco+": _res("RefCOCO+", "refcoco+", _THREE),
    "refcocog": _res("RefCOCOg", "refcocog", {"val": "val(U)", "test": "test(U)"}),
    "grefcoco": _res("gRefCOCO", "grefcoco", _THREE),
    "reason_seg": tuple(
        ReferringConfig(
            name=f"ReasonSeg {split}",
            families=("reason_seg",),
            splits=(split,),
            tasks=(Task.REASONING,),
            variants=_ALONE,
            protocol="res",
        )
        for split in ("val", "test")
    ),
    "region_caption": (
        RegionCaptionConfig(
            name="RefCOCOg region caption",
            families=("region_caption",),
            splits=("val",),
            variants=_ALONE,
            published=("RefCOCOg region caption", "val"),
        ),
    ),
    "gcg": tuple(
        GroundedCaptionConfig(
            name=f"GCG {split}",
            families=("gcg_grandf", "gcg_refcocog", "gcg_openpsg", "gcg_flickr"),
            splits=(split,),
        )
        for split in ("val", "test")
    ),
    "perbench": (PerBenchConfig(name="PerBench"),),
}

SUITES: dict[SuiteName, tuple[AnyBenchmarkConfig, ...]] = {
    **_SINGLE,
    "published": tuple(benchmark for suite in _SINGLE.values() for benchmark in suite),
}
"""Benchmarks of each suite; `published` is all of them. RefCOCOg's splits are those of UMD.

A benchmark that the corpus has no sample of is named below the table, see `gaps`.
"""
