"""Storage commitment that we ask of destinations, and what they answer. No SQL here, no DIMSE.

What others ask of us: `keeping`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from dicom_node import uids
from dicom_node.config import Config, Peer, Results
from dicom_node.errors import PeerError
from dicom_node.logs import fields
from dicom_node.network import commitment as network
from dicom_node.network.commitment import Report
from dicom_node.store import commitment_asked
from dicom_node.store.database import Database

log = logging.getLogger("dicom_node.commitment")

AT_ONCE = 100  # objects in one request of ours
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
            settled = commitment_asked.settle(
                connection,
                report.transaction_uid,
                report.committed,
                report.failed,
                now=now,
                wait_s=lambda asked: self._settings.wait_s(asked - 1, self._jitter()),
            )
        said = fields(by=settled.by, committed=settled.committed, failed=settled.failed)
        if settled.by is None:
            log.info("answer_ignored %s", fields(named=len(report.committed) + len(report.failed)))
        elif settled.failed:
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
            owed = commitment_asked.due(connection, self._peer.name, now=now, longest_wait_s=longest_s, limit=AT_ONCE)
        if not owed:
            return 0
        owed = [one for one in owed if one.tries == owed[0].tries]  # the others at the next tick: their wait differs
        transaction_uid = uids.fresh()
        with self._database.write() as connection:
            again_at = now + _patience_s(owed[0].tries, settings)
            owed = commitment_asked.ask(connection, owed, transaction_uid, again_at=again_at)
        if not owed:
            return 0
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
                commitment_asked.postpone(connection, transaction_uid, until=self._clock() + wait_s, error=str(exc))
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
