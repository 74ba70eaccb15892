"""What a run shows: lines, or a bar on a terminal; and what it keeps: log.csv, and TensorBoard if that is installed."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dtvit.wholefile import write_whole
from train import csvfile

Say = Callable[[str], None]
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
    """A rich progress bar if standard error is a terminal and rich is installed; else nothing, and lines are said."""

    def __init__(self, wanted: bool) -> None:
        self._progress: Any = None
        if not (wanted and sys.stderr.isatty()):
            return
        try:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        except ImportError:
            return
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %")
        self._progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
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
