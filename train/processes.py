"""Work on many pictures, in as many processes as there are cores."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

from train.progress import SAY_EVERY_S
from train.progress import Say as Say  # exported again, beside the functions that take it

WORKER = "train-worker"
UNGUARDED = 78  # exit status of a worker that found itself doing its parent's work; EX_CONFIG of sysexits.h

Job = TypeVar("Job")
Found = TypeVar("Found")


class UnguardedScript(RuntimeError):
    """A script does its work while it is imported, and each process that it starts begins by importing it."""


class LostProcess(RuntimeError):
    """A process that shared the work ended before it was done; the text says how, in words that follow "a process"."""


def in_processes(
    work: Callable[[Job], Found], jobs: Iterable[Job], processes: int | None, say: Say, done: str
) -> list[Found]:
    """What `work` makes of each job, in order; in this process if there is to be only one.

    `processes`: None for one per core. `done`: what progress lines say of the slices, such as "traced". Raises what
    `work` raises, UnguardedScript and LostProcess.
    """
    count = processes or multiprocessing.cpu_count()
    if count == 1:
        return [work(job) for job in jobs]
    found: list[Found] = []
    said_at = time.monotonic()
    with pool(count, initializer=_one_thread) as executor:
        for each in executor.map(work, jobs, chunksize=16):
            found.append(each)
            if time.monotonic() - said_at > SAY_EVERY_S:
                said_at = time.monotonic()
                say(f"{len(found)} slices {done}")
    return found


@contextlib.contextmanager
def pool(count: int, **options: Any) -> Iterator[ProcessPoolExecutor]:
    """Spawned processes: a forked child would inherit torch's threads in a state that hangs. At the end, jobs not yet
    begun are dropped, and those begun are waited for.

    `options`: of ProcessPoolExecutor. Raises UnguardedScript, and LostProcess if a process died of something else.
    """
    not_while_imported()
    spawn = _Remembering()
    try:
        with ProcessPoolExecutor(count, mp_context=spawn, **options) as executor:
            try:
                yield executor
            finally:
                executor.shutdown(cancel_futures=True)
    except BrokenProcessPool as exc:
        statuses = [each.exitcode for each in spawn.begun]
        if UNGUARDED not in statuses:
            raise LostProcess(_how_it_ended(statuses)) from exc
        script = getattr(sys.modules["__main__"], "__file__", None) or "the script"
        raise UnguardedScript(
            f"each process that {script} starts runs it again from its top; "
            'put what it does below if __name__ == "__main__":'
        ) from exc


def not_while_imported() -> None:
    """End a worker of `pool` that is still importing its parent's script: it would repeat, and wait for, the parent's
    work.

    Called before taking anything that a parent may hold while it has workers; the parent says why they ended.
    """
    if multiprocessing.current_process().name.startswith(WORKER) and multiprocessing.parent_process() is None:
        sys.exit(UNGUARDED)


def _how_it_ended(statuses: Sequence[int | None]) -> str:
    """Of the one that ended by itself: when the executor has lost one, it ends the rest by SIGTERM."""
    by_itself = [status for status in statuses if status not in (None, 0, -signal.SIGTERM)]
    status = by_itself[0] if by_itself else -signal.SIGTERM
    if status == -signal.SIGKILL:
        return "was killed (SIGKILL), as the system does when memory runs out"
    if status < 0:
        return f"was ended by signal {-status} ({signal.strsignal(-status)})"
    return f"ended by itself with status {status}"


class _Remembering(SpawnContext):
    """Remembers which processes it began, to find out how they ended."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[SpawnProcess] = []

    def Process(self, *given: Any, **named: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        """In place of the class usually found here; the child knows its name before it imports anything."""
        begun = SpawnProcess(*given, **{**named, "name": f"{WORKER}-{len(self.begun) + 1}"})
        self.begun.append(begun)
        return begun


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)
