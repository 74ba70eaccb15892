"""Storage commitment that others ask of us: recording their requests, judging what they name, answering. No SQL here,
no DIMSE.

Our answer rests on the existence, size and digest of each file; what we commit to is first protected from housekeeping,
and only then does the answer go out.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Sequence

from dicom_node.config import Config, Peer
from dicom_node.errors import PeerError
from dicom_node.logs import fields
from dicom_node.network import commitment as network
from dicom_node.network.commitment import Reference
from dicom_node.received import is_acknowledged
from dicom_node.status import CommitmentStatus, FailureReason
from dicom_node.store import commitment_given
from dicom_node.store.commitment_given import Kept, Request
from dicom_node.store.database import Database
from dicom_node.store.spool import Spool

log = logging.getLogger("dicom_node.commitment")

AT_ONCE = 1000  # objects promised in one transaction; a request may name fifty times as many, and others write too
DAY_S = 86400.0
READ_ANEW_S = DAY_S  # while a request cannot be answered, its files are read whole no more often than this

Answer = tuple[str, str, FailureReason | None]
"""SOP Class UID, SOP Instance UID, and why we do not commit to it; None if we do."""


class Judge:
    """Whether we commit to the objects of a request. The promise is on disk before the judgement is known.

    One for all peers: however many are answered at once, one file is held in memory.
    """

    def __init__(self, database: Database, spool: Spool, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._spool = spool
        self._clock = clock
        self._reading = threading.Lock()

    def answers(self, request: Request) -> list[Answer]:
        """Raises StoreFull, StoreUnavailable: what was promised until then need not be read again soon."""
        parts = [request.asked[at : at + AT_ONCE] for at in range(0, len(request.asked), AT_ONCE)]
        return [answer for part in parts for answer in self._judged(part, request.received_at)]

    def _judged(self, asked: Sequence[Reference], asked_at: float) -> list[Answer]:
        now = self._clock()
        with self._database.read() as connection:
            found = commitment_given.current(connection, {uid for _, uid in asked})
        since = max(asked_at, now - READ_ANEW_S)
        promised = {one.id for one in found if one.committed_at is not None and since <= one.committed_at <= now}
        of_uid: dict[str, list[Kept]] = {}
        for one in found:
            of_uid.setdefault(one.sop_instance_uid, []).append(one)
        reasons = {pair: self._why_not(pair[0], of_uid.get(pair[1], ()), promised) for pair in asked}
        good = {pair: of_uid[pair[1]][0].id for pair, reason in reasons.items() if reason is None}
        if new := set(good.values()) - promised:
            with self._database.write() as connection:
                gone = new - commitment_given.promise(connection, new, now=self._clock())
            reasons |= {pair: FailureReason.NO_SUCH_OBJECT_INSTANCE for pair, its in good.items() if its in gone}
        return [(*pair, reason) for pair, reason in reasons.items()]

    def _why_not(self, sop_class_uid: str, found: Sequence[Kept], promised: Collection[int]) -> FailureReason | None:
        """None: it is here and whole."""
        if not found:
            return FailureReason.NO_SUCH_OBJECT_INSTANCE
        if len(found) > 1:
            return FailureReason.PROCESSING_FAILURE  # two contradict each other: a person decides
        (one,) = found
        if one.sop_class_uid != sop_class_uid:
            return FailureReason.CLASS_INSTANCE_CONFLICT
        # One that an earlier try to answer this request has read, and promised to keep, need not be read again.
        if one.id in promised and self._spool.holds(one.file, one.size):
            return None
        return None if self._is_whole(one) else FailureReason.PROCESSING_FAILURE

    def _is_whole(self, one: Kept) -> bool:
        """Raises StoreUnavailable where the spool cannot be read: that passes, and says nothing of this file."""
        with self._reading:
            try:
                content = self._spool.read(one.file)
            except FileNotFoundError:
                return False
            return is_acknowledged(content, one.size, one.digest)


class Keeper:
    """Records requests to commit, durably."""

    def __init__(
        self, database: Database, spool: Spool, config: Config, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._spool = spool
        self._known = {peer.ae_title for peer in config.peers}
        self._clock = clock

    def asked(self, calling_aet: str, transaction_uid: str, references: Sequence[Reference]) -> CommitmentStatus:
        """Success once the request is on disk; refused where no peer is known to answer to. Raises StoreFull,
        StoreUnavailable."""
        if calling_aet not in self._known:
            hint = "a peer with this AE title, its host and port"
            log.warning("commitment_refused %s", fields(calling=calling_aet, reason="no way to answer", needs=hint))
            return CommitmentStatus.NOT_AUTHORIZED
        self._spool.check_room()  # a request may take six megabytes, and their number is not limited
        with self._database.write() as connection:
            commitment_given.keep(connection, transaction_uid, calling_aet, references, now=self._clock())
        return CommitmentStatus.SUCCESS


class Answerer:
    """Answers what one peer has asked, on associations of our own."""

    def __init__(
        self,
        database: Database,
        peer: Peer,
        config: Config,
        judge: Judge,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.peer = peer
        self._database = database
        self._config = config
        self._judge = judge
        self._clock = clock
        self._jitter = jitter

    def tick(self) -> int:
        """Answer what is due; returns how many requests it tried. Raises StoreFull and StoreUnavailable: they wait.

        Where one cannot be answered, the others are left to the next tick: each may take the peer's whole timeout, and
        the service stops between two ticks.
        """
        longest_s = self._config.results.retry_longest_s
        with self._database.read() as connection:
            due = commitment_given.requests(connection, self.peer.ae_title, now=self._clock(), longest_wait_s=longest_s)
        for tried, request in enumerate(due, start=1):
            if not self._answer(request):
                return tried
        return len(due)

    def _answer(self, request: Request) -> bool:
        answers = self._judge.answers(request)
        failed = sum(reason is not None for _, _, reason in answers)
        try:
            network.report(self.peer, self._config.node.ae_title, request.transaction_uid, answers)
        except PeerError as exc:
            now = self._clock()
            give_up = now - request.received_at > self._config.retention.keep_days * DAY_S
            until = None if give_up else now + self._config.results.wait_s(request.tries, self._jitter())
            with self._database.write() as connection:
                commitment_given.not_answered(connection, request, until=until, error=str(exc))
            log.warning("not_answered %s", fields(request=request.id, given_up=give_up or None, reason=exc))
            return False
        with self._database.write() as connection:
            commitment_given.answered(connection, request.id, now=self._clock())
        log.info("answered %s", fields(request=request.id, committed=len(answers) - failed, failed=failed))
        return True


def answerers(
    database: Database,
    spool: Spool,
    config: Config,
    *,
    clock: Callable[[], float] = time.time,
    jitter: Callable[[], float] = random.random,
) -> list[Answerer]:
    """One for each peer, as any may ask; of several with one AE title, the first is answered."""
    judge = Judge(database, spool, clock=clock)
    of_title = {peer.ae_title: peer for peer in reversed(config.peers)}
    return [Answerer(database, peer, config, judge, clock=clock, jitter=jitter) for peer in of_title.values()]
