"""Storage commitment, both sides: asking destinations for it, and answering those who ask us. No SQL here, no DIMSE.

Our answer rests on the existence, size and digest of the file, checked when the answer is given; what we commit to is
first protected from housekeeping, and only then does the answer go out.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence

from dicom_node import uids
from dicom_node.config import Config, Peer, Results
from dicom_node.errors import PeerError
from dicom_node.logs import fields
from dicom_node.network import commitment as network
from dicom_node.network.commitment import Reference, Report
from dicom_node.received import is_acknowledged
from dicom_node.status import CommitmentStatus, FailureReason
from dicom_node.store import commitment
from dicom_node.store.commitment import Request
from dicom_node.store.database import Database
from dicom_node.store.spool import Spool

log = logging.getLogger("dicom_node.commitment")

AT_ONCE = 100  # objects in one request of ours
DAY_S = 86400.0
LONGEST_WAIT = 24  # times commitment_wait_s: a day, with the default of an hour


class Reports:
    """Takes the answers of destinations, on whichever association they come."""

    def __init__(
        self,
        database: Database,
        config: Config,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._settings = config.results
        self._clock = clock
        self._jitter = jitter

    def take(self, report: Report) -> None:
        """Durable when it returns. An answer to a transaction that was asked anew since is ignored."""
        now = self._clock()
        with self._database.write() as connection:
            kept, lost = commitment.settle(
                connection,
                report.transaction_uid,
                report.committed,
                report.failed,
                now=now,
                wait_s=lambda asked: self._settings.wait_s(asked - 1, self._jitter()),
            )
        said = fields(committed=kept, failed=lost)
        if lost:
            log.error("not_committed %s", said)
        else:
            log.info("committed %s", said)


class Asker:
    """Asks one destination to commit to what it has stored."""

    def __init__(
        self,
        database: Database,
        peer: Peer,
        config: Config,
        reports: Reports,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        linger_s: float = 1.0,
    ) -> None:
        self._database = database
        self._peer = peer
        self._config = config
        self._reports = reports
        self._clock = clock
        self._jitter = jitter
        self._linger_s = linger_s
        self._not_asked = 0
        """How often in a row the peer could not be asked: that makes no object's answer overdue."""

    def tick(self) -> int:
        """Ask about what is due in one transaction; returns how many objects it names."""
        now = self._clock()
        settings = self._config.results
        longest_s = max(settings.retry_longest_s, LONGEST_WAIT * settings.commitment_wait_s)
        with self._database.read() as connection:
            owed = commitment.due(connection, self._peer.name, now=now, longest_wait_s=longest_s, limit=AT_ONCE)
        if not owed:
            return 0
        owed = [one for one in owed if one.tries == owed[0].tries]  # the others at the next tick: their wait differs
        transaction_uid = uids.fresh()
        with self._database.write() as connection:
            again_at = now + _patience_s(owed[0].tries, settings)
            commitment.ask(connection, owed, transaction_uid, again_at=again_at)
        try:
            network.ask(
                self._peer,
                self._config.node.ae_title,
                transaction_uid,
                [(one.sop_class_uid, one.sop_instance_uid) for one in owed],
                self._reports.take,
                linger_s=self._linger_s,
            )
        except PeerError as exc:
            wait_s = settings.wait_s(self._not_asked, self._jitter())
            self._not_asked += 1
            with self._database.write() as connection:
                commitment.postpone(connection, transaction_uid, until=self._clock() + wait_s, error=str(exc))
            log.warning("not_asked %s", fields(to=self._peer.name, wait_s=wait_s, reason=exc))
        else:
            self._not_asked = 0
            log.info("asked_to_commit %s", fields(to=self._peer.name, objects=len(owed)))
        return len(owed)


def _patience_s(tries: int, settings: Results) -> float:
    """How long to wait for an answer after `tries` requests without one: twice as long each time, up to 24 times.

    Only an answer to the newest request counts, and some archives answer when they write their tapes, at night: asked
    again every hour, such an archive would never be in time.
    """
    return settings.commitment_wait_s * min(2.0 ** min(tries, 30), LONGEST_WAIT)


class Keeper:
    """Records requests to commit, durably, and answers them on associations of our own."""

    def __init__(
        self,
        database: Database,
        spool: Spool,
        config: Config,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._spool = spool
        self._config = config
        self._clock = clock
        self._jitter = jitter

    def asked(self, calling_aet: str, transaction_uid: str, references: Sequence[Reference]) -> CommitmentStatus:
        """Success once the request is on disk; refused where no peer is known to answer to. Raises StoreFull,
        StoreUnavailable."""
        if self._peer_of(calling_aet) is None:
            hint = "a peer with this AE title, its host and port"
            log.warning("commitment_refused %s", fields(calling=calling_aet, reason="no way to answer", needs=hint))
            return CommitmentStatus.NOT_AUTHORIZED
        self._spool.check_room()  # a request may take six megabytes, and their number is not limited
        with self._database.write() as connection:
            commitment.keep(connection, transaction_uid, calling_aet, references, now=self._clock())
        return CommitmentStatus.SUCCESS

    def tick(self) -> int:
        """Answer the requests that are due; returns how many. Raises StoreFull and StoreUnavailable: they wait."""
        now = self._clock()
        longest_s = self._config.results.retry_longest_s
        with self._database.read() as connection:
            due = commitment.requests(connection, now=now, longest_wait_s=longest_s)
        for request in due:
            self._answer(request, now)
        if due:
            with self._database.write() as connection:
                commitment.forget_answered(connection, before=now - self._config.retention.keep_days * DAY_S)
        return len(due)

    def _answer(self, request: Request, now: float) -> None:
        peer = self._peer_of(request.calling_aet)
        answers = [(cls, uid, self._judge(cls, uid)) for cls, uid in request.asked]
        failed = sum(reason is not None for _, _, reason in answers)
        try:
            if peer is None:
                raise PeerError(f"no peer has the AE title {request.calling_aet} any longer")
            network.report(peer, self._config.node.ae_title, request.transaction_uid, answers)
        except PeerError as exc:
            give_up = now - request.received_at > self._config.retention.keep_days * DAY_S
            until = None if give_up else now + self._config.results.wait_s(request.tries, self._jitter())
            with self._database.write() as connection:
                commitment.not_answered(connection, request, until=until, error=str(exc))
            log.warning("not_answered %s", fields(request=request.id, given_up=give_up or None, reason=exc))
            return
        with self._database.write() as connection:
            commitment.answered(connection, request.id, now=self._clock())
        log.info("answered %s", fields(request=request.id, committed=len(answers) - failed, failed=failed))

    def _judge(self, sop_class_uid: str, sop_instance_uid: str) -> FailureReason | None:
        """None: it is here, whole, and stays; the promise is on disk when this returns."""
        with self._database.read() as connection:
            rows = commitment.current(connection, sop_instance_uid)
        if not rows:
            return FailureReason.NO_SUCH_OBJECT_INSTANCE
        if len(rows) > 1:
            return FailureReason.PROCESSING_FAILURE  # two contradict each other: a person decides
        row = rows[0]
        if row.sop_class_uid != sop_class_uid:
            return FailureReason.CLASS_INSTANCE_CONFLICT
        if not self._is_whole(row.file, row.size, row.digest):
            return FailureReason.PROCESSING_FAILURE
        with self._database.write() as connection:
            stays = commitment.promise(connection, row.id, now=self._clock())
        return None if stays else FailureReason.NO_SUCH_OBJECT_INSTANCE

    def _is_whole(self, file: str, size: int, digest: str) -> bool:
        """Raises StoreUnavailable where the spool cannot be read: that passes, and says nothing of this file."""
        try:
            content = self._spool.read(file)
        except FileNotFoundError:
            return False
        return is_acknowledged(content, size, digest)

    def _peer_of(self, ae_title: str) -> Peer | None:
        return next((peer for peer in self._config.peers if peer.ae_title == ae_title), None)
