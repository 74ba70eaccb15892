"""A process that has imported the node once and forks what a test starts: a start then costs next to nothing.

What is born is what `python -m dicom_node` starts, but for the imports: a process of its own, to be killed at any
moment, that dies with nobody but itself. Linux alone: a message on an abstract socket is a process (its command line,
its environment, its standard streams); the answers are its process ID and, later, how it ended.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

MESSAGE = 1 << 17  # bytes; an environment is a tenth of that
IMPORTED = (  # by `serve` and its worker sooner or later
    *("dicom_node.cli", "dicom_node.serving.service", "dicom_node.working.process", "dicom_node.working.readers"),
    *("alembic.command", "alembic.script"),
    *("highdicom.sr", "highdicom.ko", "pydicom.pixels", "cv2", "skimage.measure", "skimage.segmentation"),
    *("skimage.morphology", "sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql", "dtvit.checkpoint"),
)
_numbers = itertools.count(1)


def _asked(name: str, message: Any, streams: Sequence[int] = ()) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line.connect(f"\0{name}")
    socket.send_fds(line, [json.dumps(message).encode()], streams)
    return line


class Born:
    """A process of the nursery's, as `subprocess.Popen` would be one."""

    def __init__(
        self,
        nursery: str,
        arguments: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`arguments` of `dicom-node`; the rest as of Popen, as far as the node and its tests use it."""
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        theirs: list[int] = []
        if stdin == subprocess.PIPE:
            read, write = os.pipe()
            theirs.append(read)
            self.stdin = os.fdopen(write, "wb", buffering=0)
        else:
            theirs.append(os.open(os.devnull, os.O_RDONLY))
        if stdout == subprocess.PIPE:
            read, write = os.pipe()
            theirs.append(write)
            self.stdout = os.fdopen(read, "rb")
        else:
            theirs.append(os.dup(_number(stdout, 1)))
        theirs.append(os.dup(_number(stderr, 2)))
        message = {"arguments": list(arguments), "environment": dict(os.environ if env is None else env)}
        self._line = _asked(nursery, message, theirs)
        for stream in theirs:
            os.close(stream)
        self.pid = int(self._line.recv(64))

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self.returncode = int(self._line.recv(64) or -signal.SIGKILL)
            self._line.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _number(stream: int | IO[bytes] | None, otherwise: int) -> int:
    return otherwise if stream is None else stream if isinstance(stream, int) else stream.fileno()


class Nursery:
    """As the test has it. `close` ends all that was born there and has not ended."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.name = f"dicom-node-nursery-{os.getpid()}-{next(_numbers)}"
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", "the nursery does not start"

    def born(self, arguments: Sequence[str], **given: Any) -> Born:
        return Born(self.name, arguments, **given)

    def children_of(self, pid: int) -> list[int]:
        """Process IDs of what the process has asked for, and what lives."""
        with _asked(self.name, {"children_of": pid}) as line:
            return [int(child) for child in json.loads(line.recv(MESSAGE))]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


# Within the nursery


@dataclass(frozen=True)
class Child:
    pid: int
    asked_by: int
    handle: int
    """Readable when it has ended (pidfd_open(2))."""
    line: socket.socket


class _Server:
    def __init__(self, name: str, orders: Any) -> None:
        self._name = name
        self._orders = orders
        self._children: dict[int, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(f"\0{name}")
        self._listener.listen(64)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(0, selectors.EVENT_READ)

    def run(self) -> None:
        """Until the standard input ends."""
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._ended(key.data)
                elif key.fileobj is self._listener:
                    self._asked()
                else:
                    for child in self._children.values():
                        os.kill(child.pid, signal.SIGKILL)
                    return

    def _asked(self) -> None:
        line, _ = self._listener.accept()
        content, streams, _, _ = socket.recv_fds(line, MESSAGE, 3)
        asked = json.loads(content or "null")
        if asked is None:  # killed before it could say what it wanted
            line.close()
        elif "children_of" in asked:
            line.send(
                json.dumps([c.pid for c in self._children.values() if c.asked_by == asked["children_of"]]).encode()
            )
            line.close()
        else:
            self._bear(asked, streams, line)
        for stream in streams:
            os.close(stream)

    def _bear(self, asked: dict[str, Any], streams: list[int], line: socket.socket) -> None:
        asked_by = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        pid = os.fork()
        if pid == 0:
            _live(self._name, asked, streams, self._orders)
        child = Child(pid, asked_by, os.pidfd_open(pid), line)
        self._children[pid] = child
        self._selector.register(child.handle, selectors.EVENT_READ, child)
        with suppress(OSError):  # nobody is left to be told
            line.send(str(pid).encode())

    def _ended(self, child: Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        with suppress(OSError):
            child.line.send(str(os.waitstatus_to_exitcode(status)).encode())
        child.line.close()
        self._selector.unregister(child.handle)
        os.close(child.handle)
        del self._children[child.pid]


def _live(nursery: str, asked: dict[str, Any], streams: list[int], orders: Any) -> NoReturn:
    """The new process, from here to its end."""
    status: Any = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = ["dicom-node", *asked["arguments"]]
        command = sys.argv[1]
        become(command, orders)
        _let_children_be_born(nursery)
        if command == "readers":
            from dicom_node.working import readers

            readers.main(sys.argv[2:])
        else:
            from dicom_node.cli import main

            main()
        status = 0
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def become(command: str, orders: Any) -> None:
    """What `sitecustomize` does for a process with a start of its own."""
    from dying_steps import RECEIVER, WORKER
    from sitecustomize import stand_in

    orders.process = {"serve": RECEIVER, "worker": WORKER}.get(command)
    if command == "worker" and "DICOM_NODE_STAND_IN" in os.environ:
        stand_in(float(os.environ["DICOM_NODE_STAND_IN"]))


def _let_children_be_born(nursery: str) -> None:
    """`serve` starts its worker by Popen, and that its reading processes: let these ask the nursery."""
    popen: Any = subprocess.Popen

    def start(command: Sequence[str], **given: Any) -> Any:
        if list(command[1:4]) == ["-m", "dicom_node", "worker"]:
            return Born(nursery, command[3:], **given)
        if list(command[1:3]) == ["-m", "dicom_node.working.readers"]:
            return Born(nursery, ["readers", *command[3:]], **given)
        return popen(command, **given)

    subprocess.Popen = start  # type: ignore[assignment, misc]


def main(name: str) -> None:
    import importlib

    from dying_steps import arm

    orders = arm(Path(os.environ["DICOM_NODE_DIE_BY"]))
    for module in IMPORTED:
        importlib.import_module(module)
    server = _Server(name, orders)
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"a process of {threads} threads must not fork"
    gc.collect()
    gc.freeze()
    os.write(1, b"ready\n")
    server.run()


if __name__ == "__main__":
    main(sys.argv[1])
