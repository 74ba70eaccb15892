"""The settings of an evaluation; their defaults are those of the command line (`train.commands.evaluate`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train.evaluation.predicting import Precision


@dataclass(frozen=True)
class Settings:
    checkpoint: Path
    data: Path
    output: Path
    part: str | None
    split: Path | None
    calibrate: str | None
    """A manifest, or one of PARTS for that part of `data`: temperatures and thresholds are fitted on it first."""
    masks: str | None
    prevalence: float
    resamples: int
    examples: int
    relevance: bool
    precision: Precision
    device: str
    batch: int | None
    threads: int | None
    seed: int
