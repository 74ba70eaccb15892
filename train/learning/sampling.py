"""Which slices make the batch of a step. It follows from (seed, step) alone: a run's place in its data is a number, and
every rank knows the whole batch without asking the others.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dtvit.findings import LOCATIONS
from train.dataset.pictures import ORIGINS, Pictures
from train.recipe import KINDS, Recipe


@dataclass(frozen=True, eq=False)
class Epochs:
    """Each slice as often per epoch as its count says, in a new order every epoch."""

    rows: NDArray[np.int64]
    """(M,): each index as often as an epoch shows the slice."""
    batch: int
    seed: int

    @property
    def steps_an_epoch(self) -> int:
        return -(-len(self.rows) // self.batch)

    def at(self, step: int) -> NDArray[np.int64]:
        """(B,) rows; the last batch of an epoch is filled up from the beginning of the epoch's order."""
        epoch, place = divmod(step, self.steps_an_epoch)
        order: NDArray[np.int64] = np.random.default_rng((self.seed, 1, epoch)).permutation(self.rows)
        return order[np.arange(place * self.batch, (place + 1) * self.batch) % len(order)]


@dataclass(frozen=True, eq=False)
class Shares:
    """Drawn with replacement, each slice with a chance of its own; an epoch is as many draws as there are slices."""

    chances: NDArray[np.float64]
    batch: int
    seed: int

    @property
    def steps_an_epoch(self) -> int:
        return -(-int((self.chances > 0).sum()) // self.batch)

    def at(self, step: int) -> NDArray[np.int64]:
        """(B,) rows."""
        ends = self._ends
        drawn = np.random.default_rng((self.seed, 1, step)).random(self.batch) * ends[-1]
        below_the_end = np.minimum(drawn, np.nextafter(ends[-1], 0))  # which rounding could have reached
        rows: NDArray[np.int64] = np.searchsorted(ends, below_the_end, side="right")
        return rows

    @functools.cached_property
    def _ends(self) -> NDArray[np.float64]:
        """(N,): where the share of each slice ends when they lie end to end."""
        return np.cumsum(self.chances)


Order = Epochs | Shares


def order(recipe: Recipe, training: Pictures, *, replicated: bool = False) -> Order:
    """`replicated`: the split has already replicated the slices, as the papers' does."""
    shares = shares_of(recipe, training, replicated=replicated)
    if recipe.sampling == "shares":
        return Shares(shares, recipe.batch, recipe.seed)
    return Epochs(np.repeat(np.arange(len(training)), shares.astype(np.int64)), recipe.batch, recipe.seed)


def shares_of(recipe: Recipe, training: Pictures, *, replicated: bool = False) -> NDArray[np.float64]:
    """(N,): how often each slice is shown, in an epoch or by chance. `replicated`: as in `order`."""
    if recipe.sampling == "shares":
        return chances(recipe, training)
    counts = np.ones(len(training))
    if recipe.sampling == "replicate" and not replicated:
        for number, name in enumerate(LOCATIONS):
            counts[(training.presence == 1) & (training.location == number)] = recipe.replication.get(name, 1)
        counts[training.presence == 0] = recipe.replication.get("normal", 1)
    return counts


def chances(recipe: Recipe, training: Pictures) -> NDArray[np.float64]:
    """(N,): the share of each origin and kind, spread over its slices; for bleeding ones, first over the locations."""
    found = np.zeros(len(training))
    kind = np.select([training.presence == 1, training.presence == 0], [0, 1], 2)
    for name, share in recipe.shares.items():
        origin, _, wanted = name.partition("_")
        rows = (training.origin == ORIGINS.index(origin)) & (kind == KINDS.index(wanted))
        groups = [rows]
        if wanted == "bleeding":
            groups = [rows & (training.location == place) for place in np.unique(training.location[rows])]
        for group in groups:
            if group.any():
                found[group] = share / len(groups) / group.sum()
    return found
