"""The sender: takes what the outbox owes to one destination and sends it until it is stored. No SQL here, no DIMSE.

One sender per destination, so that a slow PACS delays nobody else. A delivery that fails for a reason that may pass is
tried again, at growing intervals; one that the PACS refuses for good waits for a person.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Callable
from io import BytesIO

import pydicom

from dicom_node.config import Peer, Results
from dicom_node.delivering import otherclass
from dicom_node.errors import PeerError, PeerRefused
from dicom_node.logs import fields
from dicom_node.network import scu
from dicom_node.network.requestor import NoAssociation, NoContext
from dicom_node.report import readback, sr
from dicom_node.status import StoreStatus, in_words, is_warning
from dicom_node.store import destinations, outbox, whereabouts
from dicom_node.store.database import Database
from dicom_node.store.outbox import Delivery, MadeObject
from dicom_node.store.spool import Spool

log = logging.getLogger("dicom_node.sender")

EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
SR_CLASSES = dict(zip(("comprehensive-3d", "comprehensive", "enhanced"), sr.SR_CLASSES, strict=True))
"""Values of `peers.sr_class`."""


class Sender:
    def __init__(
        self,
        database: Database,
        spool: Spool,
        peer: Peer,
        settings: Results,
        *,
        ae_title: str,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._spool = spool
        self._peer = peer
        self._settings = settings
        self._ae_title = ae_title
        self._clock = clock
        self._jitter = jitter
        self._stored_at = 0.0
        """When this destination last took something; 0 if not since the start."""

    def tick(self) -> int:
        """Send what is due; returns how many deliveries there were."""
        with self._database.read() as connection:
            due = outbox.due(
                connection, self._peer.name, now=self._clock(), longest_wait_s=self._settings.retry_longest_s
            )
            seen = destinations.sr_class_of(connection, self._peer.name, now=self._clock())
        taken = self._first_class(seen)
        unanswered: dict[str, Delivery] = {}
        for delivery in due:
            if self._whole(delivery) is None:
                self._failed(delivery, _not_whole())
            elif _comes_before(delivery.sop_class_uid, taken):
                self._replace(delivery, taken)
            else:
                unanswered[delivery.sop_instance_uid] = delivery

        def still_owed(item: scu.Outgoing) -> bool:
            with self._database.write() as connection:
                return outbox.begin(connection, unanswered[item.sop_instance_uid], now=self._clock())

        outgoing = [self._outgoing(delivery) for delivery in unanswered.values()]
        try:
            for sent in scu.send(self._peer, self._ae_title, outgoing, still=still_owed):
                self._answered(unanswered.pop(sent.item.sop_instance_uid), sent)
        except scu.AssociationBroken as exc:  # those after it were not tried, and are due at once
            self._failed(unanswered[exc.item.sop_instance_uid], exc)
        except PeerError as exc:
            for delivery in unanswered.values():
                self._failed(delivery, exc)
        return len(due)

    def _first_class(self, seen: str | None) -> str:
        """The SR class to begin with: the configured one, or a later one that this destination has taken."""
        chosen = SR_CLASSES[self._peer.sr_class]
        return seen if seen is not None and _comes_before(chosen, seen) else chosen

    def _whole(self, kept: Delivery | MadeObject) -> bytes | None:
        """The stored bytes; None if gone or damaged: one lost file must not hold up all that follow."""
        try:
            content = self._spool.read(kept.file)
        except FileNotFoundError:
            return None
        return content if hashlib.sha256(content).hexdigest() == kept.sha256 else None

    def _answered(self, delivery: Delivery, sent: scu.Sent) -> None:
        # Some peers negotiate every class, and only refuse it when they are sent an object.
        if sent.status == StoreStatus.DUPLICATE_SOP_INSTANCE and delivery.begun_at is not None:
            sent = scu.Sent(sent.item, sent.status)  # it got through before, without an answer
        class_not_taken = isinstance(sent.error, NoContext) or sent.status == StoreStatus.SOP_CLASS_NOT_SUPPORTED
        if class_not_taken and self._offer_next_class(delivery):
            return
        if sent.error is not None:
            self._failed(delivery, sent.error)
            return
        assert sent.status is not None
        now = self._clock()
        with self._database.write() as connection:
            commitment = self._peer.commitment
            whole = outbox.delivered(connection, delivery, sent.status, now=now, commitment=commitment)
            if delivery.sop_class_uid in sr.SR_CLASSES:
                destinations.remember_sr_class(connection, self._peer.name, delivery.sop_class_uid, now=now)
            outbox.hurry(connection, self._peer.name, now=now, last_stored_at=self._stored_at)
        self._stored_at = now
        state = "delivered" if whole else None
        said = fields(**self._about(delivery), status=in_words(sent.status), state=state)
        if is_warning(sent.status):
            log.warning("stored %s", said)
        else:
            log.info("stored %s", said)

    def _failed(self, delivery: Delivery, error: PeerError) -> None:
        """What is no longer owed, because it was withdrawn or its patient forgotten meanwhile, fails silently."""
        now, about = self._clock(), self._about(delivery)
        if isinstance(error, PeerRefused) and not isinstance(error, NoAssociation):
            with self._database.write() as connection:
                owed = outbox.give_up(connection, delivery, now=now, status=error.status, error=str(error))
            if owed:
                hint = f"mend it, then: dicom-node retry {delivery.series_id}"
                log.error("delivery_failed %s", fields(**about, reason=error, hint=hint))
            return
        wait_s = self._settings.wait_s(delivery.tries, self._jitter())
        with self._database.write() as connection:
            until = now + wait_s
            owed = outbox.postpone(connection, delivery, until=until, status=error.status, error=str(error))
        if owed:
            log.warning("delivery_waits %s", fields(**about, wait_s=wait_s, reason=error))

    def _offer_next_class(self, delivery: Delivery) -> bool:
        """This destination does not take this SR class: owe it the report in the next one; False if none is left."""
        if delivery.sop_class_uid not in sr.SR_CLASSES:
            return False
        following = sr.SR_CLASSES[sr.SR_CLASSES.index(delivery.sop_class_uid) + 1 :]
        if not following:
            return False
        log.info("other_sr_class %s", fields(**self._about(delivery), sop_class=following[0]))
        self._replace(delivery, following[0])
        return True

    def _replace(self, delivery: Delivery, sop_class_uid: str) -> None:
        """Build the report in the other class, once: its UIDs are derived from those of the first, and it names the
        reports that it replaces as this destination has them."""
        with self._database.read() as connection:
            first = otherclass.first_built(whereabouts.objects_of(connection, delivery.job_id))
        content = self._whole(delivery if first is None else first)
        if content is None:
            self._failed(delivery, _not_whole())
            return
        original = pydicom.dcmread(BytesIO(content))
        with self._database.read() as connection:
            replaced = [each.sop_instance_uid for each in readback.predecessors(original)]
            there = {each: whereabouts.standing_in_for(connection, each, self._peer.name) for each in replaced}
        built = otherclass.in_other_class(original, sop_class_uid, there)
        with self._database.write() as connection:  # the file too: if its patient is forgotten, none remains
            outbox.replace(
                connection,
                delivery,
                built.sop_instance_uid,
                lambda: built.stored_in(self._spool),
                now=self._clock(),
            )

    def _about(self, delivery: Delivery) -> dict[str, object]:
        """What each log line begins with; commands take the number of the series."""
        return {"series": delivery.series_id, "job": delivery.job_id, "to": self._peer.name}

    def _outgoing(self, delivery: Delivery) -> scu.Outgoing:
        return scu.Outgoing(
            self._spool.path(delivery.file),
            delivery.sop_class_uid,
            delivery.sop_instance_uid,
            EXPLICIT_VR_LITTLE_ENDIAN,
        )


def _not_whole() -> PeerRefused:
    return PeerRefused("the stored object is missing or damaged; nothing was sent")


def _comes_before(sop_class_uid: str, taken: str) -> bool:
    """Whether this SR class comes before `taken`, the one that the destination is to get."""
    classes = sr.SR_CLASSES
    return sop_class_uid in classes and taken in classes and classes.index(sop_class_uid) < classes.index(taken)
