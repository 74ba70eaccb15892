"""Names for future files, made in advance: empty files in a folder that was synced after they were made.

A name survives a power cut once its folder is synced. Made together with its file, each name costs a wait for the disk,
and a scanner that sends one image after another waits for each; made in advance they share one wait. The files stay
open until they are used. How many are made at once depends on how fast they are used. If the process is killed, unused
ones stay as empty files for housekeeping.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SHARDS = 256  # folders, so that none holds more files than a person or a file system likes to list
MOST = 32  # at once: then syncing the folder costs a thirtieth of what the files themselves cost
FRESH_S = 60.0  # far less than the hour after which housekeeping takes an empty file for the trace of a crash


class Place(NamedTuple):
    """An empty file, durable under its name."""

    name: str
    """Relative to the folder."""
    descriptor: int
    """Open for writing."""


class Names:
    """Called by many threads."""

    def __init__(self, folder: Path, *, clock: Callable[[], float]) -> None:
        """`clock`: seconds, monotonic."""
        self._folder = str(folder)
        self._clock = clock
        self._lock = threading.Lock()
        self._spare: list[Place] = []
        self._made_at = -FRESH_S
        self._next = 1
        """How many to make when none is left."""

    def __del__(self) -> None:
        for place in self._spare:
            with suppress(OSError):
                os.close(place.descriptor)

    def take(self) -> Place:
        """An empty file that is the caller's alone, and its to close. Raises OSError."""
        with self._lock:
            if self._clock() - self._made_at >= FRESH_S:
                self._discard()
                self._next = 1
            if not self._spare:
                self._spare = self._make(self._next)
                self._made_at = self._clock()
                self._next = min(2 * self._next, MOST)
            return self._spare.pop()

    def discard(self) -> None:
        """Remove the names that nobody took."""
        with self._lock:
            self._discard()

    def _make(self, count: int) -> list[Place]:
        shard = f"{secrets.randbelow(SHARDS):02x}"
        made: list[Place] = []
        try:
            owner = _to_give_to(f"{self._folder}/{shard}")
            for _ in range(count):
                name = f"{shard}/{shard}{secrets.token_hex(15)}.dcm"
                descriptor = os.open(f"{self._folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                made.append(Place(name, descriptor))
                if owner is not None:
                    with suppress(PermissionError):
                        os.fchown(descriptor, *owner)
            sync_folder(f"{self._folder}/{shard}")
        except OSError:
            self._remove(made)
            raise
        return made

    def _discard(self) -> None:
        self._remove(self._spare)
        self._spare = []

    def _remove(self, places: list[Place]) -> None:
        for place in places:
            with suppress(OSError):
                os.close(place.descriptor)
            with suppress(OSError):
                os.unlink(f"{self._folder}/{place.name}")


def _to_give_to(folder: str) -> tuple[int, int] | None:
    """User and group that own the folder, where root makes the files, by a command: the service could not read them.

    In a container root may be the service itself, and not allowed to give anything away; then it keeps the files.
    """
    if os.geteuid() != 0:
        return None
    found = os.stat(folder)
    return found.st_uid, found.st_gid


def sync_folder(folder: str) -> None:
    """Make the names in it durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
