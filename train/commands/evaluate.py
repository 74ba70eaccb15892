"""`python -m train evaluate`, which is `dicom-node evaluate`: what a checkpoint is worth on labelled pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from train.options import add_checkpoint, positive, seed

SUMMARY = "Measure a checkpoint on the pictures of a manifest."
EPILOG = """\
The output folder gets report.html (begin there), metrics.json, tables as CSV, figures and a gallery of the worst errors
as PNG. Figures that need what the manifest lacks (labels, sites, one of the classes) are left out, with the reason.
docs/evaluation.md explains each figure. NOT FOR CLINICAL USE.
"""


def main(arguments: Sequence[str], program: str) -> int:
    options = vars(_parser(program).parse_args(arguments))  # before torch is imported: --help answers at once

    from train.evaluation.cases import TOO_GOOD
    from train.evaluation.evaluating import REFUSALS, evaluate
    from train.evaluation.settings import Settings
    from train.evaluation.words import NOT_SHOWN
    from train.progress import stages

    settings = Settings(**options)
    try:
        with stages() as tell:
            found = evaluate(settings, tell)
    except REFUSALS as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; nothing was written\n")
        return 130
    for head, name, words in (
        ("presence", "auc", "AUC of hemorrhage"),
        ("location", "accuracy", "location right, of those with hemorrhage"),
    ):
        for level, units in (("slice", "slices"), ("patient", "series")):
            beside = f"; {found['split']}" if found["split"] in TOO_GOOD else ""
            sys.stdout.write(f"{words}, {units}: {_figure(found[head][level], name)}{beside}\n")
    for doubt in found["doubts"][: -len(NOT_SHOWN)]:  # those specific to this evaluation; the rest are in the report
        sys.stderr.write(f"note: {doubt}\n")
    sys.stdout.write(f"{settings.output / 'report.html'}\n")
    return 0


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description=SUMMARY, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_checkpoint(parser)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="MANIFEST", help="CSV that lists the pictures (docs/data.md)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    add(
        "--part",
        choices=("train", "validation", "test", "all"),
        help="part of the manifest, by its column split or --split [test if it has parts, else all]",
    )
    add("--split", type=Path, metavar="FILE", help="split that a training run wrote for this manifest")
    add(
        "--calibrate",
        metavar="VALIDATION",
        help="fit temperatures and thresholds first, on another manifest or on a part of this one (validation), and "
        "write a new checkpoint into the output folder",
    )
    add(
        "--masks",
        metavar="FOLDER|COLUMN",
        help="masks of the lesions, above 0 inside: a folder with files named like the pictures, or a column of paths",
    )
    add("--prevalence", type=_share, default=0.1, help="prevalence of hemorrhage at which to give PPV and NPV [0.1]")
    add("--resamples", type=positive, default=1000, help="resamples of patients, for the intervals [1000]")
    add("--examples", type=positive, default=8, help="errors of each kind in the gallery [8]")
    add("--relevance", action="store_true", help="write the relevance maps of all slices as arrays (slow; ViTs only)")
    add(
        "--precision",
        choices=("node", "fp32", "bf16"),
        default="node",
        help="node: bf16 on CUDA, fp32 elsewhere; bf16 is three times as fast on CPUs that have it [node]",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps [auto]")
    add("--batch", type=positive, help="slices at a time [by device]")
    add("--threads", type=positive, help="CPU threads of torch [all]")
    add("--seed", type=seed, default=0, help="of the resamples [0]")
    return parser


def _figure(figures: dict[str, object], name: str) -> str:
    value, interval = figures[name], figures.get(f"{name}_ci")
    if value is None:
        return f"not known: {figures[f'{name}_why']}"
    if not isinstance(interval, list) or interval[0] is None:
        return f"{value} (no interval: {figures[f'{name}_ci_why']})"
    return f"{value} ({interval[0]} to {interval[1]})"


def _share(text: str) -> float:
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, got {text}")
    return number
