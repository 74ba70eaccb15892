"""Accepting: from a received object to a filed instance. No SQL here, no DIMSE.

The receiver calls `accept` for each object; when that returns Success, the object is durable.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from dicom_node.config import Backlog, Eligibility
from dicom_node.errors import InvalidObject, StoreFull, StoreUnavailable
from dicom_node.headers import eligibility, header
from dicom_node.logs import fields
from dicom_node.received import Received
from dicom_node.status import StoreStatus
from dicom_node.store import jobs
from dicom_node.store.comparing import Arrival, Filed
from dicom_node.store.database import Database
from dicom_node.store.filing import Filing
from dicom_node.store.spool import Spool
from dicom_node.store.together import Filer

log = logging.getLogger("dicom_node.arrivals")

CLOCKS_WERE_SET = datetime(2001, 1, 1)  # noqa: DTZ001 - one that lost its battery starts in 1970, 1980, 1990 or 2000


class Acceptor:
    def __init__(
        self,
        database: Database,
        spool: Spool,
        *,
        rules: Eligibility,
        backlog: Backlog,
        reopen_wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._filer = Filer(database, spool, reopen_wait_s=reopen_wait_s)
        self._rules = rules
        self._backlog = backlog
        self._clock = clock

    def accept(self, received: Received) -> StoreStatus:
        """Keep one object. Success is returned only when file and row are on disk."""
        try:
            kept = self._keep(received)
        except InvalidObject as exc:
            log.warning("rejected %s", fields(association=received.association, status=f"{exc.status:04X}", reason=exc))
            return exc.status
        except (StoreFull, StoreUnavailable) as exc:
            log.error("refused %s", fields(association=received.association, status="A700", reason=exc))
            return StoreStatus.OUT_OF_RESOURCES
        if log.isEnabledFor(logging.DEBUG):
            log.debug("kept %s", fields(association=received.association, was=kept.filed))
        if kept.filed is Filed.CONTRADICTED:
            reason = "other pixels under the same SOP Instance UID"
            log.error("contradiction %s", fields(series=kept.series_id, reason=reason))
        for left in kept.held:
            log.error("failed %s", fields(series=left, reason="an image arrived again under another patient or study"))
        return StoreStatus.SUCCESS

    def _keep(self, received: Received) -> Filing:
        head = header.read(
            received.data_set,
            transfer_syntax_uid=received.transfer_syntax_uid,
            sop_class_uid=received.sop_class_uid,
            sop_instance_uid=received.sop_instance_uid,
        )
        name = self._spool.keep(received.meta, received.data_set)
        now = self._clock()
        arrival = Arrival(
            header=head,
            transfer_syntax_uid=received.transfer_syntax_uid,
            file=name,
            size=len(received.meta) + len(received.data_set),
            digest=received.digest,
            ruled_out=eligibility.ruled_out(head.sop_class_uid, head.facts, self._rules),
            calling_aet=received.calling_aet,
            at=now,
            priority=priority(head.taken_at, received.calling_aet, self._backlog, now=now),
        )
        return self._filer.file(arrival)


def priority(taken_at: datetime | None, calling_aet: str, backlog: Backlog, *, now: float) -> int:
    """Live or backlog; in doubt live: an old comparison read too early costs nothing, a stroke read late does."""
    if calling_aet in backlog.senders:
        return jobs.BACKLOG
    if calling_aet in backlog.live_senders or taken_at is None or taken_at < CLOCKS_WERE_SET:
        return jobs.LIVE
    try:
        age_s = now - taken_at.timestamp()  # in the zone of this machine; the limit is wide enough for another
    except (OverflowError, OSError, ValueError):
        return jobs.LIVE
    return jobs.BACKLOG if age_s > backlog.older_than_h * 3600.0 else jobs.LIVE
