"""`python -m train fit`, which is `dicom-node train`: from a recipe to a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from train.options import parse

SUMMARY = "Train a checkpoint."


def main(arguments: Sequence[str], program: str) -> int:
    options = parse(arguments, program)  # before torch is imported, so that --help and a wrong option answer at once

    from dtvit.checkpoint import UnusableCheckpoint
    from dtvit.inference import UnavailableDevice
    from dtvit.model import UnknownEncoder
    from train.data import UnusableData
    from train.loop import UnusableRun
    from train.run import run

    try:
        path = run(options)
    except (UnusableCheckpoint, UnusableData, UnusableRun, UnavailableDevice, UnknownEncoder) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from the last saved state\n")
        return 130
    sys.stdout.write(f"{path}\n")
    return 0
