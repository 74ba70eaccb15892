"""One process at a time: what takes minutes to make is made by the first that comes, and read by those that waited."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """While no other process makes `path`, a file or a folder; a killed process holds up nobody. Raises OSError.

    An empty file beside it, `.NAME.turn`, stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.turn").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
