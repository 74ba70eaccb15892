"""`python -m train crossvalidate`: what a recipe is worth on every patient, and the model of all of them."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from train.commands import compared
from train.options import add_shared, between, shared

SUMMARY = "Train, measure and audit a recipe on folds with patients apart; with --final, also train on all patients."
EPILOG = """\
The output folder gets crossvalidation.md, .csv and .json, a folder for each training, and with --final the checkpoint
of all patients with its model card. Run again, the same command makes what is missing. See docs/training.md.
"""


def main(arguments: Sequence[str], program: str) -> int:
    parser = _parser(program)
    given = parser.parse_args(arguments)  # before torch is imported: --help answers at once
    common = shared(parser, given)
    if given.finish and not given.final:
        parser.error("--finish continues with the model that --final makes; add --final")

    from train import recipe
    from train.comparing.crossvalidation import crossvalidate
    from train.comparing.trials import Work
    from train.progress import say_to_stderr

    def make() -> list[str]:
        work = Work(data=given.data, output=given.output, audit=given.audit, **common)
        chosen = recipe.read(given.recipe).changed(work.changes)
        second = None if given.finish is None else recipe.read(given.finish)
        command = f"{program} {shlex.join(arguments)}"
        return crossvalidate(
            work, chosen, given.folds, given.repeats, command, say_to_stderr, final=given.final, finish=second
        )

    return compared(make, given.output / "crossvalidation.md", of="trainings", page_of_some=False)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description=SUMMARY, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--recipe", default="robust", help="a shipped recipe, or a TOML file of your own [robust]")
    add("--data", type=Path, required=True, metavar="MANIFEST", help="CSV that lists the pictures (docs/data.md)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for trainings, tables and the checkpoint")
    add("--folds", type=between(3, 99), default=5, metavar="N", help="how many folds, three at least [5]")
    add("--repeats", type=between(1, 99), default=1, metavar="N", help="how many rounds of folds, each dealt anew [1]")
    add("--final", action="store_true", help="also train on all patients, with the folds' thresholds and figures")
    add("--finish", metavar="RECIPE", help="with --final: a second course for that model, such as robust-finish")
    add("--audit", choices=("full", "quick", "none"), default="full", help="audit of each fold's test patients [full]")
    add_shared(parser)
    return parser
