"""Trials: a recipe trained in a folder of its own, measured and audited on the patients that test.

What the rows of `ablation` and `crossvalidation` have in common (`train.completing` makes them).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from train.completing import Made
from train.dataset import manifest
from train.learning.state import UnusableRun
from train.options import Settings
from train.progress import Say
from train.recipe import Recipe

Audits = Literal["full", "quick", "none"]


@dataclass(frozen=True)
class Work:
    """What all trials of a comparison have in common."""

    data: Path
    output: Path
    minutes: float | None = None
    """Of each training; None: as many steps as the recipe says."""
    changes: Mapping[str, str] = field(default_factory=dict)
    """To the recipe, the same for all trials."""
    phantoms: Path | None = None
    """Where synthetic heads are kept, a folder for each seed; None: in `output`."""
    phantom_minutes: float | None = None
    audit: Audits = "full"
    device: str = "auto"
    threads: int | None = None
    processes: int | None = None
    """How many make phantoms and change slices, in each trial; None: one per core."""
    at_once: int = 1

    def folder(self, trial: Trial) -> Path:
        return self.output / "runs" / trial.name

    def key(self, form: int) -> str:
        """What a result was made from and how; results with different keys must not be compared."""
        length = "the recipe's steps" if self.minutes is None else f"{self.minutes:g} min"
        changed = "".join(f" {key}={value}" for key, value in sorted(self.changes.items()))
        return f"{form} {self.shown} {length} {self.audit}{changed}"

    @cached_property
    def shown(self) -> str:
        """SHA-256 of manifest and pictures, as they are when it is first asked for. Raises UnusableData."""
        listed = manifest.read(self.data)
        return f"{listed.digest} {manifest.pictures_digest(listed)}"


@dataclass(frozen=True)
class Trial:
    name: str
    """Of its folder below OUTPUT/runs."""
    recipe: Recipe
    audited: bool = True
    """False if no patient is left to audit it on."""


Maker = Callable[[Work, Trial, Say], Made]


def trained(work: Work, trial: Trial, say: Say) -> Made:
    """Train it, measure it, audit it: `metrics` of the test part, `audit` (its parts), `steps`.

    Raises what `train.run.run` raises, and UnusableRun if it cannot be audited.
    """
    from dtvit.checkpoint import describe
    from train.run import run

    folder = work.folder(trial)
    settings = Settings(
        output=folder,
        data=work.data,
        cache=work.output / "cache",
        phantoms=(work.phantoms or work.output) / f"phantoms-{trial.recipe.seed}",
        phantom_minutes=work.phantom_minutes,
        max_time=work.minutes,
        device=work.device,
        threads=work.threads,
        processes=work.processes,
    )
    path = run(trial.recipe, settings, say)
    return {
        "metrics": json.loads((folder / "metrics.json").read_bytes()),
        "audit": audited(work, path, trial.recipe.seed) if trial.audited and work.audit != "none" else {},
        "steps": describe(path).metadata.training.get("steps_done"),
    }


def audited(work: Work, path: Path, seed: int) -> dict[str, Any]:
    """The parts of its audit on the patients that test. All trials share the synthetic heads.

    Raises UnusableRun if it cannot be audited.
    """
    from train.audit.run import FULL, QUICK, REFUSALS, Order, audit, loaded
    from train.progress import stages
    from train.run import SPLIT

    order = Order(
        data=work.data,
        output=path.parent / "audit",
        sizes=QUICK if work.audit == "quick" else FULL,
        seed=seed,
        split=path.parent / SPLIT,
        heads=work.output / "audit-heads",
    )
    try:
        with stages() as tell:
            audit(loaded(path, work.device, work.threads), order, tell)
    except (*REFUSALS, OSError) as exc:
        raise UnusableRun(f"{path} could not be audited: {exc}") from exc
    parts: dict[str, Any] = json.loads((order.output / "audit.json").read_bytes())["parts"]
    return parts
