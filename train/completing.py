"""Rows of a table, each made once: kept as a file, under a key that tells what it was made from, and how.

What `reproduce`, `ablate` and `crossvalidate` have in common: rows that are there are not made again, one that fails
does not stop the others, and whatever ends the work, the page shows what there is. Several at once, so that a GPU
trains one while others start, measure or audit, which the CPU does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from dtvit.wholefile import write_whole
from train.learning.state import UnusableRun
from train.processes import LostProcess, pool
from train.progress import Say, say_to_stderr

PAGE_EVERY_S = 60.0  # so that there is one if this is killed

Made = dict[str, Any]
"""What a row found; JSON."""


class Named(Protocol):
    @property
    def name(self) -> str:
        """Of its file; no two rows have the same."""


Row = TypeVar("Row", bound=Named)
Maker = Callable[[Row, Say], Made]
"""Makes a row; what raises UnusableRun costs that row alone."""


@dataclass(frozen=True)
class Rows(Generic[Row]):
    output: Path
    key: Callable[[Row], str]
    """What a row was made from, and how; those with different keys must not be compared."""
    left: Callable[[Row], Path | None] = lambda row: None
    """A file beside its own that others go on with: without it, the row is made again."""

    def file(self, row: Row) -> Path:
        return self.output / "rows" / f"{row.name}.json"

    def known(self, row: Row) -> Made | None:
        """What it found, if it was made under its key."""
        try:
            found: Made = json.loads(self.file(row).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        left = self.left(row)
        return found if found.get("key") == self.key(row) and (left is None or left.is_file()) else None

    def keep(self, row: Row, found: Made) -> None:
        """Raises OSError."""
        write_whole(self.file(row), json.dumps({"key": self.key(row), **found}, indent=1).encode())

    def complete(
        self,
        rows: Sequence[Row],
        make: Maker[Row],
        say: Say,
        *,
        at_once: int = 1,
        show: Callable[[Mapping[str, str]], object] = lambda failed: None,
    ) -> dict[str, str]:
        """Make those that are missing, and keep what they found; why others could not be made, by name.

        `show` writes the page, now and then and at the end, whatever that is; it is told of those that failed. Raises
        as `made`, and OSError.
        """
        missing = [row for row in rows if self.known(row) is None]
        say(f"{len(missing)} of {len(rows)} to make, {at_once} at a time")
        failed: dict[str, str] = {}
        shown = time.monotonic()
        try:
            for row, found in made(missing, make, say, at_once):
                if isinstance(found, UnusableRun):
                    failed[row.name] = str(found)
                    say(f"{row.name} could not be made: {found}")
                else:
                    self.keep(row, found)
                if time.monotonic() - shown > PAGE_EVERY_S:
                    show(failed)
                    shown = time.monotonic()
        finally:
            show(failed)
        return failed


def made(rows: Sequence[Row], make: Maker[Row], say: Say, at_once: int) -> Iterator[tuple[Row, Made | UnusableRun]]:
    """Each as it is done.

    Raises what `make` raises besides UnusableRun, and UnusableRun if a process was ended from outside.
    """
    if at_once == 1:
        for number, row in enumerate(rows, start=1):
            say(f"{row.name}: {number} of {len(rows)}")
            yield row, _one(make, row, partial(_said_by, row.name, say=say))
        return
    # Each in a fresh process of its own: what it held of the GPU is freed with it.
    try:
        with pool(at_once, max_tasks_per_child=1) as executor:
            waiting = {executor.submit(_one, make, row, partial(_said_by, row.name)): row for row in rows}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
    except LostProcess as exc:
        raise UnusableRun(
            f"a process that trains {exc}; the same command continues from there, also with a lower --at-once"
        ) from exc


def _said_by(name: str, text: str, say: Say = say_to_stderr) -> None:
    say(f"{name}: {text}")


def _one(make: Maker[Row], row: Row, say: Say) -> Made | UnusableRun:
    try:
        return make(row, say)
    except UnusableRun as exc:  # diverged, or its folder is in use
        return UnusableRun(str(exc))
