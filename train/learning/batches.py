"""From pictures in memory to what a step learns from: gathered, augmented and normalised on the device.

The data set stays uint8, on the device where it fits there, so that loading is never the limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from numpy.typing import NDArray

from dtvit.findings import LOCATIONS
from train.dataset.pictures import BLOOD_CELLS, CROP, Pictures
from train.learning.ranks import Ranks
from train.learning.sampling import Order
from train.making import augment, augment_paper
from train.recipe import Recipe
from train.sending import sent

CELL = CROP // BLOOD_CELLS
MEMORY_SHARE = 0.4  # of what is free on a GPU; the rest is for the model
AUGMENTATIONS = {"paper": augment_paper.augment, "scanner": augment.augment}
NONE_CLASS = len(LOCATIONS)


@dataclass(frozen=True)
class Totals:
    """How many slices of the whole batch, on all ranks, have each label: what a masked sum is divided by."""

    presence: int
    location: int
    traced: int


@dataclass(frozen=True)
class Batch:
    pictures: torch.Tensor
    """(B, 1, 224, 224) in 0..1, on the device."""
    blood: torch.Tensor
    """(B, 1, 56, 56), share of each cell that shows blood."""
    traced: torch.Tensor
    """(B,) bool"""
    presence: torch.Tensor
    location: torch.Tensor
    """(B,) int64, as presence; -1 where it is not taught."""
    totals: Totals


class Batches:
    """The training part, and the order in which it is seen."""

    def __init__(self, recipe: Recipe, training: Pictures, order: Order, device: torch.device, ranks: Ranks) -> None:
        self.recipe, self.order, self.device, self.ranks = recipe, order, device, ranks
        held = _held_on(training, device)
        self.pictures = torch.from_numpy(_divisible(training.pictures)).to(held)
        self.blood = torch.from_numpy(training.blood).to(held)
        self.presence = training.presence.astype(np.int64)
        self.location = location_labels(training, recipe.location_outputs)
        self.traced = training.traced

    def at(self, step: int) -> Iterator[Batch]:
        """This rank's share of a step's batch, in as many parts as the recipe computes it in.

        Augmentation draws from torch's global generators. On a GPU nothing here waits for it.
        """
        rows = self.order.at(step)
        totals = Totals(
            int((self.presence[rows] >= 0).sum()), int((self.location[rows] >= 0).sum()), int(self.traced[rows].sum())
        )
        mine = np.array_split(rows, self.ranks.count)[self.ranks.number]
        for part in np.array_split(mine, self.recipe.accumulation):
            yield self._gathered(part, totals)

    def traced_middles(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the first lessons use: pictures (M, 224, 224) and blood (M, 56, 56), uint8, on the device."""
        rows = torch.from_numpy(np.flatnonzero(self.traced)).to(self.pictures.device)
        pictures = _middle(self.pictures[rows], CROP).contiguous()
        return pictures.to(self.device), self.blood[rows].to(self.device)

    def _gathered(self, rows: NDArray[np.int64], totals: Totals) -> Batch:
        chosen = torch.from_numpy(rows)
        labels = [torch.from_numpy(each[rows]) for each in (self.presence, self.location, self.traced)]
        index, presence, location, traced = sent([chosen, *labels], self.device)
        if self.pictures.device.type == self.device.type:
            taken = [self.pictures[index], self.blood[index]]
        else:
            taken = sent([self.pictures[chosen], self.blood[chosen]], self.device)
        pictures, blood = (each[:, None] / 255 for each in taken)  # (B, 1, S, S), (B, 1, 56, 56)
        if self.recipe.augmentation != "none":
            margin = (pictures.shape[-1] - CROP) // (2 * CELL)
            pictures, blood = AUGMENTATIONS[self.recipe.augmentation](pictures, F.pad(blood, (margin,) * 4))
            blood = _middle(blood, BLOOD_CELLS)
        return Batch(_middle(pictures, CROP), blood, traced, presence, location, totals)


def location_labels(pictures: Pictures, outputs: int) -> NDArray[np.int64]:
    """(N,): with four outputs a slice without hemorrhage is a fourth location; with three it teaches none."""
    labels = np.where(pictures.presence == 1, pictures.location, -1).astype(np.int64)
    if outputs > NONE_CLASS:
        labels[pictures.presence == 0] = NONE_CLASS
    return labels


def _middle(pictures: torch.Tensor, side: int) -> torch.Tensor:
    start = (pictures.shape[-1] - side) // 2
    return pictures[..., start : start + side, start : start + side]


def _divisible(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut to a side that leaves a whole number of blood cells on each side of the middle 224."""
    margin = (pictures.shape[1] - CROP) // 2
    cut = margin % CELL
    end = cut + CROP + 2 * (margin - cut)
    return np.ascontiguousarray(pictures[:, cut:end, cut:end])


def _held_on(training: Pictures, device: torch.device) -> torch.device:
    if device.type != "cuda":
        return device if device.type == "cpu" else torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(device)
    fits = training.pictures.nbytes + training.blood.nbytes < MEMORY_SHARE * free
    return device if fits else torch.device("cpu")
