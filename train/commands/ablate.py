"""`python -m train ablate`: the robust recipe without one ingredient at a time, each trained, measured and audited."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

SUMMARY = "Train the robust recipe without one ingredient at a time, and audit each."
EPILOG = """\
The output folder gets ablation.md, ablation.csv, and a file for each row and seed. Called again, the same command makes
the rows that are missing. docs/ablation.md tells what the table says.
"""


def main(arguments: Sequence[str], program: str) -> int:
    given = _parser(program).parse_args(arguments)  # before torch is imported: --help answers at once

    from dtvit.inference import UnavailableDevice
    from train.ablation import ROWS, Work, ablate
    from train.data import UnusableData
    from train.progress import say_to_stderr
    from train.recipe import UnusableRecipe
    from train.state import UnusableRun

    known = {row.name: row for row in ROWS}
    unknown = [name for name in given.only or () if name not in known]
    if unknown:
        sys.stderr.write(f"error: no row {unknown[0]!r}; there are {', '.join(known)}\n")
        return 2
    work = Work(
        data=given.data,
        output=given.output,
        minutes=given.minutes,
        phantoms=given.phantoms,
        phantom_minutes=given.phantom_minutes,
        quick=given.quick,
        device=given.device,
        threads=given.threads,
    )
    try:
        rows = [known[name] for name in given.only] if given.only else ROWS
        failed = ablate(work, rows, given.seeds, " ".join([program, *arguments]), say_to_stderr)
    except (UnusableData, UnusableRun, UnusableRecipe, UnavailableDevice) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    except OSError as exc:
        sys.stderr.write(f"error: {given.output} cannot be written to ({exc}); rows that are there are whole\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the table shows what is there, and the same command goes on\n")
        return 130
    sys.stdout.write(f"{given.output / 'ablation.md'}\n")
    if failed:
        sys.stderr.write(f"error: {len(failed)} rows could not be made: {', '.join(failed)}\n")
    return 1 if failed else 0


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description=SUMMARY, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="MANIFEST", help="CSV that lists the pictures (docs/data.md)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for rows, runs and the table")
    add("--minutes", type=_positive, default=60.0, help="of training, each row; the schedule ends then [60]")
    add("--seeds", type=int, choices=range(1, 100), default=3, metavar="N", help="of split, weights and order [3]")
    add("--only", action="append", metavar="ROW", help="this row alone; may be repeated")
    add("--phantoms", type=Path, metavar="DIR", help="synthetic heads that are made, for all seeds [made anew by seed]")
    add("--phantom-minutes", type=_positive, metavar="MIN", help="make no more phantoms after so many minutes")
    add("--quick", action="store_true", help="the audit's quick sizes: wider intervals")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    add("--threads", type=int, metavar="N", help="CPU threads of torch [all]")
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"must be more than 0, got {text}")
    return number
