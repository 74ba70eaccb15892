"""Processes that read: each takes the name of a file in the spool and gives back its slices, ready for the model.

Beside the process that has the model, so that a GPU waits neither for them nor for the interpreter's lock; where the
model wants the same cores they take turns by the batch (`Readers.resting`). One that a broken file ends takes nothing
along: the file is known, and another process takes its place. They end when their input does, which is when the process
that made them ends, however it ends. The kernel ends one that a decoder keeps busy, or waiting, without end.

    python -m dicom_node.readers SPOOL BRACE_REMOVAL GEOMETRY
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from dicom_node.allocation import keep_memory
from dicom_node.reading import LeftOut, Ready, Way, look_at
from dicom_node.store.spool import Spool

_COMMAND = [sys.executable, "-m", "dicom_node.readers"]
GREETING = "ready"
LONGEST_CPU_S = 30.0  # for one file; the slowest honest one, JPEG 2000 of 2048 x 2048 pixels, takes one or two
LONGEST_S = 300.0
"""By the clock, for one that waits for itself. At nice 19 beside busy processes an honest one gets a seventieth of a
core (a factor of 1.25 each step, sched(7)): its two seconds then take 140."""


class ReaderEnded(Exception):
    """The process that read this file ended over it, or was ended."""


class Readers:
    def __init__(self, count: int, spool: Spool, way: Way) -> None:
        command = [*_COMMAND, str(spool.folder.resolve()), way.brace_removal, way.geometry]
        self._threads = ThreadPoolExecutor(count, "reader")  # each writes to a process and waits for its answer
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._may_begin = threading.Event()
        self._may_begin.set()
        for _ in range(count):
            self._idle.put(_Process(command))

    def look_at(self, file: str) -> Future[list[Ready | LeftOut]]:
        """Begin to read; the result may raise ReaderEnded, StoreUnavailable."""
        return self._threads.submit(self._ask, file)

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Within it no file is begun, for a model that computes on the same cores: side by side they would take turns
        every few milliseconds, each time with cold caches, which costs a tenth of both."""
        self._may_begin.clear()
        try:
            yield
        finally:
            self._may_begin.set()

    def close(self) -> None:
        """What is begun is finished, and the processes end; what is not begun is not done."""
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().end()

    def _ask(self, file: str) -> list[Ready | LeftOut]:
        self._may_begin.wait()
        process = self._idle.get()
        try:
            found = process.ask(file)
        finally:
            self._idle.put(process)
        if isinstance(found, Exception):
            raise found
        return list(found)


class _Process:
    """Started anew for the next file after it was ended."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = self._started()
        self._greeted = False

    def ask(self, file: str) -> Any:
        """The answer. Raises ReaderEnded, and RuntimeError or OSError where the process did not even start, for which
        no file is to blame.

        Whatever goes wrong, the process is ended: what it still has to say must not pass for the answer to the next.
        """
        if self._process is None:
            self._process, self._greeted = self._started(), False
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            if not self._greeted:
                self._greeted = pickle.load(stdout) == GREETING
            _write(stdin, file)
            answered, found = pickle.load(stdout)
            if answered != file:
                raise RuntimeError("a reading process answered for another file than it was asked for")
        except BaseException as exc:
            self._process.kill()
            code = self.end()
            if not isinstance(exc, OSError | EOFError | pickle.UnpicklingError):
                raise
            if not self._greeted:
                raise RuntimeError(f"a reading process cannot start ({code}); its last words are in the log") from exc
            raise ReaderEnded(f"the process that read it ended ({code})") from exc
        return found

    def end(self) -> int | None:
        """Its exit status; None where none runs."""
        if self._process is None:
            return None
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        code, self._process = self._process.wait(), None
        return code

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def main(arguments: Sequence[str]) -> None:
    """Answer file after file, until the input ends."""
    import cv2

    spool, way = Spool(Path(arguments[0])), Way(*arguments[1:])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the end of the input is what counts
    keep_memory()
    with contextlib.suppress(AttributeError, OSError):
        os.nice(5)  # the model goes first: its threads wait for each other, slices that are read ahead wait for nobody
    cv2.setNumThreads(1)  # there are as many processes as are meant to compute
    with contextlib.suppress(EOFError, BrokenPipeError):
        _write(answers, GREETING)
        while True:
            file = pickle.load(sys.stdin.buffer)
            try:
                found: Any = list(look_at(spool, file, way, _bounded))
            except Exception as exc:  # noqa: BLE001 - outermost line of the process: told to who asked
                found = exc
            _write(answers, (file, found))


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """SIGPROF ends a process that computes for too long, SIGALRM one that takes too long anyhow; that needs no
    interpreter, which a decoder may not let run."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, LONGEST_CPU_S)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _write(to: IO[bytes], message: object) -> None:
    pickle.dump(message, to, pickle.HIGHEST_PROTOCOL)
    to.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
