"""The pictures that features were made of, from corpora: one that was named, or those that the store tells of."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from pipelines.viewer.places import above
from storage.corpus import Corpus
from storage.errors import SailloftError
from storage.manifest import Manifest, read_manifest
from storage.objects import Objects
from storage.schema import ImageRecord

__all__ = ["Originals", "coverage_statements"]

logger = logging.getLogger(__name__)

_CORPORA, _CURATED = "corpora", "curate"
_MAX_STATEMENTS = 16
"""Of a store that serves many corpora, as many are looked at."""


def coverage_statements(store: Objects) -> list[Manifest]:
    """What a store states of corpora; none where nothing can be listed.

    Raises:
        CorruptObject: a statement is damaged.
    """
    folders = store.folders(_CORPORA)[:_MAX_STATEMENTS] if store.can_list else []
    found = [read_manifest(store.child(f"{_CORPORA}/{key}")) for key in folders]
    return [manifest for manifest in found if manifest is not None and "corpus" in manifest.inputs]


class Originals:
    """Pictures by their ids. Safe to use from several threads.

    Args:
        store: prefix of the feature store; corpora are looked for in its workspace.
        statements: of the store, see `coverage_statements`.
        named: the corpus that a person named; None: those of the statements.
    """

    def __init__(self, store: Objects, statements: Sequence[Manifest], named: Corpus | None = None) -> None:
        self._store, self._statements = store, statements
        self._corpora = None if named is None else [named]
        self._lock = threading.Lock()

    @property
    def corpora(self) -> Sequence[Corpus]:
        """Where pictures are looked for; opened when they are first asked for."""
        with self._lock:
            if self._corpora is None:
                self._corpora = self._found()
            return self._corpora

    def image(self, image_id: str) -> ImageRecord | None:
        """A picture with its bytes or where they lie; None: no corpus holds it.

        Raises:
            CorruptObject: a corpus is damaged.
            InfrastructureError: a store can't be reached.
        """
        for corpus in self.corpora:
            if image_id in corpus:
                return corpus.image(image_id)
        return None

    def _found(self) -> list[Corpus]:
        workspace = above(self._store, 2)
        found: list[Corpus] = []
        for key in dict.fromkeys(manifest.inputs["corpus"] for manifest in self._statements):
            try:
                found.append(Corpus.open(workspace.child(f"{_CURATED}/{key}")))
            except SailloftError as error:  # it may lie elsewhere, or be retired: then features are shown alone
                logger.info("no pictures beside features: %s", error)
        return found
