"""Filing for many associations at once: what waits together is committed together.

A commit waits for the disk once, however much is in it. Each association queues its arrival and waits for its turn; the
one whose turn it is files everything queued in one transaction, and the others then find theirs done. This needs no
thread and no timer: a single association commits at once, and the slower the disk, the more of them share a commit.

No transaction waits for a file to be read: what filing must know about one is found out before the arrival's next try.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from dicom_node.errors import InvalidObject, NodeError, StoreUnavailable
from dicom_node.headers.facts import Facts
from dicom_node.headers.header import pixel_digest, read_facts
from dicom_node.received import data_set_in, is_acknowledged
from dicom_node.store import filing
from dicom_node.store.comparing import Arrival
from dicom_node.store.database import Database
from dicom_node.store.faults import Deadlocked
from dicom_node.store.filing import Filing
from dicom_node.store.spool import Spool

TRIES = 5  # of a transaction that PostgreSQL ends, as where corrections move images between series crosswise


class _FileGone(StoreUnavailable):
    """Concerns one arrival; any other error of the database or disk concerns all that are filed with it."""


class _NotLookedAt(Exception):
    """What a file holds is not known yet, and finding out takes time in proportion to its size."""


class _Looked:
    """What filing asks about files, for one arrival. Answers stay true: no file is ever written to again."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._known: dict[tuple[Any, ...], Any] = {}
        self.unknown: tuple[Any, ...] | None = None
        """The question that `look` must answer before the arrival is tried again."""

    def look(self) -> None:
        """Raises StoreUnavailable."""
        assert self.unknown is not None
        how, *asked = self.unknown
        self._known[self.unknown] = how(*asked)
        self.unknown = None

    def holds(self, name: str, size: int) -> bool:
        return self._spool.holds(name, size)

    def is_whole(self, name: str, size: int, digest: str) -> bool:
        return bool(self._answer(self._look_whether_whole, name, size, digest))

    def pixels(self, name: str, transfer_syntax_uid: str) -> str | None:
        found: str | None = self._answer(self._look_at_pixels, name, transfer_syntax_uid)
        return found

    def facts(self, name: str, transfer_syntax_uid: str) -> Facts | None:
        found: Facts | None = self._answer(self._look_at_header, name, transfer_syntax_uid)
        return found

    def _answer(self, *asked: Any) -> Any:
        """Raises _NotLookedAt."""
        if asked not in self._known:
            self.unknown = asked
            raise _NotLookedAt
        return self._known[asked]

    def _look_whether_whole(self, name: str, size: int, digest: str) -> bool:
        try:
            return is_acknowledged(self._spool.read(name), size, digest)
        except FileNotFoundError:
            return False

    def _look_at_pixels(self, name: str, transfer_syntax_uid: str) -> str | None:
        try:
            return pixel_digest(data_set_in(self._spool.read(name)), transfer_syntax_uid)
        except (FileNotFoundError, InvalidObject):
            return None

    def _look_at_header(self, name: str, transfer_syntax_uid: str) -> Facts | None:
        try:
            return read_facts(data_set_in(self._spool.read(name)), transfer_syntax_uid)
        except (FileNotFoundError, InvalidObject):
            return None


@dataclass(eq=False)
class _Waiting:
    arrival: Arrival
    files: _Looked
    filing: Filing | None = None
    error: Exception | None = None

    @property
    def was_tried(self) -> bool:
        return self.filing is not None or self.error is not None or self.files.unknown is not None


class Filer:
    """Called by many threads."""

    def __init__(self, database: Database, spool: Spool, *, reopen_wait_s: float) -> None:
        self._database = database
        self._spool = spool
        self._reopen_wait_s = reopen_wait_s
        self._waiting: deque[_Waiting] = deque()
        self._turn = threading.Lock()

    def file(self, arrival: Arrival) -> Filing:
        """File one arrival durably; a file that no row names is removed. Raises StoreFull, StoreUnavailable."""
        mine = _Waiting(arrival, _Looked(self._spool))
        self._try(mine)
        while mine.files.unknown is not None:
            try:
                mine.files.look()
            except BaseException:  # lack of memory, too: its sender tries again and again, with a file each time
                self._discard(arrival.file)
                raise
            self._try(mine)
        if mine.error is not None:
            raise mine.error
        assert mine.filing is not None
        return mine.filing

    def _try(self, mine: _Waiting) -> None:
        """Together with all that are waiting by now."""
        if self._database.shares_commits:
            self._settle([mine])
            return
        self._waiting.append(mine)
        with self._turn:
            if not mine.was_tried:
                self._settle([self._waiting.popleft() for _ in range(len(self._waiting))])

    def _settle(self, batch: Sequence[_Waiting], tries: int = TRIES) -> None:
        """In one transaction; if one arrival spoils it, one each; an arrival with a file to look at waits for that."""
        committing = False
        try:
            with self._database.write() as connection:
                filings = [self._filed(connection, one) for one in batch]
                committing = True
        except _NotLookedAt:
            if rest := [one for one in batch if one.files.unknown is None]:
                self._settle(rest)
            return
        except Exception as exc:  # noqa: BLE001 - raised again by the thread of each arrival
            if isinstance(exc, Deadlocked) and tries > 1:
                self._settle(batch, tries - 1)
                return
            if len(batch) > 1 and not committing and (isinstance(exc, _FileGone) or not isinstance(exc, NodeError)):
                for one in batch:
                    self._settle([one])
                return
            for one in batch:
                one.error = exc
                if not committing:  # else a row may name it despite the error; housekeeping finds out an hour later
                    self._discard(one.arrival.file)
            return
        for one, filed in zip(batch, filings, strict=True):
            one.filing = filed
            if not filed.names_file:
                self._discard(one.arrival.file)  # only now: the row found for "again" names another, durable file
            if filed.replaced is not None:
                self._discard(filed.replaced)

    def _filed(self, connection: Connection, one: _Waiting) -> Filing:
        arrival = one.arrival
        filed = filing.file(connection, arrival, reopen_wait_s=self._reopen_wait_s, files=one.files)
        if filed.names_file and not one.files.holds(arrival.file, arrival.size):
            raise _FileGone("the file was removed before its row was written; was its patient forgotten?")
        return filed

    def _discard(self, name: str) -> None:
        with contextlib.suppress(OSError):  # then housekeeping finds it
            self._spool.remove(name)
