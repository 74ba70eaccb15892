"""`python -m train fit`, which is `dicom-node train`: from a recipe to a checkpoint."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from train import recipe as recipes
from train.options import Settings, assignments, minutes, positive, seconds
from train.recipe import Recipe, UnusableRecipe

SUMMARY = "Train a checkpoint from a recipe: v1, v2, robust, phantom, or one of your own."


def main(arguments: Sequence[str], program: str) -> int:
    """The exit status: 0, 1 for an error that says what to do, 130 for Ctrl-C."""
    try:
        recipe, settings = parse(arguments, program)  # before torch is imported: a wrong option is reported at once
    except UnusableRecipe as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1

    from train.learning.ranks import LostRank
    from train.run import REFUSALS, run

    try:
        path = run(recipe, settings)
    except (*REFUSALS, LostRank) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command continues from the last saved state\n")
        return 130
    sys.stdout.write(f"{path}\n")
    return 0


def parse(arguments: Sequence[str], program: str) -> tuple[Recipe, Settings]:
    """argparse ends the program with a message if an option is wrong. Raises UnusableRecipe."""
    parser = _parser(program)
    given = parser.parse_args(arguments)
    changes = assignments(parser, given.set)
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
