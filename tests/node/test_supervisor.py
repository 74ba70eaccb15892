"""`serve` keeps a worker going whatever happens to the database, or to the machine, when one has ended."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from made import Made

from dicom_node.configfile import load, to_line
from dicom_node.errors import StoreFull, StoreUnavailable
from dicom_node.working.supervisor import Supervisor

LEASE_S = 0.3
SETTINGS = b'{"settings": true}\n'


class Impatient(threading.Event):
    """Nobody waits for it; it is set when that many workers have ended."""

    def __init__(self, ended: int) -> None:
        super().__init__()
        self.waits: list[float] = []
        self._ended = ended

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None and timeout > 0.1:  # what lies between two workers; a shorter look is at one that runs
            self.waits.append(timeout)
            if len(self.waits) == self._ended:
                self.set()
        else:
            super().wait(timeout)
        return self.is_set()


def python(program: str) -> Sequence[str]:
    return [sys.executable, "-c", program]


def supervise(
    node: Made,
    command: Callable[[str], Sequence[str]],
    stopping: threading.Event,
    done: Any = lambda: None,
    settings: bytes = SETTINGS,
) -> None:
    Supervisor(node.database, command, settings=settings, lease_s=LEASE_S, stopping=stopping, done=done).run()


@pytest.mark.parametrize("error", [StoreUnavailable("no database"), StoreFull("no room")])
def test_a_worker_is_started_again_though_its_leases_cannot_be_freed(
    node: Made, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def write() -> Any:
        raise error

    owners: list[str] = []

    def command(owner: str) -> Sequence[str]:
        owners.append(owner)
        return python("")

    stopping = Impatient(3)
    monkeypatch.setattr(node.database, "write", write)
    supervise(node, command, stopping)
    assert stopping.waits == [1.0, 2.0, 4.0]
    assert len(set(owners)) == 3


def test_a_worker_that_cannot_be_started_is_tried_again(node: Made, caplog: pytest.LogCaptureFixture) -> None:
    stopping = Impatient(3)
    supervise(node, lambda _: ["/no/such/program"], stopping)
    assert stopping.waits == [1.0, 2.0, 4.0]
    assert "No such file" in caplog.text


def test_a_worker_that_no_thread_can_listen_to_is_tried_again(
    node: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a machine that is short of threads for a moment, `serve` would go on without a worker for ever."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    stopping = Impatient(3)
    supervise(node, lambda _: python("import sys; sys.stdin.read()"), stopping)
    assert stopping.waits == [1.0, 2.0, 4.0]
    assert "can't start new thread" in caplog.text


def test_a_worker_that_falls_silent_is_ended(node: Made, caplog: pytest.LogCaptureFixture) -> None:
    hanging = "import sys, threading; sys.stdout.write('.'); sys.stdout.flush(); threading.Event().wait()"
    supervise(node, lambda _: python(hanging), Impatient(1))
    assert "worker_hangs" in caplog.text
    assert "code=-9" in caplog.text


def test_a_worker_stops_when_its_input_ends(node: Made) -> None:
    obedient = "import sys; sys.stdout.write('!'); sys.stdout.flush(); sys.stdin.read(); sys.stdout.write('!')"
    stopping, done = threading.Event(), threading.Semaphore(0)

    def at_first() -> None:
        done.release()
        stopping.set()

    supervise(node, lambda _: python(obedient), stopping, at_first)
    assert done.acquire(timeout=10.0)
    assert done.acquire(timeout=10.0)  # its last word, which it says only after the end of its input


@pytest.mark.parametrize("size", [20, 1 << 20])  # the second is more than a pipe holds
def test_each_worker_is_given_the_same_settings_whatever_their_length(node: Made, tmp_path: Path, size: int) -> None:
    given = b"a" * size + b"\n"
    noting = "import os, sys; open(sys.argv[1] + str(os.getpid()), 'wb').write(sys.stdin.buffer.readline())"
    supervise(node, lambda _: [*python(noting), str(tmp_path / "given-")], Impatient(2), settings=given)
    assert [noted.read_bytes() == given for noted in tmp_path.glob("given-*")] == [True, True]


def test_a_worker_that_never_reads_its_settings_holds_nothing_up(node: Made) -> None:
    deaf = "import sys, threading; sys.stdout.write('.'); sys.stdout.flush(); threading.Event().wait()"
    supervise(node, lambda _: python(deaf), stopping := Impatient(2), settings=b"a" * (1 << 20))
    assert stopping.waits == [1.0, 2.0]


def test_what_a_worker_has_done_is_told_each_time(node: Made) -> None:
    done = threading.Semaphore(0)
    supervise(node, lambda _: python("print('..!...!.', end='')"), Impatient(1), done.release)
    assert done.acquire(timeout=10.0)
    assert done.acquire(timeout=10.0)
    assert not done.acquire(timeout=0.1)


def ended_worker(settings: bytes) -> tuple[int, str]:
    """One that is given these, and ends; how, and what it said."""
    command = [sys.executable, "-m", "dicom_node", "worker", "--owner", "me"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stderr is not None
        worker.stdin.write(settings)
        worker.stdin.flush()
        return worker.wait(120), worker.stderr.read().decode()


def test_a_worker_of_another_release_quotes_nothing_of_what_it_cannot_read() -> None:
    code, said = ended_worker(b'{"node": {"database_url": "postgresql://node:secret@host/db", "was_removed": 1}}\n')
    assert code == 1
    assert "was another dicom-node version installed meanwhile? restart serve" in said
    assert "secret" not in said


def test_a_worker_that_cannot_work_says_why_in_one_line_and_ends(tmp_path: Path) -> None:
    """Its thread that waits for the end of its input held a lock, over which the interpreter ended with a core dump."""
    (tmp_path / "config.toml").write_text('[node]\nmin_free_mib = 0\n[model]\ncheckpoint = "gone.safetensors"\n')
    code, said = ended_worker(to_line(load(tmp_path / "config.toml")))
    assert code == 1
    assert "ERROR dicom_node.worker cannot_work reason=" in said
    assert "gone.safetensors: cannot be read" in said
    assert said.count("\n") == 1
