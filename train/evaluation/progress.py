"""Progress on standard error: a bar if it is a terminal and rich is installed, else a line for each stage."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Tell = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


@contextlib.contextmanager
def shown() -> Iterator[Tell]:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
    except ImportError:  # a bare GPU machine
        yield _plain()
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    stages: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True) as bars:

        def tell(what: str, done: int, of: int) -> None:
            if what not in stages:
                stages[what] = bars.add_task(what, total=of)
            bars.update(stages[what], completed=done)

        yield tell


def _plain() -> Tell:
    said: set[str] = set()

    def tell(what: str, done: int, of: int) -> None:
        if what not in said:
            said.add(what)
            sys.stderr.write(f"{what} ({of:,})\n" if of > 1 else f"{what}\n")
            sys.stderr.flush()

    return tell
