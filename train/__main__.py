"""`python -m train --synthetic --output DIR`: the same as `dicom-node train`, where only torch, timm and numpy are."""

from __future__ import annotations

import sys

from train.options import parse


def main() -> int:
    options = parse()  # before torch is imported, so that --help and a wrong option answer at once

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


if __name__ == "__main__":
    sys.exit(main())
