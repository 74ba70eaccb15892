"""Filing for many associations at once: what waits together is committed together.

A commit waits for the disk once, however much is in it. Each association puts its arrival down and waits for its turn;
whoever gets it files all that lies there in one transaction, and the others then find theirs done. There is neither a
thread for it nor a timer: one association alone commits at once, and more of them share the more, the slower the disk.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from dicom_node.errors import InvalidObject, NodeError, StoreUnavailable
from dicom_node.header import pixel_digest
from dicom_node.received import data_set_in, is_acknowledged
from dicom_node.store import filing
from dicom_node.store.database import Database
from dicom_node.store.filing import Arrival, Filing
from dicom_node.store.spool import Spool


class _FileGone(StoreUnavailable):
    """Of one arrival alone; whatever else the database or the disk says holds for all that are filed with it."""


@dataclass(eq=False)
class _Waiting:
    arrival: Arrival
    filing: Filing | None = None
    error: Exception | None = None


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
        mine = _Waiting(arrival)
        if self._database.shares_commits:
            self._settle([mine])
        else:
            self._waiting.append(mine)
            with self._turn:
                if mine.filing is None and mine.error is None:
                    self._settle([self._waiting.popleft() for _ in range(len(self._waiting))])
        if mine.error is not None:
            raise mine.error
        assert mine.filing is not None
        return mine.filing

    def _settle(self, batch: Sequence[_Waiting]) -> None:
        """One transaction; where one arrival spoils it, one for each."""
        committing = False
        try:
            with self._database.write() as connection:
                filings = [self._filed(connection, one.arrival) for one in batch]
                committing = True
        except Exception as exc:  # noqa: BLE001 - raised again by the thread of each arrival
            if len(batch) > 1 and not committing and (isinstance(exc, _FileGone) or not isinstance(exc, NodeError)):
                for one in batch:
                    self._settle([one])
                return
            for one in batch:
                one.error = exc
                if not committing:  # else a row may name it in spite of the error; an hour later housekeeping knows
                    self._discard(one.arrival.file)
            return
        for one, filed in zip(batch, filings, strict=True):
            one.filing = filed
            if not filed.names_file:
                self._discard(one.arrival.file)  # only now: the row that says "again" names another, durable file
            if filed.replaced is not None:
                self._discard(filed.replaced)

    def _filed(self, connection: Connection, arrival: Arrival) -> Filing:
        filed = filing.file(connection, arrival, reopen_wait_s=self._reopen_wait_s, files=self)
        if filed.names_file and not self.holds(arrival.file, arrival.size):
            raise _FileGone("the file was removed before its row was written; was its patient forgotten?")
        return filed

    def holds(self, name: str, size: int) -> bool:
        return self._spool.holds(name, size)

    def is_whole(self, name: str, size: int, sha256: str) -> bool:
        try:
            return is_acknowledged(self._spool.read(name), size, sha256)
        except FileNotFoundError:
            return False

    def pixels(self, name: str, transfer_syntax_uid: str) -> str | None:
        try:
            return pixel_digest(data_set_in(self._spool.read(name)), transfer_syntax_uid)
        except (FileNotFoundError, InvalidObject):
            return None

    def _discard(self, name: str) -> None:
        with contextlib.suppress(OSError):  # then housekeeping finds it
            self._spool.remove(name)
