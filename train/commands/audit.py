"""`python -m train audit`, which is `dicom-node audit`: does a checkpoint look at blood? docs/audit.md."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from train.audit import PARTS
from train.options import add_checkpoint, positive, seed

SUMMARY = "Ask whether a checkpoint looks at blood, or at what happens to go with it."


def main(arguments: Sequence[str], program: str) -> int:
    options = _parse(arguments, program)  # before torch is imported, so that --help and a wrong option answer at once

    from train.audit.run import FULL, QUICK, REFUSALS, Order, audit, loaded
    from train.progress import stages

    sizes = QUICK if options.quick else FULL
    changed = {"patients": options.patients, "heads": options.phantoms}
    sizes = dataclasses.replace(sizes, **{name: value for name, value in changed.items() if value is not None})
    parts = tuple(options.only or PARTS)
    order = Order(options.data, options.output, sizes, options.seed, parts, options.split, options.heads)
    try:
        with stages() as tell:
            path = audit(loaded(options.checkpoint, options.device, options.threads), order, tell)
    except REFUSALS as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    except OSError as exc:
        sys.stderr.write(f"error: {exc.filename or options.output}: {exc.strerror}; no earlier audit is lost\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the phantoms made so far are kept, the rest starts over\n")
        return 130
    sys.stdout.write(f"{path}\n")
    return 0


def _parse(arguments: Sequence[str], program: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=SUMMARY, epilog="docs/audit.md explains the results.")
    add_checkpoint(parser)
    parser.add_argument("--data", type=Path, required=True, metavar="CSV", help="manifest with path, patient_id, ich")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for audit.html, audit.json and pictures"
    )
    parser.add_argument("--split", type=Path, metavar="CSV", help="a split file; only its test part is used")
    parser.add_argument("--quick", action="store_true", help="takes minutes; wider intervals")
    parser.add_argument(
        "--patients", type=positive, metavar="N", help="how many patients of the manifest [all; 60 with --quick]"
    )
    parser.add_argument(
        "--phantoms", type=positive, metavar="N", help="how many synthetic heads with a bleed [96; 24 with --quick]"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=PARTS,
        metavar="PART",
        help=f"run only this part, one of {', '.join(PARTS)}; may be repeated",
    )
    parser.add_argument(
        "--heads", type=Path, metavar="DIR", help="keep synthetic heads here, for several audits [OUTPUT/phantoms]"
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of everything drawn at random [0]")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps [auto]")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads of torch [torch's choice]")
    return parser.parse_args(arguments)
