"""The command line of a training run: a recipe, changes to it, and what this machine should do with it."""

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


def parse(arguments: Sequence[str], program: str) -> tuple[Recipe, Settings]:
    """argparse ends the program with a message if an option is wrong. Raises UnusableRecipe."""
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
        raise UnusableRecipe(f"split {chosen.split!r} is none of {', '.join(recipes.SPLITS)}, nor a file{hint}")
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
    """The options of commands that train many times (`train.trials.Work`)."""
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
    """The values of the options of `add_shared`, as `train.trials.Work` takes them."""
    names = ("minutes", "phantoms", "phantom_minutes", "at_once", "device", "threads", "processes")
    return {"changes": _assignments(parser, given.set), **{name: getattr(given, name) for name in names}}


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


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Train DTViT from a recipe. A run that was stopped or killed continues when the command is given "
        "again with the same options. Under torchrun the same command trains on all ranks.",
    )
    parser.add_argument("--recipe", required=True, help=f"{', '.join(recipes.shipped())}, or a TOML file of your own")
    parser.add_argument("--output", type=Path, required=True, help="folder of this run: state, log, checkpoint, card")
    parser.add_argument("--data", type=Path, help="manifest of the pictures (CSV: path, patient_id, ich, location)")
    parser.add_argument("--encoder", help="in place of the recipe's: any timm name, or alexnet or squeezenet1_0")
    parser.add_argument("--augment", choices=("replicate", "none"), help="the papers' replication, or no augmentation")
    parser.add_argument("--pretrained", help="ImageNet weights: auto (from the hub), none, or a file")
    parser.add_argument(
        "--split",
        help="patient, paper (slices mixed, and every number labelled so), given (the manifest's column split), all "
        "(every patient trains; phantoms validate and test), or a file",
    )
    parser.add_argument("--seed", help="seed of split, phantoms, weights, order and augmentation")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change any key of the recipe; may be repeated"
    )
    parser.add_argument(
        "--max-time", type=minutes, metavar="MIN", help="fit the training, with its whole schedule, into this time"
    )
    parser.add_argument("--phantoms", type=Path, help="folder of the synthetic pictures [OUTPUT/phantoms]")
    parser.add_argument("--phantom-minutes", type=minutes, help="make no more phantoms after this many minutes")
    parser.add_argument(
        "--processes", type=positive, help="processes that make phantoms and change slices [one per core]"
    )
    parser.add_argument("--cache", type=Path, help="folder for decoded pictures; as confidential as the pictures")
    parser.add_argument("--save-every-s", type=seconds, default=60.0, help="seconds between two saves [60]")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps [auto]")
    parser.add_argument("--threads", type=positive, help="CPU threads of torch [all]")
    return parser
