"""`python -m train export`, which is `dicom-node export`: a checkpoint as ONNX, as torch.export, or its model card."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from train.options import add_checkpoint

SUMMARY = "Write a checkpoint as ONNX or torch.export, and check the numbers; or write its model card."


def main(arguments: Sequence[str], program: str) -> int:
    """The exit status: 0, 1 for an error that says what to do, 130 for Ctrl-C."""
    options = _parser(program).parse_args(arguments)  # before torch is imported: --help answers at once

    from dtvit.checkpoint import UnusableCheckpoint
    from train.exporting import TOLERANCE, NotExportable, export, export_card

    try:
        if options.format == "card":
            export_card(options.checkpoint, options.output)
        else:
            made = export(options.checkpoint, options.format, options.output)
            sys.stdout.write(
                f"largest difference in any probability on {made.slices} phantom slices: {made.difference:.2g} "
                f"(allowed: {TOLERANCE:g})\n{made.beside}\n"
            )
    except (UnusableCheckpoint, NotExportable) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    except OSError as exc:
        sys.stderr.write(
            f"error: {options.output} cannot be written ({exc.strerror}); name another file with --output\n"
        )
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; nothing was written\n")
        return 130
    sys.stdout.write(f"{options.output}\n")
    return 0


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=SUMMARY, epilog="NOT FOR CLINICAL USE.")
    add_checkpoint(parser)
    add = parser.add_argument
    add("--format", required=True, choices=("onnx", "torch-export", "card"), help="onnx needs dicom-node[onnx]")
    add("--output", type=Path, required=True, metavar="FILE", help="file to write; a README goes beside a model")
    return parser
