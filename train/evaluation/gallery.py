"""The worst errors, to be looked at: what was missed, what was called without blood, what was put in the wrong place.

At most one slice per series, since its neighbours look the same. A relevance map stands beside the slice, never over
it; for what it shows and what it does not, see `dtvit.vit.relevance`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch.nn import functional

from dtvit.findings import LOCATIONS
from dtvit.model import DTViT
from dtvit.vit.relevance import NoAttention, relevance
from train.dataset.pictures import Pictures
from train.evaluation.cases import Cases
from train.evaluation.predicting import middle, normalised
from train.evaluation.units import ODDS, Units
from train.recipe import MeanStd

MAP_COLOURS = "cividis"  # reads alike with and without colour vision, and in print
GAP = 8  # pixels between slice and map


@dataclass(frozen=True)
class Example:
    kind: str
    """`missed`, `false alarm` or `wrong place`."""
    name: str
    """Of its file: kind, rank and the manifest's row, nothing of the patient."""
    caption: str
    png: bytes
    """Slice, and beside it the relevance map where the encoder has one."""


def choose(slices: Units, series: NDArray[np.int32], each: int) -> list[tuple[str, int]]:
    """(kind, index of the slice), the worst of each kind first."""
    wrong = slices.places.argmax(1) != slices.location
    kinds = (
        ("missed", (slices.presence == 1) & (slices.score < ODDS), slices.score),
        ("false alarm", (slices.presence == 0) & (slices.score >= ODDS), -slices.score),
        ("wrong place", (slices.presence == 1) & (slices.location >= 0) & wrong, -slices.places.max(1)),
    )
    chosen = []
    for kind, rows, order in kinds:
        worst = np.flatnonzero(rows)[np.argsort(order[rows], kind="stable")]
        _, first = np.unique(series[worst], return_index=True)
        chosen += [(kind, int(worst[place])) for place in np.sort(first)[:each]]
    return chosen


def examples(
    chosen: list[tuple[str, int]], cases: Cases, slices: Units, model: DTViT, mean_std: MeanStd, label: str
) -> tuple[list[Example], str]:
    """The chosen slices as pictures, and why there are no maps (empty if there are)."""
    try:
        wanted = np.array([index for _, index in chosen], int)
        maps = relevance_maps(model, cases.pictures.take(wanted), mean_std)
        why = ""
    except NoAttention as exc:
        maps, why = None, str(exc)
    made, ranks = [], dict.fromkeys(("missed", "false alarm", "wrong place"), 0)
    for place, (kind, index) in enumerate(chosen):
        ranks[kind] += 1
        line = cases.rows[index].line
        picture = middle(cases.pictures.pictures[index : index + 1])[0]
        made.append(
            Example(
                kind,
                f"{kind.replace(' ', '-')}-{ranks[kind]:02d}-row-{line}.png",
                _caption(line, slices, index),
                _beside(picture, None if maps is None else maps[place], label),
            )
        )
    return made, why


def relevance_maps(
    model: DTViT,
    pictures: Pictures,
    mean_std: MeanStd,
    tell: Callable[[int, int], object] = lambda done, of: None,
) -> NDArray[np.float32]:
    """(N, grid rows, grid columns), 0..1, of each slice. Raises NoAttention."""
    device = next(model.parameters()).device
    shown = middle(pictures.pictures)
    maps = []
    for index in range(len(shown)):  # one at a time: each keeps in memory what its gradient needs
        maps.append(relevance(model, normalised(shown[index : index + 1], device, mean_std)))
        tell(index + 1, len(shown))
    return np.concatenate(maps) if maps else np.zeros((0, 1, 1), np.float32)


def _caption(line: int, slices: Units, index: int) -> str:
    location = slices.location[index]
    truth = {1: "hemorrhage", 0: "no hemorrhage", -1: "label unknown"}[int(slices.presence[index])]
    place = f", {LOCATIONS[location]}" if location >= 0 else ""
    guess = LOCATIONS[int(slices.places[index].argmax())]
    said = f"probability {slices.score[index]:.2f} ({slices.answer[index]})"
    return f"row {line}: {truth}{place}; {said}, place {guess} {slices.places[index].max():.2f}"


def _beside(picture: NDArray[np.uint8], grid: NDArray[np.float32] | None, label: str) -> bytes:
    """PNG of the slice, and of its map beside it."""
    parts = [np.repeat(picture[..., None], 3, 2)]
    if grid is not None:
        enlarged = functional.interpolate(torch.from_numpy(grid)[None, None], picture.shape, mode="bilinear")
        coloured = colormaps[MAP_COLOURS](enlarged[0, 0].numpy())[..., :3]
        parts += [np.full((len(picture), GAP, 3), 255, np.uint8), (coloured * 255).round().astype(np.uint8)]
    buffer, told = io.BytesIO(), PngInfo()
    told.add_text("Description", label)
    Image.fromarray(np.concatenate(parts, 1)).save(buffer, "png", pnginfo=told)
    return buffer.getvalue()
