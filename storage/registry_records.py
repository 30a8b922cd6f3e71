"""What a registry of students keeps: versions, and events that say what became of them.

Every record carries its own content key, so that a torn or altered one is told apart from a wrong one.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from storage.errors import CorruptObject
from storage.keys import Json, canonical_json, content_key
from storage.stage_notes import CodeVersion

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "Comparison",
    "Event",
    "Figure",
    "Happening",
    "RetrainPlan",
    "StoredOutput",
    "Version",
    "VersionFacts",
    "decode_record",
    "encode_record",
]

CHAMPION = "champion"
"""Alias of the version that is in use."""
CHALLENGER = "challenger"
"""Alias of the version that was registered last, until it becomes the champion."""

_FORMAT = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


RecordT = TypeVar("RecordT", bound=_Record)


class StoredOutput(_Record):
    """An output of a stage."""

    key: str
    """Its content key."""
    url: str
    """Where it lies."""


class VersionFacts(_Record):
    """What is known of a trained student when it is registered."""

    checkpoint: StoredOutput
    """The student."""
    corpora: tuple[StoredOutput, ...]
    """Corpora that it was trained on."""
    features: dict[str, StoredOutput] = Field(default_factory=dict[str, StoredOutput])
    """Teachers' features that it was trained on, by the teacher's kind: what the store says of the corpus."""
    scores: tuple[StoredOutput, ...] = ()
    """Its evaluations."""
    recipe: str
    """The resolved recipe that gives this student, as YAML, without secrets."""
    recipe_key: str
    """Content key of that recipe."""
    code: CodeVersion
    """The program that registered it; who computed what stands in the notes of the stages."""
    parent: int | None = None
    """Version that its training started from, the champion of that time; None: it began by itself."""
    retrain_key: str | None = None
    """Content key of what the retrain was of that made it; None: it was registered by hand."""


class Version(VersionFacts):
    """A registered student."""

    number: int = Field(ge=1)
    """Counts from 1."""


class Happening(StrEnum):
    """What happens to a version."""

    REGISTERED = "registered"
    PROMOTED = "promoted"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"


class Figure(_Record):
    """One score of champion and challenger, as fractions, with the paired interval of their difference."""

    role: Literal["decides", "guarded"]
    """Why it was looked at."""
    benchmark: str
    variant: str
    metric: str
    champion: float
    challenger: float
    low: float
    """Lower end of the interval of `challenger - champion`."""
    high: float
    """Upper end."""
    num_samples: int
    num_images: int


class Comparison(_Record):
    """What a decision was taken by."""

    champion: int
    """Version that the challenger was compared with."""
    champion_scores: StoredOutput
    """Evaluation of the champion, on the same samples."""
    challenger_scores: StoredOutput
    """Evaluation of the challenger."""
    figures: tuple[Figure, ...]


class Event(_Record):
    """One happening, and how things stand since."""

    number: int = Field(ge=1)
    """Counts from 1."""
    happening: Happening
    version: int
    """Version that it is about."""
    aliases: dict[str, int]
    """All aliases from here on: `champion` and `challenger`, as far as there are any."""
    num_versions: int
    """Versions that are registered from here on, which are numbered from 1."""
    reasons: tuple[str, ...] = ()
    """Why."""
    comparison: Comparison | None = None
    """By what figures; None: by none."""
    retrain_key: str | None = None
    """See `VersionFacts.retrain_key`; None: it was done by hand."""
    at: str
    """When, in UTC, by the clock of who did it."""
    nonce: str
    """Tells two writers apart who write the same."""

    @model_validator(mode="after")
    def _of_versions(self) -> Event:
        if not {self.version, *self.aliases.values()} <= set(range(1, self.num_versions + 1)):
            raise ValueError(f"expected versions of 1 to {self.num_versions}, got {self.version} and {self.aliases}")
        return self

    @property
    def champion(self) -> int | None:
        """Version that is in use; None: there is none yet."""
        return self.aliases.get(CHAMPION)


class RetrainPlan(_Record):
    """What one retrain starts from, noted before it begins, so that a repeat starts from the same."""

    retrain_key: str
    champion: int | None
    """Version that training starts from; None: it begins by itself."""
    after_event: int
    """Number of the newest event of that moment; 0: there was none."""


def encode_record(record: _Record) -> bytes:
    """A record's bytes: canonical JSON with its content key."""
    content: dict[str, Json] = {"format": _FORMAT, **cast("dict[str, Json]", record.model_dump(mode="json"))}
    return canonical_json({**content, "key": content_key(content)})


def decode_record(kind: type[RecordT], data: bytes, url: str) -> RecordT:
    """The inverse of `encode_record`.

    Args:
        kind: class of the record.
        data: its bytes.
        url: where they lie, for messages.

    Raises:
        CorruptObject: they are torn or altered, or those of another record or version.
    """
    what = f"expected a record of a registry ({kind.__name__})"
    try:
        value: Any = json.loads(data)
        content = {name: item for name, item in value.items() if name != "key"}
        key = content_key(content)
    except (ValueError, AttributeError) as error:  # no JSON, no mapping, or numbers that JSON hasn't
        raise CorruptObject(f"{url}: {what}, found something else: {error}; restore it") from error
    if key != value.get("key"):
        raise CorruptObject(f"{url}: {what}, but its hash doesn't match: it was altered; restore it")
    if content.pop("format", None) != _FORMAT:
        raise CorruptObject(f"{url}: {what} of format {_FORMAT}, found {value.get('format')!r}; use a newer Sailloft")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise CorruptObject(f"{url}: {what}, got {place}: {first['msg']}; restore it") from error
