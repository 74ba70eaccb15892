"""What a training run is told on the command line: a recipe, changes to it, and what this machine is to do with it."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtvit.checkpoint import SHIPPED
from train import recipe as recipes
from train.recipe import Recipe, UnusableRecipe


@dataclass(frozen=True)
class Settings:
    """What may differ between two runs that are to give the same."""

    output: Path
    """Folder of this run; a second call goes on from what is there."""
    data: Path | None = None
    """Manifest (CSV); None where phantoms are all there is."""
    phantoms: Path | None = None
    """Folder of the synthetic pictures; OUTPUT/phantoms where none is named."""
    cache: Path | None = None
    """Folder for decoded pictures."""
    processes: int | None = None
    """That make phantoms; one a core."""
    phantom_minutes: float | None = None
    """After which no more phantoms are made."""
    max_time: float | None = None
    """Minutes in which the whole schedule of the training ends."""
    save_every_s: float = 60.0
    device: str = "auto"
    threads: int | None = None

    @property
    def phantom_folder(self) -> Path:
        return self.phantoms or self.output / "phantoms"


def parse(arguments: Sequence[str], program: str) -> tuple[Recipe, Settings]:
    """argparse ends the program with a message for an option that is wrong. Raises UnusableRecipe."""
    parser = _parser(program)
    given = parser.parse_args(arguments)
    changes = _assignments(parser, given.set)
    changes |= {key: getattr(given, key) for key in ("encoder", "pretrained", "split", "seed") if getattr(given, key)}
    chosen = recipes.read(given.recipe)
    if given.augment is not None:
        chosen = chosen.with_replication() if given.augment == "replicate" else chosen.without_augmentation()
    chosen = chosen.changed(changes)
    if given.data is None and (chosen.counterfactuals or not chosen.phantom_heads):
        raise UnusableRecipe(
            f"recipe {given.recipe} learns from patients: name a manifest of their pictures with --data"
        )
    if chosen.split not in recipes.SPLITS and not Path(chosen.split).is_file():
        hint = recipes.nearest(chosen.split, recipes.SPLITS)
        raise UnusableRecipe(f"split {chosen.split!r} is none of {', '.join(recipes.SPLITS)}, and no file{hint}")
    names = {each.name for each in dataclasses.fields(Settings)}
    return chosen, Settings(**{key: value for key, value in vars(given).items() if key in names})


def _assignments(parser: argparse.ArgumentParser, given: Sequence[str]) -> dict[str, str]:
    changes = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals:
            parser.error(f"--set takes key=value, got {each!r}")
        changes[key.strip()] = value.strip()
    return changes


def add_shared(parser: argparse.ArgumentParser) -> None:
    """What commands take that train many times over (`train.trials.Work`)."""
    add = parser.add_argument
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of every recipe alike")
    add("--minutes", type=minutes, help="of training, each; its schedule ends then [as many steps as the recipe has]")
    add(
        "--phantoms",
        type=Path,
        metavar="DIR",
        help="keep synthetic heads there, by seed, for other comparisons [OUTPUT]",
    )
    add("--phantom-minutes", type=minutes, metavar="MIN", help="make no more phantoms after so many minutes")
    add("--at-once", type=positive, default=1, metavar="N", help="trainings side by side, which a GPU has room for [1]")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    add("--threads", type=positive, metavar="N", help="CPU threads of torch, each [all]")
    add("--processes", type=positive, metavar="N", help="that make phantoms and change slices, each [one a core]")


def shared(parser: argparse.ArgumentParser, given: argparse.Namespace) -> dict[str, Any]:
    """What `add_shared` added, as `train.trials.Work` takes it."""
    names = ("minutes", "phantoms", "phantom_minutes", "at_once", "device", "threads", "processes")
    return {"changes": _assignments(parser, given.set), **{name: getattr(given, name) for name in names}}


def checkpoint(text: str) -> Path:
    """An option's checkpoint: a file, or the word `shipped` for the project's own."""
    return SHIPPED if text == "shipped" else Path(text)


def positive(text: str) -> int:
    """An option's whole number, 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def between(least: int, most: int) -> Callable[[str], int]:
    """An option's whole number, of these or one between."""

    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, got {text}")
        return int(text)

    return number


def seed(text: str) -> int:
    """An option's whole number, 0 or more, as generators take it."""
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
    """No time is later than nan: what is to end then, or to be done then, never would."""
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text}")
    return number


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Train DTViT from a recipe. A run that was stopped or killed goes on when it is called again with "
        "the same options. Under torchrun the same command trains on all its ranks.",
    )
    parser.add_argument("--recipe", required=True, help=f"{', '.join(recipes.shipped())}, or a TOML file of your own")
    parser.add_argument("--output", type=Path, required=True, help="folder of this run: state, log, checkpoint, card")
    parser.add_argument("--data", type=Path, help="manifest of the pictures (CSV: path, patient_id, ich, location)")
    parser.add_argument("--encoder", help="instead of the recipe's: any timm name, or alexnet or squeezenet1_0")
    parser.add_argument("--augment", choices=("replicate", "none"), help="the papers' replication, or no augmentation")
    parser.add_argument("--pretrained", help="ImageNet weights: auto (from the hub), none, or a file")
    parser.add_argument(
        "--split",
        help="patient, paper (slices mixed, every number is labelled), given (the manifest's column), all (every "
        "patient trains, phantoms validate and test), or a file",
    )
    parser.add_argument("--seed", help="of split, phantoms, weights, order and augmentation")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change any key of the recipe; may be repeated"
    )
    parser.add_argument("--max-time", type=minutes, metavar="MIN", help="end the training and its whole schedule then")
    parser.add_argument("--phantoms", type=Path, help="folder of the synthetic pictures [OUTPUT/phantoms]")
    parser.add_argument("--phantom-minutes", type=minutes, help="make no more phantoms after so many minutes")
    parser.add_argument(
        "--processes", type=positive, help="processes that make phantoms and change slices [one a core]"
    )
    parser.add_argument("--cache", type=Path, help="folder for decoded pictures; holds what the pictures hold")
    parser.add_argument("--save-every-s", type=seconds, default=60.0, help="seconds between two saves [60]")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--threads", type=positive, help="CPU threads of torch [all]")
    return parser
