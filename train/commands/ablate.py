"""`python -m train ablate`: the robust recipe with one ingredient left out at a time, trained, measured and audited."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from train.commands import compared
from train.options import add_shared, between, shared

SUMMARY = "Train the robust recipe with one ingredient left out at a time, and audit each."
EPILOG = """\
The output folder gets ablation.md, ablation.csv, and a file for each row and seed. Run again, the same command makes
the missing rows. docs/ablation.md explains the table.
"""


def main(arguments: Sequence[str], program: str) -> int:
    parser = _parser(program)
    given = parser.parse_args(arguments)  # before torch is imported: --help answers at once
    common = shared(parser, given)

    from train.comparing.ablation import ROWS, ablate
    from train.comparing.trials import Work
    from train.progress import say_to_stderr

    known = {row.name: row for row in ROWS}
    unknown = [name for name in given.only or () if name not in known]
    if unknown:
        sys.stderr.write(f"error: no row {unknown[0]!r}; the rows are {', '.join(known)}\n")
        return 2

    def make() -> list[str]:
        work = Work(data=given.data, output=given.output, audit="quick" if given.quick else "full", **common)
        rows = [known[name] for name in given.only] if given.only else ROWS
        return ablate(work, rows, given.seeds, f"{program} {shlex.join(arguments)}", say_to_stderr)

    return compared(make, given.output / "ablation.md", of="rows")


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description=SUMMARY, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="MANIFEST", help="CSV that lists the pictures (docs/data.md)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for rows, runs and the table")
    add("--seeds", type=between(1, 99), default=3, metavar="N", help="how many seeds, of split, weights and order [3]")
    add("--only", action="append", metavar="ROW", help="make only this row; may be repeated")
    add("--quick", action="store_true", help="audit in quick sizes: wider intervals")
    add_shared(parser)
    return parser
