"""The settings of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from train.evaluation.bootstrap import RESAMPLES
from train.evaluation.gallery import EACH
from train.evaluation.measuring import PREVALENCE
from train.evaluation.predicting import Precision

Seen = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True)
class Settings:
    checkpoint: Path
    data: Path
    output: Path
    part: str | None = None
    split: Path | None = None
    calibrate: str | None = None
    """A manifest, or one of PARTS for that part of `data`: temperatures and thresholds are fitted on it first."""
    masks: str | None = None
    prevalence: float = PREVALENCE
    resamples: int = RESAMPLES
    examples: int = EACH
    relevance: bool = False
    precision: Precision = "node"
    device: str = "auto"
    batch: int | None = None
    threads: int | None = None
    seed: int = 0
