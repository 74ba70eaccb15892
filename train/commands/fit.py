"""`python -m train fit`, which is `dicom-node train`: from a recipe to a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from train.options import parse
from train.recipe import UnusableRecipe

SUMMARY = "Train a checkpoint from a recipe: v1, v2, robust, phantom, or one of your own."


def main(arguments: Sequence[str], program: str) -> int:
    """The exit status: 0, 1 for an error that says what to do, 130 for Ctrl-C."""
    try:
        recipe, settings = parse(arguments, program)  # before torch is imported: a wrong option is reported at once
    except UnusableRecipe as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1

    from train.ranks import LostRank
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
