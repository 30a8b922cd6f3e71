"""Teacher features as they are stored, brought to the device as integers and dequantised there.

    targets = stack_targets(store.read_stored(image_ids)).to("cuda")
    targets.features()                  # float32, in the teacher's channels
    targets.mean_squared_error(student) # the same error, for `klt` without rotating anything back

A batch of SAM 2 features, 16 x 256 x 64 x 64, is 67 MB as float32 and 34 MB as `klt`'s integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from storage.codecs import StoredFeature
from storage.errors import UsageError

__all__ = ["FeatureTargets", "join_targets", "plain_targets", "stack_targets"]


@dataclass(frozen=True, eq=False)
class FeatureTargets:
    """Stored features of several images on one grid; see `storage.codecs.StoredFeature` for what the fields mean."""

    values: Shaped[Tensor, "images channels rows columns"]
    """float16 or float32, int8, or int16 that holds the bits of zigzag codes."""
    scale: Float[Tensor, "images channels_or_one"] | None
    offset: Float[Tensor, "images channels"] | None
    outlier_place: Int[Tensor, " outliers"]
    """Of each outlier within the flattened `values`."""
    outlier_value: Float[Tensor, " outliers"]
    mean: Float[Tensor, " channels"] | None
    rotation: Float[Tensor, "channels channels"] | None
    """Of `klt`: coefficients are `rotation @ (features - mean)`."""

    def __len__(self) -> int:
        return len(self.values)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> FeatureTargets:
        """The same on another device; integers travel, not floats."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            values=self.values.to(device, non_blocking=non_blocking),
            scale=moved(self.scale),
            offset=moved(self.offset),
            outlier_place=self.outlier_place.to(device, non_blocking=non_blocking),
            outlier_value=self.outlier_value.to(device, non_blocking=non_blocking),
            mean=moved(self.mean),
            rotation=moved(self.rotation),
        )

    @property
    def kind(self) -> tuple[object, ...]:
        """Targets of one kind (shape, dtype, scales) can be joined."""
        return (*self.values.shape[1:], self.values.dtype, None if self.scale is None else self.scale.shape[1])

    def images(self) -> list[FeatureTargets]:
        """The same, each image by itself."""
        size = self.values[0].numel()
        owner = self.outlier_place // size
        return [
            replace(
                self,
                values=self.values[number : number + 1],
                scale=None if self.scale is None else self.scale[number : number + 1],
                offset=None if self.offset is None else self.offset[number : number + 1],
                outlier_place=self.outlier_place[owner == number] - number * size,
                outlier_value=self.outlier_value[owner == number],
            )
            for number in range(len(self))
        ]

    def coefficients(self) -> Float[Tensor, "images channels rows columns"]:
        """What the integers stand for, float32: principal components for `klt`, else the features."""
        values = self.values
        if values.dtype == torch.int16:
            # Never wider than stored: what bounds this on every device is the traffic of memory.
            signs = (values & 1).neg_()
            values = (values >> 1).bitwise_and_(0x7FFF).bitwise_xor_(signs)
        coefficients = values.to(torch.float32) if self.scale is None else values * self.scale[:, :, None, None]
        if self.offset is not None:
            coefficients = coefficients + self.offset[:, :, None, None]
        if len(self.outlier_place):
            coefficients = coefficients.flatten().index_copy(0, self.outlier_place, self.outlier_value)
        return coefficients.view(self.values.shape)

    def features(self) -> Float[Tensor, "images channels rows columns"]:
        """Features in the teacher's channels, float32."""
        coefficients = self.coefficients()
        if self.rotation is None or self.mean is None:
            return coefficients
        return torch.einsum("ck,bchw->bkhw", self.rotation, coefficients) + self.mean[:, None, None]

    def mean_squared_error(self, student: Float[Tensor, "images channels rows columns"]) -> Float[Tensor, " images"]:
        """Mean squared error of each image against the student's features, teacher resized to the student's grid.

        A rotation changes no distance, and bilinear resizing acts on each channel alike, so with `klt` the
        student is rotated to the coefficients, which is one small product instead of one for each
        image's larger map; the student's own layers stay as they are.

        Args:
            student: in the teacher's channels.
        """
        # Autocast would rotate in bfloat16, whose 8 bits are coarser than the stored steps.
        with torch.autocast(student.device.type, enabled=False):
            compared = student.float()
            if self.rotation is not None and self.mean is not None:
                rotation, offset = self.rotation.expand(len(self), -1, -1), -(self.rotation @ self.mean)
                compared = torch.baddbmm(offset[None, :, None], rotation, compared.flatten(2)).view(compared.shape)
            return self._error(compared)

    def error_of(self, head: nn.Linear, inputs: Float[Tensor, "images rows columns inner"]) -> Float[Tensor, " images"]:
        """`mean_squared_error` of what a linear head makes of its inputs.

        The head's weights are rotated instead of its outputs, which saves a product and a pass over them.

        Args:
            head: gives the teacher's channels.
            inputs: of the student.
        """
        weight, bias = head.weight, head.bias
        if self.rotation is not None and self.mean is not None:
            with torch.autocast(inputs.device.type, enabled=False):
                weight, bias = self.rotation @ weight, self.rotation @ (bias - self.mean)
        compared = functional.linear(inputs, weight, bias).permute(0, 3, 1, 2)
        with torch.autocast(inputs.device.type, enabled=False):
            return self._error(compared)

    def _error(self, compared: Tensor) -> Tensor:
        coefficients = self.coefficients()
        if coefficients.shape[-2:] != compared.shape[-2:]:
            size = (compared.shape[-2], compared.shape[-1])
            coefficients = functional.interpolate(coefficients, size=size, mode="bilinear", align_corners=False)
        return (compared - coefficients).square().mean((1, 2, 3))


def stack_targets(features: Sequence[StoredFeature], values: NDArray[Any] | None = None) -> FeatureTargets:
    """Stored features of one grid and one encoding as one batch.

    Args:
        features: at least one, as `FeatureStore.read_stored` gives them.
        values: theirs, [features, channels, cells], where they are stacked already.

    Raises:
        UsageError: none, or grids or encodings that differ.
    """
    if not features:
        raise UsageError("stack_targets: expected the features of at least one image, got none")
    kinds = {(feature.height, feature.width, feature.values.dtype, feature.scale.shape) for feature in features}
    if len(kinds) > 1:
        raise UsageError(f"stack_targets: expected one grid and one encoding, got {sorted(map(str, kinds))}")
    first = features[0]
    channels, cells = first.values.shape
    stacked = np.stack([feature.values for feature in features]) if values is None else values
    if stacked.dtype == np.uint16:
        stacked = stacked.view(np.int16)  # torch has hardly any operation for uint16
    places = [
        (number * channels + feature.outlier_channel.astype(np.int64)) * cells + feature.outlier_cell
        for number, feature in enumerate(features)
    ]
    basis = first.basis
    return FeatureTargets(
        values=torch.from_numpy(stacked).view(len(features), channels, first.height, first.width),
        scale=_stacked([feature.scale for feature in features]),
        offset=_stacked([feature.offset for feature in features]),
        outlier_place=torch.from_numpy(np.concatenate(places)),
        outlier_value=torch.from_numpy(np.concatenate([feature.outlier_value for feature in features])),
        mean=None if basis is None else torch.from_numpy(basis.mean),
        rotation=None if basis is None else torch.from_numpy(basis.rotation),
    )


def plain_targets(features: Float[Tensor, "images channels rows columns"]) -> FeatureTargets:
    """Features that were never stored, as they are."""
    nothing = torch.zeros(0, device=features.device)
    return FeatureTargets(features, None, None, nothing.long(), nothing, None, None)


def join_targets(pieces: Sequence[FeatureTargets]) -> FeatureTargets:
    """Targets of one kind, device and basis as one batch, in the given order."""
    first, sizes = pieces[0], [piece.values.numel() for piece in pieces]
    starts = [sum(sizes[:number]) for number in range(len(pieces))]
    return replace(
        first,
        values=torch.cat([piece.values for piece in pieces]),
        scale=_joined([piece.scale for piece in pieces]),
        offset=_joined([piece.offset for piece in pieces]),
        outlier_place=torch.cat([piece.outlier_place + start for piece, start in zip(pieces, starts, strict=True)]),
        outlier_value=torch.cat([piece.outlier_value for piece in pieces]),
    )


def _joined(rows: Sequence[Tensor | None]) -> Tensor | None:
    known = [row for row in rows if row is not None]
    return torch.cat(known) if known else None


def _stacked(rows: Sequence[np.ndarray]) -> Tensor | None:
    return torch.from_numpy(np.stack(rows)) if rows[0].size else None
