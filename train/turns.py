"""One process at a time: what takes minutes is made by the first to come, and read by those that waited."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from train.processes import not_while_imported


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Wait until no other process makes `path`, a file or a folder; a killed process blocks nobody. Raises OSError.

    An empty file beside it, `.NAME.turn`, stays.
    """
    not_while_imported()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(f".{path.name}.turn"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
