"""Pictures read and decoded ahead of whoever takes them, by threads beside the one that makes samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import TypeAlias

from pipelines.curation.drafts import ImageFile
from pipelines.curation.intake import read_file
from pipelines.curation.records import RecordError
from pipelines.curation.steps.images import ProbedImage, decoding_quietly, look_at
from pipelines.curation.steps.paths import SourceFolder
from storage.errors import SourceError
from storage.keys import bytes_key

__all__ = ["Looked", "LookingAhead"]

Looked: TypeAlias = "tuple[bytes, ProbedImage | RecordError]"
"""The bytes of a picture's file, and what it is or why it can't be decoded."""

_LOCAL_THREADS = 3
"""Of local files: a page cache doesn't make anybody wait, and threads that decode take Python's lock from each other.
With 3, 4,000 photographs took an eighth less time than with 16."""
_PICTURES_AT_ONCE = 4
"""That a thread hands over together, so that the lock changes hands less often."""


class LookingAhead:
    """Threads that read and decode, between `with` and its end.

    Args:
        roots: URLs that number the files of pixels.
        num_threads: reads that are under way at once, where files aren't local.
        max_image_px: largest height x width that is decoded.
    """

    def __init__(self, roots: Sequence[str], num_threads: int, max_image_px: int) -> None:
        self._folders = [SourceFolder(root) for root in roots]
        are_local = all(folder.is_local for folder in self._folders)
        self._num_threads = min(num_threads, _LOCAL_THREADS) if are_local else num_threads
        self._max_image_px = max_image_px
        self._begun: dict[str, tuple[Future[list[Looked]], int]] = {}
        self._stack = ExitStack()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> LookingAhead:
        self._stack.enter_context(decoding_quietly())
        self._pool = ThreadPoolExecutor(self._num_threads)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        assert self._pool is not None, "it was entered"
        self._pool.shutdown(cancel_futures=True)
        self._stack.close()

    def begin(self, files: Mapping[str, ImageFile]) -> None:
        """Lets pictures be read and decoded, in order of their identity.

        Args:
            files: where they are, by SHA-256 of their bytes.
        """
        assert self._pool is not None, "it was entered"
        pictures = sorted(files.items())
        for start in range(0, len(pictures), _PICTURES_AT_ONCE):
            together = pictures[start : start + _PICTURES_AT_ONCE]
            future = self._pool.submit(self._look_at_all, together)
            self._begun |= {image_id: (future, place) for place, (image_id, _) in enumerate(together)}

    def take(self, image_id: str) -> Looked:
        """The bytes of a picture that was begun, and what it is; the words of an error lack its name.

        Raises:
            SourceError: its file changed since it was hashed.
            RecordError: its file isn't there any more.
        """
        future, place = self._begun.pop(image_id)
        return future.result()[place]

    def _look_at_all(self, pictures: Iterable[tuple[str, ImageFile]]) -> list[Looked]:
        return [self._look(image_id, file) for image_id, file in pictures]

    def _look(self, image_id: str, file: ImageFile) -> Looked:
        data = read_file(self._folders, file)
        if bytes_key(data) != image_id:
            raise SourceError(f"{file.path}: the file changed while it was being curated; run curate again")
        try:
            return data, look_at(data, self._max_image_px, "", image_id)
        except RecordError as error:
            return data, error
