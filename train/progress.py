"""What a command shows on standard error: lines, or bars on a terminal; and what a training keeps: log.csv, and
TensorBoard if that is installed."""

from __future__ import annotations

import contextlib
import datetime
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dtvit.wholefile import write_whole
from train import csvfile

Say = Callable[[str], None]
"""Called with a line, by what takes hours."""
Tell = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much: by what takes minutes, in stages."""
SAY_EVERY_S = 15.0
LOG = "log.csv"
EVENTS = "tensorboard"


def say_to_stderr(text: str) -> None:
    sys.stderr.write(f"{datetime.datetime.now().astimezone():%H:%M:%S} {text}\n")
    sys.stderr.flush()


def silent(_text: str) -> None:
    """What ranks other than the first say."""


class Journal:
    """One row for each look at the validation part, in log.csv and in TensorBoard, numbers as scalars."""

    def __init__(self, output: Path, rows: list[dict[str, Any]], say: Say) -> None:
        """`rows`: those from before the run was stopped; events beyond them are written again."""
        self.output, self.rows = output, rows
        self._events: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as exc:  # on a bare GPU machine; log.csv holds the same
            say(f"no TensorBoard ({exc}); {output / LOG} holds the same numbers")
        else:
            step = rows[-1]["step"] + 1 if rows else 0
            self._events = SummaryWriter(str(output / EVENTS), purge_step=step)  # type: ignore[no-untyped-call]

    def add(self, row: dict[str, Any]) -> None:
        """`row`: figures by name, and `step`."""
        self.rows.append(row)
        names = dict.fromkeys(name for each in self.rows for name in each)  # an older version may have named others
        lines = [names, *([each.get(name) for name in names] for each in self.rows)]
        write_whole(self.output / LOG, csvfile.encoded(lines))
        if self._events is not None:
            for name, value in row.items():
                if isinstance(value, str):  # the label of the split
                    self._events.add_text(name, value, row["step"])
                elif isinstance(value, int | float) and name != "step":
                    self._events.add_scalar(name, value, row["step"])
            self._events.flush()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


class Bar:
    """Of a training: shown if standard error is a terminal and rich is installed; else lines are said."""

    def __init__(self, wanted: bool) -> None:
        self._progress: Any = _bars("{task.percentage:.0f} %") if wanted else None
        if self._progress is not None:
            self._progress.start()
            self._task = self._progress.add_task("training", total=1.0)

    @property
    def shown(self) -> bool:
        return self._progress is not None

    def show(self, done: float, text: str) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=done, description=text)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


@contextlib.contextmanager
def stages() -> Iterator[Tell]:
    """A bar for each stage; a line for each where there are no bars."""
    bars = _bars("{task.completed:.0f}/{task.total:.0f}")
    if bars is None:
        yield _in_lines()
        return
    known: dict[str, Any] = {}
    with bars:

        def tell(what: str, done: int, of: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what, total=of)
            bars.update(known[what], completed=done)

        yield tell


def _in_lines() -> Tell:
    said: set[str] = set()

    def tell(what: str, done: int, of: int) -> None:
        if what not in said:
            said.add(what)
            sys.stderr.write(f"{what} ({of:,})\n" if of > 1 else f"{what}\n")
            sys.stderr.flush()

    return tell


def _bars(done: str) -> Any:
    """Bars of rich, not yet shown; None without a terminal, or without rich, as on a bare GPU machine. `done`: how much
    is said to be done."""
    if not sys.stderr.isatty():
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        return None
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn(done), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)
