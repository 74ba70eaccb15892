"""Processes that read: each takes names of files in the spool and returns their slices, ready for the model; or, once a
series is complete, takes slices to be made ready once more, some together with their neighbours (`reading.Again`).

They run beside the process with the model, so that a GPU waits neither for them nor for the interpreter's lock. That
process talks to all of them from one thread, and only while it asks for an answer: what it computes in between has the
cores to itself, because no reader has more than `ahead` files, and gets the next when an answer is taken.

A process answers in the order in which it was asked. If it ends, it must have ended on the first file (or `Again`) for
which it owes an answer; only that is to blame, the others go to another process, and a new one takes its place. The
kernel ends one that a decoder keeps busy, or waiting, for too long. All end when their input does, that is, when the
process that started them ends, however it ends.

    python -m dicom_node.working.readers SPOOL BRACE_REMOVAL GEOMETRY

Standard input: one line per file, its name, or per `Again`. Standard output: GREETING, then for each line the line and
what was found, or the exception; each pickled and preceded by its length.
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

from dicom_node.store.spool import Spool
from dicom_node.working.allocation import keep_memory
from dicom_node.working.reading import Again, LeftOut, Ready, Way, look_again, look_at

_COMMAND = [sys.executable, "-m", "dicom_node.working.readers"]
_LENGTH = struct.Struct("<Q")
GREETING = "ready"
LONGEST_CPU_S = 30.0  # for one file; the slowest valid one, JPEG 2000 of 2048 x 2048 pixels, takes one or two
LONGEST_S = 300.0
"""By the clock, for one in a deadlock. At nice 19 beside busy processes a valid file gets a seventieth of a core (a
factor of 1.25 per step, sched(7)): its two seconds then take 140."""
_AGAIN = "["  # as such a line begins, and no name of a file
STARTS = 3  # failed starts of one process in a row before giving up: the kernel may just have needed memory
SIGN_S = 1.0  # between two signs of life while waiting for an answer, which may take longer than any lease
PIPE = 1 << 20
"""Bytes, a dozen answers, which wait there while rows are committed; as many as a process may ask for, pipe(7)."""


class ReaderEnded(Exception):
    """The process that read this file ended on it, or was killed."""


class Readers:
    """For one thread."""

    def __init__(self, count: int, spool: Spool, way: Way, *, ahead: int = 1) -> None:
        """`ahead`: how many files a process has at a time."""
        command = [*_COMMAND, str(spool.folder.resolve()), way.brace_removal, way.geometry]
        self._selector = selectors.DefaultSelector()
        self._processes = [_Process(command, self._selector) for _ in range(count)]
        self._ahead = ahead
        self._waiting: deque[str] = deque()
        """Files not yet given to any process."""
        self._answers: dict[str, Any] = {}
        """The answer for each file asked for; None until it has arrived."""

    def ask(self, file: str) -> None:
        """Request an answer for later; no process gets the file before `go_on` or `answer`."""
        self._waiting.append(file)
        self._answers[file] = None

    def answer(self, file: str, alive: Callable[[], None]) -> list[Ready | LeftOut]:
        """The answer for a file asked for before; it can be taken once. `alive` is called while waiting.

        Raises ReaderEnded, StoreUnavailable; and RuntimeError or OSError if a process cannot even start, for which no
        file is to blame.
        """
        while self._answers[file] is None:
            self.go_on(SIGN_S)
            alive()
        found = self._answers.pop(file)
        if isinstance(found, Exception):
            raise found
        return list(found)

    def go_on(self, wait_s: float = 0.0) -> None:
        """Give out waiting files, and take answers; wait for these at most `wait_s`."""
        self._give_out()
        for key, _ in self._selector.select(wait_s):
            self._hear(key.data)
        self._give_out()

    def forget(self) -> None:
        """Drop all that was asked for; reading in progress is finished, but its answer dropped."""
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
                if self._waiting[0].startswith(_AGAIN) and process.asked:
                    continue  # it may be longer than the pipe; only who owes no answer is sure to take it
                if len(process.asked) == before:
                    process.ask(self._waiting.popleft())

    def _hear(self, process: _Process) -> None:
        """If anything goes wrong, the process is killed: what it still sends must not pass for the answer to another
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
                    said = f"a reading process cannot start ({code}); the log has its last output"
                    raise RuntimeError(said) from exc
                self._waiting.extendleft(file for file in reversed(owed) if file in self._answers)
                return
            if owed and owed[0] in self._answers:
                self._answers[owed[0]] = ReaderEnded(f"the process that read it ended ({code})")
            self._waiting.extendleft(file for file in reversed(owed[1:]) if file in self._answers)


class _Process:
    """One reader; restarted for the next file after it was killed."""

    def __init__(self, command: Sequence[str], selector: selectors.BaseSelector) -> None:
        self._command, self._selector = command, selector
        self._heard = bytearray()
        self.greeted = False
        self.starts = 0
        """Starts in a row, including the last, without a greeting so far."""
        self.asked: deque[str] = deque()
        """Files for which it owes answers, in order; it is working on the first."""
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def ask(self, file: str) -> None:
        """Raises OSError if it cannot be started."""
        if self._process is None:
            self._start()
        self.asked.append(file)
        with contextlib.suppress(BrokenPipeError):  # that it has ended is noticed where its answer is missing
            os.write(self._pipes()[0].fileno(), f"{file}\n".encode())

    def answers(self) -> Iterator[tuple[str, Any]]:
        """The complete answers so far. Raises EOFError after the last one."""
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
        """Loses nothing: the process only reads. Returns its exit status, None if it is not running."""
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
        with contextlib.suppress(AttributeError, OSError):  # only on Linux, and limited per user
            fcntl.fcntl(self._pipes()[1], fcntl.F_SETPIPE_SZ, PIPE)
        self._selector.register(self._pipes()[1], selectors.EVENT_READ, self)

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """To the process, and from it."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def _message(self) -> Any:
        """The first message received; None while it is incomplete."""
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
    """Answer for one file after another, until the input ends."""
    import cv2

    spool, way = Spool(Path(arguments[0])), Way(*arguments[1:])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is not an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from the terminal; only the end of the input counts
    keep_memory()
    cv2.setNumThreads(1)  # there are as many processes as should compute
    with contextlib.suppress(BrokenPipeError):
        _write(answers, GREETING)
        for line in sys.stdin.buffer:
            file = line.decode().rstrip("\n")
            try:
                found: Any = list(
                    look_again(spool, Again.of(file), way, _bounded)
                    if file.startswith(_AGAIN)
                    else look_at(spool, file, way, _bounded)
                )
            except Exception as exc:  # noqa: BLE001 - outermost line of the process: sent to whoever asked
                found = exc
            _write(answers, (file, found))


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """SIGPROF ends a process that computes for too long, SIGALRM one that takes too long otherwise; this does not need
    the interpreter, which a decoder may not let run."""
    signal.setitimer(signal.ITIMER_PROF, LONGEST_CPU_S)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _write(to: IO[bytes], message: object) -> None:
    """Write it at once: its first byte wakes whoever waits for it."""
    pickled = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    to.write(_LENGTH.pack(len(pickled)) + pickled)
    to.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
