"""Features of a store drawn: by components that all pictures share, by their own, and by their norm."""

from __future__ import annotations

import threading
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.feature_pictures import Components, components_picture, fit_components, norm_picture, pca_picture
from pipelines.image_files import fitted_size, image_file
from storage.features import FeatureStore

__all__ = ["Colours", "FeaturePictures"]

_SAMPLED_IMAGES = 32
_SAMPLED_CELLS = 512
"""Of each of them: 16,000 cells tell the first three of some hundred directions apart."""
_CARD_CELLS = 96
"""A card has no room for more cells along a side."""
_KEPT_PICTURES = 512
_KEPT_FEATURES = 2
_DRAWN_AT_ONCE = 2
"""Features of a large picture take hundreds of MB while they are drawn."""


class Colours(StrEnum):
    """What features are coloured by."""

    STORE = "store"
    """Principal components of a sample of the store: the same feature has the same colour in all pictures."""
    IMAGE = "image"
    """Principal components of this image alone."""
    NORM = "norm"
    """How large the features are."""


class FeaturePictures:
    """Pictures of features. Safe to use from several threads.

    Args:
        store: whose features are drawn.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._components: Components | None = None
        self._fitting = threading.Lock()
        self._drawing = threading.Semaphore(_DRAWN_AT_ONCE)
        self._read = lru_cache(_KEPT_FEATURES)(self._features)
        self._drawn = lru_cache(_KEPT_PICTURES)(self._draw)

    def card(self, image_id: str, width_px: int, height_px: int) -> bytes:
        """A small PNG in the store's colours; see `whole`."""
        return self._drawn(image_id, Colours.STORE, width_px, height_px, None)

    def whole(
        self, image_id: str, colours: Colours, width_px: int, height_px: int, proportions: tuple[int, int]
    ) -> bytes:
        """A PNG with a block for each cell.

        Args:
            image_id: an image that the store has features of.
            colours: what they are coloured by.
            width_px: of the frame that it fits into.
            height_px: of that frame.
            proportions: (width, height) of the picture that the features were made of.

        Raises:
            MissingFeature: the store has none of this image.
            CorruptObject: a shard is damaged.
        """
        return self._drawn(image_id, colours, width_px, height_px, proportions)

    def _draw(
        self, image_id: str, colours: Colours, width_px: int, height_px: int, proportions: tuple[int, int] | None
    ) -> bytes:
        """A PNG; without proportions a card of some of the cells."""
        with self._drawing:
            if proportions is None:
                features = self._features(image_id)
                step = -(-max(features.shape[1:]) // _CARD_CELLS)
                features = features[:, ::step, ::step]
                proportions = (features.shape[2], features.shape[1])
            else:
                features = self._read(image_id)
            image = Image.fromarray(self._coloured(features, colours))
        size = fitted_size(*proportions, width_px, height_px)
        return image_file(image.resize(size, Image.Resampling.NEAREST), "PNG")

    def _coloured(self, features: NDArray[np.float32], colours: Colours) -> NDArray[np.uint8]:
        if colours is Colours.NORM:
            return norm_picture(features)
        return pca_picture(features) if colours is Colours.IMAGE else components_picture(features, self._shared())

    def _shared(self) -> Components:
        with self._fitting:
            if self._components is None:
                index = self._store.index
                rows = np.flatnonzero(index.is_ok)
                chosen = np.unique(np.linspace(0, len(rows) - 1, _SAMPLED_IMAGES).round().astype(np.int64))
                images = (self._features(index.name(row)) for row in rows[chosen].tolist())
                self._components = fit_components(images, _SAMPLED_CELLS)
            return self._components

    def _features(self, image_id: str) -> NDArray[np.float32]:
        return self._store.read([image_id])[0]
