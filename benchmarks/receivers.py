"""The receivers that `benchmarks.receive` measures, each a process of its own, and one that classifies beside them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TITLE = "RECEIVER"
ENVIRONMENT = os.environ | {"TCP_NODELAY": "1"}
CLASSIFYING = """
import os
import numpy as np
from dtvit.inference import Classifier
os.nice(19)  # as dicom_node.working.process does
classifier = Classifier.load()
slices = np.random.default_rng(1).integers(0, 255, (16, 224, 224), np.uint8)
classifier.predict(slices)
print("ready", flush=True)
while True:
    classifier.predict(slices)
"""


@dataclass
class Receiver:
    """A receiver that runs."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    stores: Path
    rates: dict[int, list[float]] = field(default_factory=lambda: {1: [], 4: []})
    """Associations -> images/s, one a round."""
    cpu_s: dict[int, list[float]] = field(default_factory=lambda: {1: [], 4: []})
    """CPU seconds per 1,000 images."""
    latencies_ms: list[float] = field(default_factory=list)
    busy: dict[int, list[float]] = field(default_factory=lambda: {1: [], 4: []})
    """Rates beside a process that classifies."""

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # its own, and of children that ended


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def storescp(folder: Path, port: int, *options: str) -> list[str]:
    return ["storescp", "-aet", TITLE, "-od", str(folder / "stored"), *options, str(port)]


def orthanc(folder: Path, port: int) -> list[str]:
    """All durability as the package has it: SyncStorageArea is true by default."""
    config = {
        "DicomAet": TITLE,
        "DicomPort": port,
        "HttpServerEnabled": False,
        "DicomAlwaysAllowStore": True,
        "StorageDirectory": str(folder / "stored"),
        "IndexDirectory": str(folder / "index"),
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    return ["Orthanc", str(folder / "orthanc.json")]


def pynetdicom(folder: Path, port: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "pynetdicom",
        "storescp",
        str(port),
        "-aet",
        TITLE,
        "-od",
        str(folder / "stored"),
        "-q",
    ]


def node(loop: str) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        (folder / "config.toml").write_text(
            f'[node]\nae_title = "{TITLE}"\nbind = "127.0.0.1"\nport = {port}\nallowed_senders = ["*"]\n'
            f'receive_loop = "{loop}"\nmin_free_mib = 0\ndata_folder = "stored"\n[completion]\nsilence_s = 3600\n'
        )
        return [sys.executable, "-m", "dicom_node", "serve", "--config", str(folder / "config.toml")]

    return command


def checked_out(folder: Path) -> Callable[[Path, int], list[str]]:
    """The node of another checkout, with this one's environment: what a version changed, in one run with this one."""

    def command(own: Path, port: int) -> list[str]:
        return ["sh", "-c", 'cd "$0" && exec "$@"', str(folder.resolve()), *node("own")(own, port)]

    return command


RECEIVERS: dict[str, Callable[[Path, int], list[str]]] = {
    "storescp": storescp,
    "storescp --fork": lambda folder, port: storescp(folder, port, "--fork"),
    "orthanc": orthanc,
    "pynetdicom storescp": pynetdicom,
    "node": node("own"),
    "node (pynetdicom loop)": node("pynetdicom"),
}


@contextmanager
def running(names: Sequence[str], folder: Path) -> Iterator[list[Receiver]]:
    started: list[Receiver] = []
    try:
        for n, name in enumerate(names):
            own, port = folder / str(n), free_port()
            (own / "stored").mkdir(parents=True)
            with (own / "log").open("wb") as log:
                command = RECEIVERS[name](own, port)
                process = subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT, cwd=REPOSITORY)
            started.append(Receiver(name, port, process, own / "stored"))
            ready(started[-1], own / "log")
        yield started
    finally:
        for one in started:
            one.process.terminate()
        for one in started:
            stop(one.process)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()


@contextmanager
def classifying() -> Iterator[Callable[[bool], None]]:
    """A process that classifies without end while it is told to."""
    process = subprocess.Popen([sys.executable, "-c", CLASSIFYING], stdout=subprocess.PIPE, cwd=REPOSITORY)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise SystemExit("the shipped model cannot be loaded")
        process.send_signal(signal.SIGSTOP)
        yield lambda wanted: process.send_signal(signal.SIGCONT if wanted else signal.SIGSTOP)
    finally:
        process.kill()


def ready(one: Receiver, log: Path) -> None:
    """Until it listens, and, for a node, until its worker has loaded the model and is idle."""
    deadline = time.monotonic() + 240
    while True:
        echoed = subprocess.run(["echoscu", "-aec", TITLE, "127.0.0.1", str(one.port)], capture_output=True)
        if echoed.returncode == 0 and (not one.name.startswith("node") or b"worker_ready" in log.read_bytes()):
            return
        if time.monotonic() > deadline or one.process.poll() is not None:
            raise SystemExit(f"{one.name} does not listen:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)
