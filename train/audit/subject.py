"""The model under audit: pictures in, probability of hemorrhage out, and the one line between yes and no.

There is one way to a probability, `dtvit.inference.Classifier`, as in the node.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dtvit import preprocess
from dtvit.checkpoint import Checkpoint
from dtvit.findings import LOCATIONS
from dtvit.inference import Predictions

Floats = NDArray[np.float64]
Maps = NDArray[Any]
BATCH = 256  # pictures brought into the model's geometry at a time


class Model(Protocol):
    """What an audit needs of `dtvit.inference.Classifier`."""

    checkpoint: Checkpoint

    def predict(self, inputs: NDArray[np.uint8]) -> Predictions: ...

    def relevance(self, inputs: NDArray[np.uint8]) -> NDArray[np.float32]: ...


class Subject:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.geometry = preprocess.geometry_of(model.checkpoint.metadata.preprocessing)
        thresholds = model.checkpoint.metadata.slice_thresholds
        self.cut = float(np.clip(0.5, thresholds.absent_below, thresholds.present_at))
        """Yes from here on: even odds, or the nearer of the checkpoint's two thresholds if both lie on one side."""

    def presence(self, pictures: NDArray[np.uint8]) -> Floats:
        """(N,) probabilities for (N, 256, 256) pictures."""
        return self.predict(pictures).presence

    def predict(self, pictures: NDArray[np.uint8]) -> Predictions:
        """Of (N, 256, 256) pictures."""
        starts = range(0, len(pictures), BATCH)
        parts = [self.model.predict(self.inputs(pictures[start : start + BATCH])) for start in starts]
        if not parts:
            return Predictions(np.empty(0), np.empty((0, len(LOCATIONS))))
        return Predictions(np.concatenate([p.presence for p in parts]), np.concatenate([p.location for p in parts]))

    def relevance(self, pictures: NDArray[np.uint8], masks: NDArray[np.bool_]) -> tuple[Maps, Maps, NDArray[np.bool_]]:
        """The model's inputs (n, 224, 224), their relevance, and the masks in the same geometry.

        Raises NoAttention if the encoder has none.
        """
        inputs = self.inputs(pictures)
        seen = [preprocess.view_of(picture, self.geometry) for picture in pictures]
        moved = [
            preprocess.through(mask.astype(np.uint8) * 255, view) > 127 for mask, view in zip(masks, seen, strict=True)
        ]
        return inputs, self.model.relevance(inputs), np.array(moved, bool).reshape(inputs.shape)

    def inputs(self, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(N, 224, 224), as the node would give these slices to the model."""
        made = [preprocess.model_input(picture, self.geometry) for picture in pictures]
        return np.array(made, np.uint8).reshape(-1, preprocess.SIDE, preprocess.SIDE)
