"""One module a command: `SUMMARY`, and `main(arguments, program)`, which answers --help before torch is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def compared(
    make: Callable[[], Sequence[str]],
    page: Path,
    *,
    of: str,
    page_of_some: bool = True,
) -> int:
    """Run a command that makes many of something (`of`: rows, folds) and a page of them; its exit status.

    `make` returns the names of those that could not be made; `page_of_some`: there is a page even if some failed.
    Whatever ends it, the same command continues from there.
    """
    from train.run import REFUSALS

    try:
        failed = make()
    except REFUSALS as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    except OSError as exc:
        sys.stderr.write(f"error: {page.parent} cannot be written to ({exc}); finished {of} are kept\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped; finished {of} are kept, and the same command continues from there\n")
        return 130
    if page_of_some or not failed:
        sys.stdout.write(f"{page}\n")
    if failed:
        sys.stderr.write(f"error: {len(failed)} {of} could not be made: {', '.join(failed)}\n")
    return 1 if failed else 0
