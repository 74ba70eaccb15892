"""What yardsticks look at, for all pictures of a manifest: computed once for all rows, and features kept on disk."""

from __future__ import annotations

import hashlib
import io
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dtvit.wholefile import write_whole
from train.dataset import filed, splits
from train.dataset.manifest import Manifest
from train.dataset.pictures import PARTS, Part, Pictures
from train.dataset.splits import Split
from train.reproduce import yardsticks


class Seen:
    def __init__(self, data: Manifest, pictures: str, cache: Path) -> None:
        """`pictures`: their digest."""
        self._data, self._digest, self._cache = data, pictures, cache

    @cached_property
    def pictures(self) -> Pictures:
        """All of them, each once; 64 KiB a picture. Raises UnusableData."""
        return filed.load(self._data, splits.whole(self._data), cache=self._cache)

    @cached_property
    def thumbnails(self) -> NDArray[np.float32]:
        """(N, 1024), in the order of `pictures`."""
        return yardsticks.thumbnails(self.pictures.pictures)

    @cached_property
    def features(self) -> NDArray[np.float64]:
        """(N, F), in the order of `pictures`; takes minutes, so they are kept."""
        key = hashlib.sha256(f"{self._data.digest} {self._digest} {yardsticks.FORMAT}".encode()).hexdigest()[:16]
        path = self._cache / f"features-{key}.npy"
        try:
            kept: NDArray[np.float64] = np.load(path)
        except (OSError, ValueError, EOFError):
            kept = yardsticks.features(self.pictures.pictures)
            buffer = io.BytesIO()
            np.save(buffer, kept)
            write_whole(path, buffer.getvalue())
        return kept

    def part(self, split: Split, part: Part) -> NDArray[np.intp]:
        """Where the pictures of a part are in `pictures`; one may occur several times."""
        place = np.argsort(filed.arrangement(self._data, splits.whole(self._data))[0])
        rows, parts = filed.arrangement(self._data, split)
        return np.asarray(place[rows[parts == PARTS.index(part)]])
