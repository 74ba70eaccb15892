"""The spool: received objects and reports as files that survive a power cut. File names are our own, never a peer's.

A file is written under a temporary name, renamed, then it and its folder are synced; only then does `keep` return. What
lies here without a row in the database is the trace of a crash before the commit, and nobody was told Success for it:
a file counts by its row alone. Why it is renamed before it is synced: docs/decisions/0010.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dicom_node.errors import StoreFull, StoreUnavailable

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SHARDS = 256  # folders, so that none of them holds more files than a person or a file system likes to list


class Spool:
    def __init__(self, folder: Path, *, min_free_mib: int = 0) -> None:
        self.folder = folder
        self.min_free_mib = min_free_mib

    def prepare(self) -> None:
        for folder in (self.folder, self._incoming):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for shard in range(_SHARDS):
            (self.folder / f"{shard:02x}").mkdir(exist_ok=True, mode=0o700)
        _sync_folder(self.folder)

    def keep(self, *chunks: bytes) -> str:
        """Write the chunks as one file, durably; returns its name, relative to the folder. Raises StoreFull."""
        self.check_room(sum(map(len, chunks)))
        unique = uuid.uuid4().hex
        name = f"{unique[:2]}/{unique}.dcm"
        temporary, final = self._incoming / unique, self.folder / name
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                temporary.rename(final)
                os.fsync(file.fileno())
            _sync_folder(final.parent)
        except OSError as exc:
            for written in (temporary, final):
                with suppress(OSError):
                    written.unlink(missing_ok=True)
            if exc.errno in _NO_ROOM:
                raise StoreFull("the disk of the spool is full") from exc
            raise StoreUnavailable(f"the spool cannot be written: {exc.strerror}") from exc
        return name

    def check_room(self, size: int = 0) -> None:
        """Raise StoreFull when `size` bytes more would leave less than the watermark."""
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError as exc:
            raise StoreUnavailable(f"the spool cannot be reached: {exc.strerror}") from exc
        if free - size < self.min_free_mib * 2**20:
            raise StoreFull(f"{free >> 20} MiB are free and node.min_free_mib keeps {self.min_free_mib}")

    def has_room(self) -> bool:
        """Whether an association may be accepted at all; False below the watermark, until there is room again."""
        try:
            self.check_room()
        except (StoreFull, StoreUnavailable):
            return False
        return True

    def free_mib(self) -> int:
        return shutil.disk_usage(self.folder).free >> 20

    def path(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError for this one file, StoreUnavailable where the spool itself cannot be read."""
        try:
            return self.path(name).read_bytes()
        except OSError as exc:
            if isinstance(exc, FileNotFoundError) and self.path(name).parent.is_dir():
                raise
            raise StoreUnavailable(f"the spool cannot be read: {exc.strerror}") from exc

    def holds(self, name: str, size: int) -> bool:
        """Whether the file is there and as long as it was written. Raises StoreUnavailable."""
        try:
            return self.path(name).stat().st_size == size
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise StoreUnavailable(f"the spool cannot be read: {exc.strerror}") from exc

    def remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def sync(self) -> None:
        """Make removals durable."""
        for shard in self.folder.glob("[0-9a-f][0-9a-f]"):
            _sync_folder(shard)

    def modified_at(self, name: str) -> float | None:
        """When the file was written; None if it is gone already."""
        try:
            return self.path(name).stat().st_mtime
        except FileNotFoundError:
            return None

    def stored(self) -> Iterator[str]:
        """Names of all files kept; used to find what a crash left without a row."""
        for shard in sorted(self.folder.glob("[0-9a-f][0-9a-f]")):
            for file in shard.iterdir():
                yield f"{shard.name}/{file.name}"

    def half_written(self) -> Iterator[str]:
        """Names of files that are just being written, or that a crash left so."""
        for file in self._incoming.iterdir():
            yield f"{self._incoming.name}/{file.name}"

    def clear_incoming(self, *, older_than_s: float = 0.0) -> int:
        """Remove half-written files of an earlier life; returns how many there were.

        Call it before anything is received, or, where other receivers share the folder, for old ones alone.
        """
        leftovers = [f for f in self._incoming.iterdir() if _age_s(f) >= older_than_s]
        for file in leftovers:
            file.unlink(missing_ok=True)
        return len(leftovers)

    @property
    def _incoming(self) -> Path:
        return self.folder / "incoming"


def _age_s(file: Path) -> float:
    try:
        return max(0.0, time.time() - file.stat().st_mtime)
    except FileNotFoundError:
        return 0.0


def _sync_folder(folder: Path) -> None:
    """Make a rename durable. Where folders cannot be opened (Windows), the file system's journal holds renames."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
