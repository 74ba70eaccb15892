"""Taking a bleed out of a slice, in two ways that are THE AUDIT'S OWN AND MUST NEVER BE USED IN TRAINING.

Training heals with mirrored tissue and feathered edges (`train.making.counterfactual`). A model could learn to see
the traces of that; it has never met those of these two, so what it says of them it says of the missing blood:

- `membrane`: the surroundings continue inwards like a soap film (Laplace's equation), with noise made to match;
- `patchwork`: pieces of the same brain, each chosen to fit what is already there (after Efros and Freeman, "Image
  quilting for texture synthesis and transfer", SIGGRAPH 2001).

A sham is the same treatment at a place without blood: `elsewhere` finds one of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve

from train.audit.tissue import (
    BONE,
    Anatomy,
    Floats,
    Mask,
    Picture,
    blurred_within,
    dilated,
    eroded,
    finished,
    grain,
)

RIM = 3  # pixels around a segmented bleed that are still brightened by it
PIECE = 15  # pixels; some grains and a sulcus wide
CANDIDATES = 4  # best fitting pieces of which one is drawn, so that no piece is repeated over and over
SOURCES = 40  # fewer places to take pieces from leave no choice

Healer = Callable[[Anatomy, Mask, np.random.Generator], Picture | None]
"""The slice with a hole (mask) filled in; None if that cannot be done."""


def hole_of(anatomy: Anatomy, mask: Mask) -> Mask:
    """What to fill if `mask` is to be healed: with its rim, and never bone."""
    return np.asarray(dilated(mask, RIM) & anatomy.inside & (anatomy.picture < BONE) | mask)


def membrane(anatomy: Anatomy, mask: Mask, rng: np.random.Generator) -> Picture | None:
    hole = hole_of(anatomy, mask)
    known = anatomy.inside & ~hole & ~dilated(anatomy.blood & ~hole, RIM) & (anatomy.picture < BONE)
    if not known.any():
        return None
    grey = anatomy.picture.astype(np.float32)
    filled = solve(hole, known, blurred_within(grey, known, 2.0))
    filled = np.where(np.isfinite(filled), filled, np.float32(np.median(grey[known])))
    return finished(np.where(hole, filled + grain(anatomy, rng), grey))


def solve(hole: Mask, known: Mask, values: Floats) -> Floats:
    """Laplace's equation in `hole` with `values` at its neighbours in `known`; other neighbours do not pull.

    NaN in pieces of the hole that border on nothing known.
    """
    number = np.full(hole.shape, -1)
    rows, columns = np.nonzero(hole)
    count = len(rows)
    number[rows, columns] = np.arange(count)
    degree, right = np.zeros(count), np.zeros(count)
    pairs: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for down, across in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        y = np.clip(rows + down, 0, hole.shape[0] - 1)
        x = np.clip(columns + across, 0, hole.shape[1] - 1)
        inner, outer = number[y, x] >= 0, known[y, x]
        pairs.append((np.flatnonzero(inner), number[y, x][inner]))
        degree += inner | outer
        right += np.where(outer, values[y, x], 0.0)
    first, second = (np.concatenate(each) for each in zip(*pairs, strict=True))
    matrix = sparse.coo_matrix((-np.ones(len(first)), (first, second)), (count, count)) + sparse.diags(degree)
    pieces = sparse.csgraph.connected_components(matrix, directed=False)[1]
    held = np.isin(pieces, np.unique(pieces[_borders(rows, columns, known)]))
    result = np.full(hole.shape, np.nan, np.float32)
    if held.any():
        inner = matrix.tocsc()[held][:, held]
        result[rows[held], columns[held]] = spsolve(inner, right[held])
    return result


def _borders(rows: NDArray[np.intp], columns: NDArray[np.intp], known: Mask) -> Mask:
    beside = cv2.dilate(known.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))).astype(bool)
    return np.asarray(beside[rows, columns])


def patchwork(anatomy: Anatomy, mask: Mask, rng: np.random.Generator) -> Picture | None:
    hole = hole_of(anatomy, mask)
    rows, columns = (np.flatnonzero(anatomy.inside.any(axis)) for axis in (1, 0))
    half = PIECE // 2
    top, left = rows[0] - half, columns[0] - half  # cut out the brain, with room for a piece at every edge
    box = slice(max(top, 0), rows[-1] + half + 1), slice(max(left, 0), columns[-1] + half + 1)
    grey = anatomy.picture[box].astype(np.float32)
    inside, todo = anatomy.inside[box], hole[box].copy()
    plain = eroded(inside & ~todo, 1) & ~dilated(anatomy.blood[box], RIM)
    sources = cv2.erode(plain.astype(np.uint8), np.ones((PIECE, PIECE), np.uint8), borderValue=0).astype(bool)
    if sources.sum() < SOURCES:
        return None
    while todo.any():
        known = inside & ~todo & (grey < BONE)
        shown = cv2.boxFilter(known.astype(np.float32), -1, (PIECE, PIECE), normalize=False)
        y, x = np.unravel_index(int(np.where(todo, shown, -1).argmax()), todo.shape)
        if shown[y, x] < 1:
            return None
        _lay(grey, known, todo, sources, (int(y), int(x)), rng)
    result = anatomy.picture.astype(np.float32)
    result[box] = grey
    return finished(result)


def _lay(
    grey: Floats, known: Mask, todo: Mask, sources: Mask, centre: tuple[int, int], rng: np.random.Generator
) -> None:
    """Fill what is left around `centre` with the piece that best continues what is known there."""
    half = PIECE // 2
    y, x = centre
    window = slice(max(y - half, 0), y + half + 1), slice(max(x - half, 0), x + half + 1)
    template, weight = grey[window], known[window].astype(np.float32)
    costs = cv2.matchTemplate(grey, template, cv2.TM_SQDIFF, mask=weight)  # by the window's upper left corner
    up, before = y - window[0].start, x - window[1].start
    allowed = sources[up : up + costs.shape[0], before : before + costs.shape[1]]
    costs = np.where(allowed & np.isfinite(costs), costs, np.inf)
    best = np.argsort(costs, axis=None)[:CANDIDATES]
    best = best[np.isfinite(costs.flat[best])]
    row, column = np.unravel_index(int(rng.choice(best)), costs.shape)
    piece = grey[row : row + template.shape[0], column : column + template.shape[1]].copy()
    seen = weight > 0
    piece += np.clip(np.median(template[seen]) - np.median(piece[seen]), -20, 20)
    new = todo[window]
    grey[window] = np.where(new, piece, template)
    todo[window] = False


HEALERS: dict[str, Healer] = {"membrane": membrane, "patchwork": patchwork}


def elsewhere(mask: Mask, allowed: Mask, rng: np.random.Generator) -> Mask | None:
    """A mask of the same shape, perhaps mirrored or turned upside down, that lies within `allowed`; None: no room."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    shape = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    turned = [shape, shape[::-1], shape[:, ::-1], shape[::-1, ::-1]]
    for which in rng.permutation(len(turned)):
        kernel = np.ascontiguousarray(turned[which]).astype(np.uint8)
        room = cv2.erode(allowed.astype(np.uint8), kernel, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT, borderValue=0)
        places = np.argwhere(room)
        if len(places):
            y, x = places[rng.integers(len(places))]
            moved = np.zeros_like(mask)
            moved[y : y + kernel.shape[0], x : x + kernel.shape[1]] = kernel.astype(bool)
            return moved
    return None
