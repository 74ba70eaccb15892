"""The spool: received objects and reports as files that survive a power cut. File names are our own, never a peer's.

A file is written under a name whose folder has already been synced (`names`), and synced; only then does `keep` return.
A file without a row in the database is the trace of a crash before the commit, and was never acknowledged: only its row
makes it count. Why it gets its name before its content: docs/decisions/0013. A UID of its own tells the spool from that
of another database, and from the empty folder that its disk is mounted on.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from dicom_node import uids
from dicom_node.errors import StoreFull, StoreUnavailable
from dicom_node.store.names import SHARDS, Names, sync_folder

UID_FILE = "spool.uid"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Spool:
    def __init__(self, folder: Path, *, min_free_mib: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self.min_free_mib = min_free_mib
        self._names = Names(folder, clock=clock)

    def is_there(self) -> bool:
        """Whether it has been made; not so where its disk is not mounted."""
        return any(one.is_dir() for one in self._shards())

    def _shards(self) -> Iterator[Path]:
        return (self.folder / f"{shard:02x}" for shard in range(SHARDS))

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for shard in self._shards():
            shard.mkdir(exist_ok=True, mode=0o700)
        sync_folder(str(self.folder))

    def uid(self) -> str | None:
        """Its UID; None where it has none yet. Raises OSError."""
        try:
            return (self.folder / UID_FILE).read_text(encoding="ascii", errors="replace").strip() or None
        except FileNotFoundError:
            return None

    def mark(self) -> str:
        """Its UID, durable; made where it has none. For one process at a time. Raises OSError."""
        known = self.uid()
        if known is not None:
            return known
        made, new = uids.fresh(), self.folder / f"{UID_FILE}.new"
        new.unlink(missing_ok=True)
        new.touch(mode=0o600)
        _write(os.open(new, os.O_WRONLY), [made.encode()])
        new.rename(self.folder / UID_FILE)
        sync_folder(str(self.folder))
        return made

    def close(self) -> None:
        """Remove unused names made in advance; `keep` still works afterwards."""
        self._names.discard()

    def keep(self, *chunks: bytes | bytearray) -> str:
        """Write the chunks as one file, durably; returns its name, relative to the folder. Raises StoreFull and
        StoreUnavailable."""
        size = sum(map(len, chunks))
        self.check_room(size)
        name = self._keep(chunks)
        if not self.holds(name, size):  # files stay open while their folder is moved, or its disk taken away
            raise StoreUnavailable("the spool was moved or removed while a file was written")
        return name

    def _keep(self, chunks: Sequence[bytes | bytearray]) -> str:
        try:
            name, descriptor = self._names.take()
            try:
                _write(descriptor, chunks)
            except OSError:
                with suppress(OSError):
                    os.unlink(f"{self.folder}/{name}")
                raise
        except OSError as exc:
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
            raise StoreFull(f"only {free >> 20} MiB are free; node.min_free_mib reserves {self.min_free_mib}")

    def check_writable(self) -> None:
        """Raise StoreUnavailable where nothing could be written: the kernel made the disk read-only, or root has put
        the folder back and kept it. One folder stands for all, as each association asks.
        """
        try:
            shard = next((one for one in self._shards() if one.is_dir()), None)
        except OSError as exc:
            raise StoreUnavailable(f"the spool cannot be read: {exc.strerror}") from exc
        if shard is not None and not os.access(shard, os.W_OK | os.X_OK):
            raise StoreUnavailable(f"{shard} cannot be written to: is its disk read-only, or is it another user's?")

    def has_room(self) -> bool:
        """Whether an association may be accepted at all; False below the watermark, until there is room again."""
        return self.why_no_room() is None

    def why_no_room(self) -> str | None:
        """The reason in words; None if there is room. An empty folder, where a disk was mounted, has none."""
        try:
            self.check_room()
            self.check_writable()
        except (StoreFull, StoreUnavailable) as exc:
            return str(exc)
        return None if self.is_there() else f"{self.folder} holds no spool: is its disk mounted?"

    def free_mib(self) -> int | None:
        """Free space; None where the spool cannot be reached."""
        try:
            return shutil.disk_usage(self.folder).free >> 20
        except OSError:
            return None

    def path(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError for this one file, StoreUnavailable where the spool itself cannot be read.

        A bad sector concerns one file, too: waiting for it would last for ever. A disk that fails as a whole is waited
        for.
        """
        try:
            return self.path(name).read_bytes()
        except OSError as exc:
            if isinstance(exc, FileNotFoundError) and self.path(name).parent.is_dir():
                raise
            if exc.errno == errno.EIO:
                self.check_disk()
                raise FileNotFoundError(errno.EIO, "the disk cannot read it") from exc
            raise StoreUnavailable(f"the spool cannot be read: {exc.strerror}") from exc

    def check_disk(self) -> None:
        """Raise StoreUnavailable where the whole disk fails: then an unreadable file says nothing about that file.

        The disk is asked to take a file. One with only a bad sector does; one that is gone gives an I/O error again, or
        the kernel has made it read-only.
        """
        self._names.discard()  # an open file may still take something where no new one can be made
        with suppress(StoreFull):
            self.remove(self._keep([b"?"]))  # even where no further image would be taken

    def holds(self, name: str, size: int) -> bool:
        """Whether the file exists and is as long as when it was written. Raises StoreUnavailable."""
        try:
            return os.stat(f"{self.folder}/{name}").st_size == size
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise StoreUnavailable(f"the spool cannot be read: {exc.strerror}") from exc

    def remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def sync(self) -> None:
        """Make removals durable."""
        for shard in self.folder.glob("[0-9a-f][0-9a-f]"):
            sync_folder(str(shard))

    def modified_at(self, name: str) -> float | None:
        """When the file was written; None if it has gone."""
        try:
            return self.path(name).stat().st_mtime
        except FileNotFoundError:
            return None

    def stored(self) -> Iterator[str]:
        """Names of all non-empty files; used to find what a crash left without a row."""
        for name, found in self._files():
            if found.st_size:
                yield name

    def clear_unused(self, *, older_than_s: float) -> int:
        """Remove empty files: names made in advance by a process that was killed; returns how many."""
        cleared = 0
        for name, found in self._files():
            if not found.st_size and time.time() - found.st_mtime >= older_than_s:
                self.remove(name)
                cleared += 1
        return cleared

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        for shard in sorted(self.folder.glob("[0-9a-f][0-9a-f]")):
            with os.scandir(shard) as files:
                for file in files:
                    with suppress(FileNotFoundError):
                        yield f"{shard.name}/{file.name}", file.stat()


def _write(descriptor: int, chunks: Sequence[bytes | bytearray]) -> None:
    """Fill the empty file, durably, and close it."""
    try:
        left = [memoryview(chunk) for chunk in chunks]
        while left:  # once, unless the disk is nearly full
            written = os.writev(descriptor, left)
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            left[:1] = [left[0][written:]] if left else []
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
