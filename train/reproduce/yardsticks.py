"""What can be reached without learning hemorrhage: the yardstick for any number from a data set like the papers'.

`nearest` answers with the label of the most similar picture, by thumbnails of 32 x 32. `boosted` sees how a head lies,
its shape and how noisy the scan is, but no grey value of the brain. Where these do well, doing well proves nothing.
Both give logits, so that they are scored as a model is (`train.evaluation`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dtvit.findings import LOCATIONS
from train.dataset.pictures import Pictures
from train.evaluation import Logits

Floats = NDArray[np.float64]

FORMAT = 1  # goes up when a feature is computed differently
THUMBNAIL = 32
SURE = 6.0  # logit of an answer given without doubt: 0.9975
WAVES = 12  # of the outline's radius; more follow ears and scalp folds
RAYS = 96
AWAY = 3  # pixels from anything else; more than the filters below reach
SOFT = (26, 179)  # 8..56 HU in grey values of 0..255 for 0..80 HU: brain without bone, blood or fat


def nearest(there: NDArray[np.float32], known: Pictures, here: NDArray[np.float32]) -> Logits:
    """One nearest neighbour by `thumbnails` (N, 1024); `there` are those of the pictures `known`.

    The location is that of the nearest slice with a known one.
    """
    labelled, placed = np.flatnonzero(known.presence >= 0), np.flatnonzero(known.location >= 0)
    presence = known.presence[labelled][_closest(there[labelled], here)]
    location = known.location[placed][_closest(there[placed], here)]
    return Logits(_one_hot(presence, 2), _one_hot(location, len(LOCATIONS)))


def boosted(there: Floats, known: Pictures, seed: int) -> Callable[[Floats], Logits]:
    """Gradient boosting (scikit-learn's, over histograms), from `features` (N, F) to logits.

    It learns from those `there`, which are of the pictures `known`.
    """
    presence = _fitted(there, known.presence, 2, seed)
    location = _fitted(there, known.location, len(LOCATIONS), seed)
    return lambda here: Logits(presence(here), location(here))


def columns(groups: Sequence[str]) -> list[int]:
    """Which columns of `features` belong to `groups` (keys of GROUPS; none: all)."""
    ends = dict(zip(GROUPS, np.cumsum(list(WIDTHS.values())).tolist(), strict=True))
    return [column for name in groups or GROUPS for column in range(ends[name] - WIDTHS[name], ends[name])]


def _fitted(there: Floats, labels: NDArray[np.int8], classes: int, seed: int) -> Callable[[Floats], Floats]:
    """From features to (N, classes) log-probabilities; a class without examples is never likely."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    known = labels >= 0
    seen = np.unique(labels[known])
    model = HistGradientBoostingClassifier(max_iter=100, learning_rate=0.1, min_samples_leaf=20, random_state=seed)
    # OpenMP's threads spin while they wait for each other, thousands of times: on shared cores that is most of the time
    if len(seen) > 1:
        with threadpool_limits(1, "openmp"):
            model.fit(there[known], labels[known])

    def answer(here: Floats) -> Floats:
        found = np.full((len(here), classes), -2 * SURE)
        with threadpool_limits(1, "openmp"):
            found[:, seen] = np.log(np.clip(model.predict_proba(here), 1e-5, 1.0)) if len(seen) > 1 else 0.0
        return found

    return answer


def thumbnails(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, S, S) to (N, 1024): means over equal cells, as far as S divides; what is left at the edges is dropped."""
    cell = pictures.shape[1] // THUMBNAIL
    edge = (pictures.shape[1] - cell * THUMBNAIL) // 2
    middle = pictures[:, edge : edge + cell * THUMBNAIL, edge : edge + cell * THUMBNAIL]
    cells = middle.reshape(len(pictures), THUMBNAIL, cell, THUMBNAIL, cell)
    return np.asarray(cells.mean((2, 4), dtype=np.float32).reshape(len(pictures), -1))


def _closest(there: NDArray[np.float32], here: NDArray[np.float32]) -> NDArray[np.intp]:
    """For each row of `here` the nearest row of `there`, by Euclidean distance; the first of equals."""
    squares = np.einsum("ij,ij->i", there, there)
    batches = (here[i : i + 512] for i in range(0, len(here), 512))
    found = [np.argmin(squares - 2.0 * (batch @ there.T), 1) for batch in batches]
    return np.concatenate(found) if found else np.zeros(0, np.intp)


def _one_hot(labels: NDArray[np.int8], classes: int) -> Floats:
    return np.where(np.arange(classes) == labels[:, None], SURE, 0.0)


def features(pictures: NDArray[np.uint8]) -> Floats:
    """(N, F): the features of all GROUPS, side by side; NaN where a picture shows too little."""

    def one(picture: NDArray[np.uint8]) -> list[float]:
        return [value for group in GROUPS.values() for value in group(picture)]

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy and SciPy let go of the lock for most of it
        return np.array(list(pool.map(one, pictures)), np.float64)


def silhouette(picture: NDArray[np.uint8]) -> list[float]:
    """How large the head is, where it lies, how it is turned, and whether the picture cuts it."""
    head = _head(picture[::2, ::2])  # half the size tells as much of a form, in a quarter of the time
    if not head.any():
        return [0.0] + [math.nan] * 10
    side = head.shape[0]
    rows, columns = (np.flatnonzero(head.any(axis)) for axis in (1, 0))
    box = [rows[0], rows[-1], columns[0], columns[-1]]
    middle, spread, angle = _axes(head)
    cut = np.concatenate([head[0], head[-1], head[:, 0], head[:, -1]]).mean()
    return [
        float(head.mean()),
        *(float(edge) / side for edge in box),
        *(float(value) / side for value in middle),
        *(float(value) / side for value in spread),
        angle,
        float(cut),
    ]


def shape(picture: NDArray[np.uint8]) -> list[float]:
    """The shape of the outline, independent of size, place and rotation."""
    head = _head(picture[::2, ::2])
    if head.sum() < THUMBNAIL:
        return [math.nan] * (WAVES + 2)
    middle, spread, angle = _axes(head)
    turns = angle + np.linspace(0.0, 2 * math.pi, RAYS, endpoint=False)
    steps = np.arange(0.0, math.hypot(*head.shape), 0.5)
    y = middle[0] + np.outer(np.sin(turns), steps)
    x = middle[1] + np.outer(np.cos(turns), steps)
    inside = ndimage.map_coordinates(head.astype(np.uint8), [y, x], order=0)
    radius = (inside * steps).max(1)  # the farthest that still belongs to the head
    waves = np.abs(np.fft.rfft(radius / max(float(radius.mean()), 1e-6)))[1 : WAVES + 1] / RAYS
    edge = head & ~ndimage.binary_erosion(head)
    round_ = float(head.sum()) * 4 * math.pi / float(edge.sum()) ** 2
    return [*waves.tolist(), float(spread[1] / max(spread[0], 1e-6)), round_]


def noise(picture: NDArray[np.uint8]) -> list[float]:
    """How rough soft tissue is from pixel to pixel, how far the roughness reaches, and whether it has blocks of 8.

    Only far from all that is brighter or darker than brain, so that no edge of a bleed is roughness.
    """
    grey = picture.astype(np.float32)
    soft = ndimage.minimum_filter((picture >= SOFT[0]) & (picture <= SOFT[1]), 2 * AWAY + 1)
    beside = soft[:, 1:] & soft[:, :-1]
    if beside.sum() < 4 * THUMBNAIL:
        return [math.nan] * 6
    second = np.abs(ndimage.laplace(grey))[soft]  # free of any slope, and so of what the tissue is
    step = np.abs(np.diff(grey, axis=1))
    fine = grey - ndimage.uniform_filter(grey, 5)
    together = float((fine[:, 1:] * fine[:, :-1])[beside].mean() / max(float((fine[soft] ** 2).mean()), 1e-6))
    columns = np.broadcast_to(np.arange(step.shape[1]) % 8, step.shape)[beside]
    by_column = np.bincount(columns, step[beside], 8) / np.maximum(np.bincount(columns, minlength=8), 1)
    return [
        float(np.median(second)),
        float(np.percentile(second, 90)),
        float(np.median(step[beside])),
        float(fine[soft].std()),
        together,
        float(by_column.max() / max(float(by_column.mean()), 1e-6)),
    ]


GROUPS: dict[str, Callable[[NDArray[np.uint8]], list[float]]] = {
    "silhouette": silhouette,
    "shape": shape,
    "noise": noise,
}
WIDTHS = {"silhouette": 11, "shape": WAVES + 2, "noise": 6}
"""How many features each group has."""


def _head(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The largest connected piece of what is not background, with the holes of CSF, air and fat filled in."""
    labels, count = ndimage.label(picture > 0)
    if count == 0:
        return np.zeros(picture.shape, np.bool_)
    return np.asarray(ndimage.binary_fill_holes(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])))


def _axes(head: NDArray[np.bool_]) -> tuple[Floats, Floats, float]:
    """Centre (row, column), spread along the long and the short axis, and the angle of the long one from upright."""
    at = np.argwhere(head).astype(np.float64)
    middle = at.mean(0)
    values, vectors = np.linalg.eigh(np.cov((at - middle).T))
    long = vectors[:, 1] * (1.0 if vectors[0, 1] >= 0 else -1.0)
    return middle, np.sqrt(np.maximum(values[::-1], 0.0)), float(math.atan2(long[1], long[0]))
