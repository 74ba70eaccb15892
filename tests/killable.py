"""`dicom-node serve` whose processes obey orders to die and have a clock that jumps, see tests/dying."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from dying.nursery import Nursery
from running import RunningNode

HERE = Path(__file__).resolve().parent


class KillableNode(RunningNode):
    """Starts by `python -m dicom_node` in full, or forked from a nursery where it is given one."""

    nursery: Nursery | None = None
    _ends = 0
    _ends_looked_for_to = 0

    @property
    def order(self) -> Path:
        return self.folder / "order"

    @property
    def clock(self) -> Path:
        return self.folder / "clock"

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": os.pathsep.join([str(HERE / "dying"), str(HERE.parent)]),
            "DICOM_NODE_DIE_BY": str(self.order),
            "DICOM_NODE_CLOCK": str(self.clock),
            "DICOM_NODE_STAND_IN": "0.01",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def launch(self) -> int:
        """Start, and do not wait; returns the length of the log before, in bytes."""
        arguments = ["serve", "--config", str(self.folder / "config.toml")]
        with (self.folder / "node.log").open("ab") as log:
            before = log.tell()
            given: dict[str, Any] = {"stdout": log, "stderr": log, "env": self.environment}
            if self.nursery is not None:
                self.process = self.nursery.born(arguments, **given)  # type: ignore[assignment]
            else:
                self.process = subprocess.Popen([sys.executable, "-m", "dicom_node", *arguments], **given)
        return before

    def start(self) -> None:
        """Start, and again if it is killed before it listens."""
        for _ in range(5):
            before = self.launch()
            assert self.process is not None
            while self.process.poll() is None:
                if b" ready ae_title=" in self.log_from(before):
                    return
                time.sleep(0.02)
            said = self.log_from(before).decode()
            assert self.process.returncode == -signal.SIGKILL, f"it ended by itself:\n{said}"
        raise AssertionError("it does not come up")

    def log_from(self, position: int) -> bytes:
        with (self.folder / "node.log").open("rb") as log:
            log.seek(position)
            return log.read()

    @property
    def worker_ends(self) -> int:
        """How often `serve` has seen a worker end by itself."""
        new, newline, _ = self.log_from(self._ends_looked_for_to).rpartition(b"\n")
        self._ends += new.count(b"worker_ended")
        self._ends_looked_for_to += len(new) + len(newline)
        return self._ends

    def give_order(self, step: str, count: int) -> None:
        new = self.order.with_suffix(".new")
        new.write_text(f"{count} {step}\n{time.monotonic_ns()}")
        new.rename(self.order)

    def take_order_back(self) -> bool:
        """Whether nobody had obeyed it."""
        try:
            self.order.unlink()
        except FileNotFoundError:
            return False
        return True

    def put_clock(self, seconds: float) -> None:
        new = self.clock.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self.clock)

    def workers(self) -> list[int]:
        """Process IDs of what `serve` has started and not outlived."""
        assert self.process is not None
        return self._children_of(self.process.pid)

    def readers(self) -> list[int]:
        """Process IDs of what its workers have started."""
        return [reader for worker in self.workers() for reader in self._children_of(worker)]

    def _children_of(self, pid: int) -> list[int]:
        if self.nursery is not None:
            return self.nursery.children_of(pid)
        found: list[int] = []
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, task.read_text().split())
        return found

    @property
    def is_dead(self) -> bool:
        return self.process is None or self.process.poll() is not None
