"""torch.distributed.checkpoint on an object store: tensors as safetensors, what describes them as JSON, no pickles.

torch's own writer for files renames and appends, which object stores can't, and keeps its index as a
pickle, which would run whatever a foreign store holds.

A saved state is a folder:

    <attempt>-<rank>-<number>.safetensors   what one rank wrote, in pieces
    <attempt>-index.json                    which piece holds which part of which tensor
    <attempt>-progress.json                 all that isn't a tensor
    manifest.json                           written last, by the first rank: now the state exists

An attempt to write it has a random name in each rank, so that one that died, or only seemed to, can't
disturb the next.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from storage.errors import CorruptObject
from storage.keys import Json, bytes_key, canonical_json
from storage.manifest import MANIFEST_NAME, FileEntry, Manifest
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION

__all__ = ["StateReader", "StateWriter"]

_PROGRESS, _INDEX = "progress.json", "index.json"
_PIECE_BYTES = 256 * 2**20
"""A piece is closed once it has as much: it bounds what is held beside the state itself."""


class StateWriter(StorageWriter):
    """Writes one state into a folder.

    Args:
        folder: where.
        step: what the state is named after.
        progress: all that isn't a tensor; the first rank's is written.
        published: called by the first rank once the state exists.
    """

    def __init__(self, folder: Objects, step: int, progress: Mapping[str, Json], published: Callable[[], None]) -> None:
        self._folder, self._step, self._published = folder, step, published
        self._progress = canonical_json(dict(progress))
        self._attempt = secrets.token_hex(4)
        self._rank = 0

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A writer is for one state; nothing to do."""

    def storage_meta(self) -> StorageMeta | None:
        """Nothing that torch needs to know."""
        return None

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Is told this rank's number."""
        self._rank = int(kwargs.get("rank") or 0)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As torch plans it."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """As torch plans it: what several ranks hold is divided among them."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes this rank's part, piece by piece."""
        results: list[WriteResult] = []
        piece: dict[str, Tensor] = {}
        held: list[MetadataIndex] = []
        size_bytes = 0

        def close() -> None:
            nonlocal size_bytes
            path = f"{self._attempt}-{self._rank:05d}-{len(results):05d}.safetensors"
            data = to_safetensors(piece)
            self._folder.create(path, data)
            entry = FileEntry.of(path, data)
            results.extend(WriteResult(index, entry.size_bytes, entry) for index in held)
            piece.clear()
            held.clear()
            size_bytes = 0

        for item in plan.items:
            tensor = cast("Tensor", planner.resolve_data(item)).detach().cpu().contiguous()
            # A view of a larger tensor would be written with all of it.
            piece[_name(item.index)] = tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
            held.append(item.index)
            size_bytes += tensor.nbytes
            if size_bytes >= _PIECE_BYTES:
                close()
        if piece:
            close()
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Writes, on the first rank and once all have written, what makes the state exist."""
        written = {result.index: cast("FileEntry", result.storage_data) for rank in results for result in rank}
        files = {entry.path: entry for entry in written.values()}
        for name, data in ((_INDEX, _index(metadata, written)), (_PROGRESS, self._progress)):
            path = f"{self._attempt}-{name}"
            self._folder.create(path, data)
            files[path] = FileEntry.of(path, data)
        manifest = Manifest(
            kind="training_state",
            key=f"step-{self._step:08d}",
            schema_version=SCHEMA_VERSION,
            recipe={},
            inputs={},
            files=tuple(files.values()),
            facts={"step": self._step, "attempt": self._attempt},
        )
        # Another attempt at this step may have been less dead than it seemed: its state is as good.
        if self._folder.create(MANIFEST_NAME, manifest.to_json()):
            others = [info.key for info in self._folder.list() if info.key not in {*files, MANIFEST_NAME}]
            self._folder.delete_many(others)
        self._published()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Folders are given as `Objects`, not by torch's ids."""
        return False


class StateReader(StorageReader):
    """Reads a state, by any number of ranks and into tensors sharded in any way.

    Args:
        folder: of the state.
        manifest: its manifest.
    """

    def __init__(self, folder: Objects, manifest: Manifest) -> None:
        self._folder = folder
        self._entries = {entry.path: entry for entry in manifest.files}
        self._attempt = str(manifest.facts["attempt"])
        self._places: Mapping[MetadataIndex, str] = {}

    def progress(self) -> dict[str, Json]:
        """All that isn't a tensor."""
        return cast("dict[str, Json]", json.loads(self._read(f"{self._attempt}-{_PROGRESS}")))

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A reader is for one state; nothing to do."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Names, types and sizes of the tensors, and where their parts lie."""
        return _metadata(json.loads(self._read(f"{self._attempt}-{_INDEX}")))

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Remembers where the parts lie."""
        self._places = cast("Mapping[MetadataIndex, str]", metadata.storage_data)

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As torch plans it."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As torch plans it."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads the pieces in which this rank's parts lie, each once and whole, so that its hash can be checked."""
        by_piece: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            by_piece.setdefault(self._places[item.storage_index], []).append(item)
        for path, items in by_piece.items():
            tensors = from_safetensors(self._read(path))
            for item in items:
                part = tensors[_name(item.storage_index)]
                for axis, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                    part = part.narrow(axis, start, length)
                target = planner.resolve_tensor(item).detach()
                target.copy_(part)
                planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Folders are given as `Objects`, not by torch's ids."""
        return False

    def _read(self, path: str) -> bytes:
        entry = self._entries[path]
        data = self._folder.read(path)
        if len(data) != entry.size_bytes or bytes_key(data) != entry.sha256:
            raise CorruptObject(
                f"{self._folder.url}/{path}: expected {entry.size_bytes} bytes with SHA-256 {entry.sha256}, found "
                f"{len(data)} bytes with {bytes_key(data)}; delete the folder to go on from the state before it"
            )
        return data


def _name(index: MetadataIndex) -> str:
    """Name of a part inside its piece: that of the tensor, and where in it the part begins."""
    return f"{index.fqn}@{','.join(map(str, index.offset or ()))}"


def _index(metadata: Metadata, written: Mapping[MetadataIndex, FileEntry]) -> bytes:
    tensors: dict[str, Json] = {}
    for name, held in metadata.state_dict_metadata.items():
        assert isinstance(held, TensorStorageMetadata), name
        tensors[name] = {
            "dtype": str(held.properties.dtype).removeprefix("torch."),
            "size": list(held.size),
            "parts": [
                {
                    "offsets": list(chunk.offsets),
                    "sizes": list(chunk.sizes),
                    "file": written[MetadataIndex(name, chunk.offsets)].path,
                }
                for chunk in held.chunks
            ],
        }
    return canonical_json(tensors)


def _metadata(index: Mapping[str, Any]) -> Metadata:
    described: dict[str, Any] = {}
    places: dict[MetadataIndex, str] = {}
    for name, tensor in index.items():
        parts: Sequence[Mapping[str, Any]] = tensor["parts"]
        described[name] = TensorStorageMetadata(
            TensorProperties(dtype=getattr(torch, tensor["dtype"])),
            torch.Size(tensor["size"]),
            [ChunkStorageMetadata(_size(part["offsets"]), _size(part["sizes"])) for part in parts],
        )
        places |= {MetadataIndex(name, part["offsets"]): part["file"] for part in parts}
    return Metadata(state_dict_metadata=described, storage_data=places)


def _size(numbers: Iterable[int]) -> torch.Size:
    return torch.Size(list(numbers))
