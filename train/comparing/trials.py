"""Trials: a recipe trained in a folder of its own, measured and audited on the patients that test; several at once.

What `ablation` and `crossvalidation` have in common. Several at once, so that a GPU trains one while others
start, measure or audit, which the CPU does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from train import keeping
from train.dataset import manifest
from train.learning.state import UnusableRun
from train.options import Settings
from train.processes import LostProcess, pool
from train.progress import Say, say_to_stderr
from train.recipe import Recipe

Made = dict[str, Any]
"""`metrics` of the test part, `audit` (its parts), `steps`; JSON."""
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

    def row(self, name: str) -> Path:
        """The file of what a trial of this name found."""
        return self.output / "rows" / f"{name}.json"

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
    """Train it, measure it, audit it. Raises what `train.run.run` raises, and UnusableRun if it cannot be audited."""
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


def completed(
    work: Work,
    trials: Sequence[Trial],
    *,
    key: Callable[[Trial], str],
    say: Say,
    make: Maker,
    of: str,
    after: Callable[[], object] = lambda: None,
) -> list[str]:
    """Make those that are missing, and keep what they found under their `key`; the names of those that failed.

    `of`: what progress lines call them. `after`: called after each that succeeded. Raises as `made`.
    """
    missing = [trial for trial in trials if keeping.row(work.row(trial.name), key(trial)) is None]
    say(f"{len(missing)} of {len(trials)} {of} to make, {work.at_once} at a time")
    failed = []
    for trial, found in made(work, missing, say, make):
        if isinstance(found, UnusableRun):
            failed.append(trial.name)
            say(f"{trial.name} could not be made: {found}")
        else:
            keeping.keep_row(work.row(trial.name), key(trial), found)
            after()
    return failed


def made(work: Work, trials: Sequence[Trial], say: Say, make: Maker) -> Iterator[tuple[Trial, Made | UnusableRun]]:
    """Each as it is done; a training that fails does not affect the others.

    Raises what `trained` raises besides UnusableRun, and UnusableRun if a process was ended from outside.
    """
    if work.at_once == 1:
        for trial in trials:
            yield trial, _one(make, work, trial, say)
        return
    # Each in a fresh process of its own: what it held of the GPU is freed with it.
    try:
        with pool(work.at_once, max_tasks_per_child=1) as executor:
            waiting = {
                executor.submit(_one, make, work, trial, partial(_said_by, trial.name)): trial for trial in trials
            }
            for future in as_completed(waiting):
                yield waiting[future], future.result()
    except LostProcess as exc:
        raise UnusableRun(
            f"a process that trains {exc}; the same command continues from there, also with a lower --at-once"
        ) from exc


def _said_by(name: str, text: str) -> None:
    """Where several speak."""
    say_to_stderr(f"{name}: {text}")


def _one(make: Maker, work: Work, trial: Trial, say: Say) -> Made | UnusableRun:
    try:
        return make(work, trial, say)
    except UnusableRun as exc:  # diverged, or its folder is in use
        return UnusableRun(str(exc))
