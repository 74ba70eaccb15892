"""Processes that read: each takes names of files in the spool and gives back their slices, ready for the model.

Beside the process that has the model, so that a GPU waits neither for them nor for the interpreter's lock. That process
speaks to all of them from one thread, and only while it asks for an answer: what it computes in between has the cores
for itself, because no process has more than `ahead` files, and is given the next when an answer was taken.

A process answers in the order in which it was asked. One that ends is known by that to have ended over the first file
that it owes; that file alone is to blame, what it was given besides goes to another, and a new one takes its place. The
kernel ends one that a decoder keeps busy, or waiting, without end. They end when their input does, which is when the
process that made them ends, however it ends.

    python -m dicom_node.readers SPOOL BRACE_REMOVAL GEOMETRY

On its standard input a line for each file; on its standard output GREETING, then for each file its name and what was
found, or the exception: pickled, each behind its length.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import selectors
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from dicom_node.allocation import keep_memory
from dicom_node.reading import LeftOut, Ready, Way, look_at
from dicom_node.store.spool import Spool

_COMMAND = [sys.executable, "-m", "dicom_node.readers"]
_LENGTH = struct.Struct("<Q")
GREETING = "ready"
LONGEST_CPU_S = 30.0  # for one file; the slowest honest one, JPEG 2000 of 2048 x 2048 pixels, takes one or two
LONGEST_S = 300.0
"""By the clock, for one that waits for itself. At nice 19 beside busy processes an honest one gets a seventieth of a
core (a factor of 1.25 each step, sched(7)): its two seconds then take 140."""
STARTS = 3  # of one, in a row, that come to nothing: the kernel may have needed memory just then
SIGN_S = 1.0  # between two signs of life while an answer is waited for; it may take longer than any lease
PIPE = 1 << 20
"""Bytes, a dozen answers, which lie there while rows are committed; as many as a process may ask for, pipe(7)."""


class ReaderEnded(Exception):
    """The process that read this file ended over it, or was ended."""


class Readers:
    """For one thread."""

    def __init__(self, count: int, spool: Spool, way: Way, *, ahead: int = 1) -> None:
        """`ahead`: how many files a process is given at a time."""
        command = [*_COMMAND, str(spool.folder.resolve()), way.brace_removal, way.geometry]
        self._selector = selectors.DefaultSelector()
        self._processes = [_Process(command, self._selector) for _ in range(count)]
        self._ahead = ahead
        self._waiting: deque[str] = deque()
        """Files that no process was given yet."""
        self._answers: dict[str, Any] = {}
        """Of each file that was asked for; None until it is there."""

    def ask(self, file: str) -> None:
        """For its answer, in a while; no process is given the file before `go_on` or `answer`."""
        self._waiting.append(file)
        self._answers[file] = None

    def answer(self, file: str, alive: Callable[[], None]) -> list[Ready | LeftOut]:
        """To be asked for before, and taken once. `alive` is called while it is waited for.

        Raises ReaderEnded, StoreUnavailable; and RuntimeError or OSError where a process cannot even start, for which
        no file is to blame.
        """
        while self._answers[file] is None:
            self.go_on(SIGN_S)
            alive()
        found = self._answers.pop(file)
        if isinstance(found, Exception):
            raise found
        return list(found)

    def go_on(self, wait_s: float = 0.0) -> None:
        """Give out what waits, and take what was answered; wait for that at most so long."""
        self._give_out()
        for key, _ in self._selector.select(wait_s):
            self._hear(key.data)
        self._give_out()

    def forget(self) -> None:
        """All that was asked for; what is being read is finished, for nobody."""
        self._waiting.clear()
        self._answers.clear()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        self._selector.close()

    def _give_out(self) -> None:
        for before in range(self._ahead):  # one each, then another each
            for process in self._processes:
                if not self._waiting:
                    return
                if len(process.asked) == before:
                    process.ask(self._waiting.popleft())

    def _hear(self, process: _Process) -> None:
        """Whatever goes wrong, the process is ended: what it still has to say must not pass for the answer to another
        file."""
        try:
            for file, found in process.answers():
                if file in self._answers:
                    self._answers[file] = found
        except BaseException as exc:
            owed, greeted, code = list(process.asked), process.greeted, process.kill()
            if not isinstance(exc, OSError | EOFError | pickle.UnpicklingError):
                raise
            if not greeted:
                if process.starts >= STARTS:
                    said = f"a reading process cannot start ({code}); its last words are in the log"
                    raise RuntimeError(said) from exc
                self._waiting.extendleft(file for file in reversed(owed) if file in self._answers)
                return
            if owed and owed[0] in self._answers:
                self._answers[owed[0]] = ReaderEnded(f"the process that read it ended ({code})")
            self._waiting.extendleft(file for file in reversed(owed[1:]) if file in self._answers)


class _Process:
    """Started anew for the next file after it was ended."""

    def __init__(self, command: Sequence[str], selector: selectors.BaseSelector) -> None:
        self._command, self._selector = command, selector
        self._heard = bytearray()
        self.greeted = False
        self.starts = 0
        """In a row, the last included, that came to no greeting yet."""
        self.asked: deque[str] = deque()
        """What it owes answers for, in their order; it is at the first."""
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def ask(self, file: str) -> None:
        """Raises OSError where it cannot be started."""
        if self._process is None:
            self._start()
        self.asked.append(file)
        with contextlib.suppress(BrokenPipeError):  # that it ended is told where its answer is missed
            os.write(self._pipes()[0].fileno(), f"{file}\n".encode())

    def answers(self) -> Iterator[tuple[str, Any]]:
        """Those that have come by now, whole. Raises EOFError after the last one."""
        said = os.read(self._pipes()[1].fileno(), PIPE)
        self._heard += said
        while (message := self._message()) is not None:
            if not self.greeted:  # the first of all, GREETING
                self.greeted, self.starts = True, 0
                continue
            file, found = message
            if not self.asked or file != self.asked[0]:
                raise RuntimeError("a reading process answered for another file than it was asked for")
            self.asked.popleft()
            yield file, found
        if not said:
            raise EOFError

    def kill(self) -> int | None:
        """Nothing is lost by that: it only reads. Returns its exit status, None where none runs."""
        if self._process is None:
            return None
        self._selector.unregister(self._pipes()[1])
        self._process.kill()
        for pipe in self._pipes():
            with contextlib.suppress(OSError):
                pipe.close()
        self.asked.clear()
        code, self._process = self._process.wait(), None
        return code

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._heard.clear()
        self.greeted = False
        self.starts += 1
        with contextlib.suppress(AttributeError, OSError):  # Linux, and only so many to one user
            fcntl.fcntl(self._pipes()[1], fcntl.F_SETPIPE_SZ, PIPE)
        self._selector.register(self._pipes()[1], selectors.EVENT_READ, self)

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """To it, and from it."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def _message(self) -> Any:
        """The first of what was heard; None while it is not all there."""
        begin = _LENGTH.size
        if len(self._heard) < begin:
            return None
        end = begin + _LENGTH.unpack_from(self._heard)[0]
        if len(self._heard) < end:
            return None
        with memoryview(self._heard) as heard, heard[begin:end] as message:
            found = pickle.loads(message)
        del self._heard[:end]
        return found


def main(arguments: Sequence[str]) -> None:
    """Answer file after file, until the input ends."""
    import cv2

    spool, way = Spool(Path(arguments[0])), Way(*arguments[1:])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the end of the input is what counts
    keep_memory()
    cv2.setNumThreads(1)  # there are as many processes as are meant to compute
    with contextlib.suppress(BrokenPipeError):
        _write(answers, GREETING)
        for line in sys.stdin.buffer:
            file = line.decode().rstrip("\n")
            try:
                found: Any = list(look_at(spool, file, way, _bounded))
            except Exception as exc:  # noqa: BLE001 - outermost line of the process: told to who asked
                found = exc
            _write(answers, (file, found))


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """SIGPROF ends a process that computes for too long, SIGALRM one that takes too long anyhow; that needs no
    interpreter, which a decoder may not let run."""
    signal.setitimer(signal.ITIMER_PROF, LONGEST_CPU_S)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _write(to: IO[bytes], message: object) -> None:
    """At once: who waits for it is woken by its first byte."""
    pickled = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    to.write(_LENGTH.pack(len(pickled)) + pickled)
    to.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
