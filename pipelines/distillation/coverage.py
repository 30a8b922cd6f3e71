"""The statement that a store holds what one corpus needs: the output of `teach`."""

from __future__ import annotations

from typing import cast

from pipelines.distillation.census import Census
from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.plan import coverage_key, coverage_path
from storage.corpus import write_rejects
from storage.feature_index import PartDescription
from storage.keys import Json
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, Reject, RejectReason
from teachers.registry import TeacherConfig

__all__ = ["publish_coverage"]


def publish_coverage(
    output: Objects,
    corpus: str,
    census: Census,
    description: PartDescription,
    teacher: TeacherConfig,
    features: FeaturesConfig,
    address: str,
) -> Manifest:
    """States what a store holds of a corpus; nothing in it depends on when which image was taught.

    Args:
        output: prefix of the store.
        corpus: key of the corpus.
        census: of the images that it needs, all of which the store knows.
        description: of all parts of the store.
        teacher: whose features.
        features: as resolved.
        address: key of the store.
    """
    rejects = [
        Reject(
            family=f"teacher {teacher.kind}",
            source_file="images",
            locator=image_id,
            reason=RejectReason.TEACHER_FAILED,
            detail=reason,
        )
        for image_id, reason in census.rejected().items()
    ]
    facts: dict[str, Json] = {
        "num_images": census.counts().present,
        "num_rejected": len(rejects),
        "rejects": {str(RejectReason.TEACHER_FAILED): len(rejects)} if rejects else {},
        "description": None if census.snapshot is None else description.to_json(),
    }
    key = coverage_key(address, corpus, features)
    coverage = output.child(coverage_path(key))
    manifest = Manifest(
        kind="teach",
        key=key,
        schema_version=SCHEMA_VERSION,
        recipe=cast("dict[str, Json]", {"teacher": teacher.hashed_fields(), "features": features.hashed_fields()}),
        inputs={"corpus": corpus, "store": address},
        files=(write_rejects(coverage, "rejects", rejects),),
        facts=facts,
    )
    return publish(coverage, manifest)
