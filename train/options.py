"""What a machine should do with a recipe; and options that several commands have."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtvit.checkpoint import SHIPPED


@dataclass(frozen=True)
class Settings:
    """What may differ between two runs that should give the same result."""

    output: Path
    """Folder of this run; a second call continues from what is there."""
    data: Path | None = None
    """Manifest (CSV); None if there are only phantoms."""
    phantoms: Path | None = None
    """Folder of the synthetic pictures; OUTPUT/phantoms if none is named."""
    cache: Path | None = None
    """Folder for decoded pictures."""
    processes: int | None = None
    """How many make phantoms and change slices; None: one per core."""
    phantom_minutes: float | None = None
    """No more phantoms are made after this."""
    max_time: float | None = None
    """Minutes within which the training runs its whole schedule."""
    save_every_s: float = 60.0
    device: str = "auto"
    threads: int | None = None

    @property
    def phantom_folder(self) -> Path:
        return self.phantoms or self.output / "phantoms"


def assignments(parser: argparse.ArgumentParser, given: Sequence[str]) -> dict[str, str]:
    """The values of --set; argparse ends the program if one lacks its key."""
    changes = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals:
            parser.error(f"--set takes key=value, got {each!r}")
        changes[key.strip()] = value.strip()
    return changes


def add_shared(parser: argparse.ArgumentParser) -> None:
    """The options of commands that train many times (`train.comparing.trials.Work`)."""
    add = parser.add_argument
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key in every recipe alike")
    add("--minutes", type=minutes, help="fit each training, with its whole schedule, into this [the recipe's steps]")
    add(
        "--phantoms",
        type=Path,
        metavar="DIR",
        help="keep synthetic heads here, by seed, for other comparisons [OUTPUT]",
    )
    add("--phantom-minutes", type=minutes, metavar="MIN", help="make no more phantoms after this many minutes")
    add("--at-once", type=positive, default=1, metavar="N", help="trainings to run side by side, if a GPU has room [1]")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps [auto]")
    add("--threads", type=positive, metavar="N", help="CPU threads of torch for each training [all]")
    add(
        "--processes",
        type=positive,
        metavar="N",
        help="processes that make phantoms and change slices, for each training [one per core]",
    )


def shared(parser: argparse.ArgumentParser, given: argparse.Namespace) -> dict[str, Any]:
    """The values of the options of `add_shared`, as `train.comparing.trials.Work` takes them."""
    names = ("minutes", "phantoms", "phantom_minutes", "at_once", "device", "threads", "processes")
    return {"changes": assignments(parser, given.set), **{name: getattr(given, name) for name in names}}


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The checkpoint that a command is about, as a Path."""
    told = "safetensors file, or `shipped` for the project's own"
    parser.add_argument("checkpoint", type=_checkpoint, metavar="CHECKPOINT", help=told)


def _checkpoint(text: str) -> Path:
    return SHIPPED if text == "shipped" else Path(text)


def positive(text: str) -> int:
    """An option's whole number, 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def between(least: int, most: int) -> Callable[[str], int]:
    """For an option's whole number from `least` to `most`, both included."""

    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, got {text}")
        return int(text)

    return number


def seed(text: str) -> int:
    """An option's whole number, 0 or more, as random generators take it."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {number}")
    return number


def minutes(text: str) -> float:
    """An option's number of minutes, more than 0."""
    number = _finite(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"must be more than 0, got {text}")
    return number


def seconds(text: str) -> float:
    """An option's number of seconds, 0 or more."""
    number = _finite(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return number


def _finite(text: str) -> float:
    """No time is later than nan: whatever should end then, or happen then, never would."""
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text}")
    return number
