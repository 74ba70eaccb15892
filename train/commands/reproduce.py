"""`python -m train reproduce`, which is `dicom-node reproduce`: both papers' tables and figures, and what they hide."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from train.commands import compared
from train.options import minutes, positive

SUMMARY = "Repeat both papers' tables and figures, beside the same with patients apart, and yardsticks."
EPILOG = """\
The output folder gets reproduce.html and reproduce.md, tables as CSV, figures as PNG, and a file for each row of the
tables. Run again, the same command makes the missing rows. docs/reproduce.md explains the tables.
"""
SEEDS, QUICK_SEEDS = 3, 2


def main(arguments: Sequence[str], program: str) -> int:
    parser = _parser(program)
    given = parser.parse_args(arguments)  # before torch is imported: --help answers at once
    if given.pretrained not in (None, "auto", "none") and not Path(given.pretrained).is_dir():
        parser.error(f"--pretrained takes auto, none or an existing folder, got {given.pretrained!r}")

    from dtvit.inference import choose_device
    from train.progress import say_to_stderr
    from train.reproduce import papers, planned
    from train.reproduce.reproducing import data_of, reproduce
    from train.reproduce.rows import Reproduction

    def make() -> list[str]:
        numbers = papers.read(given.papers)
        choose_device(given.device)  # refused now, not after the yardsticks
        work = Reproduction(
            data=data_of(given.data, given.output, quick=given.quick),
            output=given.output,
            quick=given.quick,
            pretrained=given.pretrained or ("none" if given.quick else "auto"),
            device=given.device,
            threads=given.threads,
            max_time=given.max_time,
            keep=given.keep,
        )
        seeds = given.seeds or (QUICK_SEEDS if given.quick else SEEDS)
        plan = planned.plan(given.only or planned.CHAPTERS, seeds, quick=given.quick)
        return reproduce(work, plan, numbers, f"{program} {shlex.join(arguments)}", say_to_stderr)

    return compared(make, given.output / "reproduce.html", of="rows")


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description=SUMMARY, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="MANIFEST", help="CSV that lists the pictures (docs/data.md)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for rows, page, tables and figures")
    add("--quick", action="store_true", help="small encoders, few slices, little training: minutes on two cores")
    add("--only", action="append", choices=("v1", "v2", "yardsticks"), help="only this chapter; may be repeated")
    add("--seeds", type=positive, help=f"how many seeds, of splits and training [{SEEDS}; with --quick {QUICK_SEEDS}]")
    add(
        "--pretrained",
        help="ImageNet weights: auto (from the hub, else from scratch), none, or a folder of ENCODER.safetensors "
        "or .pth [auto; with --quick none]",
    )
    add("--papers", type=Path, metavar="FILE", help="the papers' numbers, instead of the few shipped here (TOML)")
    add("--max-time", type=minutes, metavar="MIN", help="time limit for training each row")
    add("--keep", action="store_true", help="keep the checkpoint of every row")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps [auto]")
    add("--threads", type=positive, help="CPU threads of torch [all]")
    return parser
