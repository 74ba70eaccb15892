"""Names for future files, made in advance: empty files in a folder that was synced after they were made.

A name survives a power cut once its folder is synced. Made together with its file, each name costs a wait for the disk,
and a scanner that sends one image after another waits for each; made in advance they share one wait. How many are made
at once depends on how fast they are used. If the process is killed, unused ones stay as empty files for housekeeping.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SHARDS = 256  # folders, so that none holds more files than a person or a file system likes to list
MOST = 32  # at once: then syncing the folder costs a thirtieth of what the files themselves cost
FRESH_S = 60.0  # far less than the hour after which housekeeping takes an empty file for the trace of a crash


class Names:
    """Called by many threads."""

    def __init__(self, folder: Path, *, clock: Callable[[], float]) -> None:
        """`clock`: seconds, monotonic."""
        self._folder = str(folder)
        self._clock = clock
        self._lock = threading.Lock()
        self._spare: list[str] = []
        self._made_at = -FRESH_S
        self._next = 1
        """How many to make when none is left."""

    def take(self) -> str:
        """The name, relative to the folder, of an empty file that is the caller's alone. Raises OSError."""
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

    def _make(self, count: int) -> list[str]:
        shard = f"{secrets.randbelow(SHARDS):02x}"
        made: list[str] = []
        try:
            for _ in range(count):
                name = f"{shard}/{shard}{secrets.token_hex(15)}.dcm"
                descriptor = os.open(f"{self._folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                made.append(name)
                try:
                    _give_away(descriptor, f"{self._folder}/{shard}")
                finally:
                    os.close(descriptor)
            sync_folder(f"{self._folder}/{shard}")
        except OSError:
            self._remove(made)
            raise
        return made

    def _discard(self) -> None:
        self._remove(self._spare)
        self._spare = []

    def _remove(self, names: list[str]) -> None:
        for name in names:
            with suppress(OSError):
                os.unlink(f"{self._folder}/{name}")


def _give_away(descriptor: int, folder: str) -> None:
    """Give a file that root makes, by a command, to the folder's owner: otherwise the service could not read it.

    In a container root may be the service itself, and not allowed to do this; then it keeps the file.
    """
    if os.geteuid() == 0:
        owner = os.stat(folder)
        with suppress(PermissionError):
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def sync_folder(folder: str) -> None:
    """Make the names in it durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
