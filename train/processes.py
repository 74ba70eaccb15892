"""Work on many pictures, in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import cv2

SAY_EVERY_S = 15.0

Job = TypeVar("Job")
Found = TypeVar("Found")
Say = Callable[[str], None]


def in_processes(
    work: Callable[[Job], Found], jobs: Iterable[Job], processes: int | None, say: Say, done: str
) -> list[Found]:
    """What `work` makes of each, in order; in this process where there is to be but one. `done`: what is said of them.

    `processes`: None for one a core. Raises what `work` raises.
    """
    count = processes or multiprocessing.cpu_count()
    if count == 1:
        return [work(job) for job in jobs]
    found: list[Found] = []
    said_at = time.monotonic()
    context = multiprocessing.get_context("spawn")  # a forked child inherits torch's threads in a state that hangs
    with ProcessPoolExecutor(count, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        for each in pool.map(work, jobs, chunksize=16):
            found.append(each)
            if time.monotonic() - said_at > SAY_EVERY_S:
                said_at = time.monotonic()
                say(f"{len(found)} slices {done}")
    return found
