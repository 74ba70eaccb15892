"""A node in a process of its own, for tests that treat it as its users do."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_node import scanner
from dicom_node.config import Peer
from dicom_node.network import scu

SENDER = "TEST_CT"
NODE = "TEST_NODE"


@dataclass
class RunningNode:
    """`dicom-node serve` as a child process, which may be killed and started again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def log(self) -> str:
        return (self.folder / "node.log").read_text()

    @property
    def peer(self) -> Peer:
        return Peer(name="node", host="127.0.0.1", port=self.port, ae_title=NODE, timeout_s=10)

    def start(self) -> None:
        ready = self.log.count(" ready ") if (self.folder / "node.log").exists() else 0
        command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(self.folder / "config.toml")]
        with (self.folder / "node.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.until(lambda: self.log.count(" ready ") > ready, "the node listens")

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
        """Wait for `condition`; a node that is not there any more ends the wait at once."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not in {timeout_s:.0f} s: {what}\n{self.log}"
            assert self.process is None or self.process.poll() is None, f"the node ended: {what}\n{self.log}"
            time.sleep(0.05)

    def worker_pid(self, number: int = 1) -> int:
        """Process ID of the `number`-th worker started so far, as soon as it is ready."""
        self.until(lambda: self.log.count("worker_ready") >= number, "a worker is ready")
        return int(re.findall(r"worker_ready pid=(\d+)", self.log)[number - 1])

    def kill(self) -> None:
        """As a power cut would: no signal handler runs, nothing is tidied up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(by)
        code = self.process.wait(60)
        self.process = None
        return code

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        config = ["--config", str(self.folder / "config.toml")]
        command = [sys.executable, "-m", "dicom_node", *arguments, *config]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def store(node: RunningNode, datasets: list[Dataset], folder: Path, calling: str = SENDER) -> list[scu.Sent]:
    """Send the objects over one association; what was answered."""
    items = [scu.outgoing(path) for path in scanner.write(datasets, folder)]
    return list(scu.send(node.peer, calling, items))
