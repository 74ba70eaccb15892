"""Storage Commitment, Push Model (PS3.4 annex J): asking a peer to commit to what we sent, and being asked.

Either way the answer, N-EVENT-REPORT, may come on the requesting association or on another that the answering side
opens. We accept both, and answer on a new one. What a request or an answer means for the node is for the callbacks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from dicom_node import uids
from dicom_node.config import Peer
from dicom_node.errors import NodeError, PeerRefused, PeerUnreachable
from dicom_node.logs import fields, trace
from dicom_node.network import requestor
from dicom_node.network.requestor import NoContext
from dicom_node.status import CommitmentStatus, StoreStatus

log = logging.getLogger("dicom_node.commitment")

SOP_CLASS = str(StorageCommitmentPushModel)
SOP_INSTANCE = "1.2.840.10008.1.20.1.1"  # well-known
REQUEST, ALL_COMMITTED, FAILURES_EXIST = 1, 1, 2  # PS3.4 J.3.2.1, J.3.3.1
LONGEST_REQUEST = 50_000  # references in one request
_CONTEXTS = [(SOP_CLASS, str(uid)) for uid in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)]

Reference = tuple[str, str]
"""SOP Class UID and SOP Instance UID."""
Handler = tuple[Any, ...]
"""The library's: an event, a function, its further arguments."""
AskUs = Callable[[str, str, Sequence[Reference]], CommitmentStatus]
"""Calling AE title, transaction UID, references -> status."""


@dataclass(frozen=True)
class Report:
    """The answer to one request."""

    transaction_uid: str
    committed: frozenset[str] = frozenset()
    """SOP Instance UIDs."""
    failed: dict[str, int] = field(default_factory=dict)
    """SOP Instance UID -> Failure Reason (PS3.3 C.14.1.1)."""


def ask(
    peer: Peer,
    calling_aet: str,
    transaction_uid: str,
    references: Sequence[Reference],
    on_report: Callable[[Report], None],
    *,
    linger_s: float = 1.0,
) -> None:
    """N-ACTION; waits up to `linger_s` for an answer on the same association. Raises PeerError."""
    came = threading.Event()

    def take(report: Report) -> None:
        on_report(report)
        came.set()

    handlers = [_on_report(take)]
    with requestor.association(peer, calling_aet, _CONTEXTS, handlers=handlers) as open_:
        if open_ is None:
            raise NoContext(f"{peer.name} offers no storage commitment; enable it there, or remove peers.commitment")
        asked = Dataset()
        asked.TransactionUID = transaction_uid
        asked.ReferencedSOPSequence = [_item(*reference) for reference in references]
        answer, _ = open_.send_n_action(asked, REQUEST, SOP_CLASS, SOP_INSTANCE)
        _check(peer, "N-ACTION", answer)
        came.wait(linger_s)


def report(peer: Peer, calling_aet: str, transaction_uid: str, answers: Sequence[tuple[str, str, int | None]]) -> None:
    """N-EVENT-REPORT on an association of our own; `answers`: SOP class, SOP instance, Failure Reason or None.

    Raises PeerError.
    """
    told = Dataset()
    told.TransactionUID = transaction_uid
    committed = [_item(cls, uid) for cls, uid, reason in answers if reason is None]
    failed = [_item(cls, uid, reason) for cls, uid, reason in answers if reason is not None]
    if committed:
        told.ReferencedSOPSequence = committed
    if failed:
        told.FailedSOPSequence = failed
    with requestor.association(peer, calling_aet, _CONTEXTS, as_scp=SOP_CLASS) as open_:
        if open_ is None:
            raise NoContext(f"{peer.name} accepts no N-EVENT-REPORT for storage commitment from us")
        try:
            answer, _ = open_.send_n_event_report(
                told, FAILURES_EXIST if failed else ALL_COMMITTED, SOP_CLASS, SOP_INSTANCE
            )
        except ValueError as exc:  # accepted, but not with us in the role of SCP
            raise PeerRefused(f"{peer.name} does not let us report as SCP of storage commitment") from exc
        _check(peer, "N-EVENT-REPORT", answer)


def service(on_report: Callable[[Report], None], on_request: AskUs | None) -> tuple[str, list[Handler]]:
    """What the receiver offers besides storage.

    Without `on_request` nobody may ask us for commitment; reports on what we asked are still taken.
    """
    return SOP_CLASS, [
        _on_report(on_report),
        (evt.EVT_N_ACTION, _answered, [_requested, on_request, lambda why: log.error("request_not_kept %s", why)]),
    ]


def _on_report(take: Callable[[Report], None]) -> Handler:
    return evt.EVT_N_EVENT_REPORT, _answered, [_reported, take, lambda why: log.error("report_not_taken %s", why)]


def _answered(
    event: evt.Event, act: Callable[..., CommitmentStatus], given: Any, complain: Callable[[str], None]
) -> tuple[int, None]:
    """The status that `act` gives; in any case one, which is not Success where we failed."""
    # The library goes by the class that the message names; what was negotiated is the context it arrived in.
    if event.context.abstract_syntax != SOP_CLASS:
        return CommitmentStatus.NO_SUCH_SOP_CLASS, None
    try:
        return act(event, given), None
    except NodeError as exc:
        complain(fields(reason=exc))
        return CommitmentStatus.RESOURCE_LIMITATION, None
    except Exception as exc:  # noqa: BLE001 - outermost line: the peer must get an answer
        complain(fields(error=trace(exc)))
        return CommitmentStatus.PROCESSING_FAILURE, None


def _reported(event: evt.Event, take: Callable[[Report], None]) -> CommitmentStatus:
    told = event.event_information
    take(
        Report(
            str(told.TransactionUID),
            frozenset(str(item.ReferencedSOPInstanceUID) for item in told.get("ReferencedSOPSequence") or ()),
            {
                str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or StoreStatus.PROCESSING_FAILURE)
                for item in told.get("FailedSOPSequence") or ()
            },
        )
    )
    return CommitmentStatus.SUCCESS


def _requested(event: evt.Event, ask_us: AskUs | None) -> CommitmentStatus:
    if ask_us is None:
        return CommitmentStatus.NOT_AUTHORIZED
    if event.action_type != REQUEST:
        return CommitmentStatus.NO_SUCH_ACTION
    asked = event.action_information
    transaction_uid = str(asked.get("TransactionUID") or "")
    references = list(
        dict.fromkeys(  # all bytes of each are read for the answer
            (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
            for item in asked.get("ReferencedSOPSequence") or ()
        )
    )
    if not references or len(references) > LONGEST_REQUEST or not _all_valid(transaction_uid, references):
        return CommitmentStatus.INVALID_ARGUMENT
    return ask_us(str(event.assoc.requestor.ae_title).strip(), transaction_uid, references)


def _all_valid(transaction_uid: str, references: Iterable[Reference]) -> bool:
    named: Collection[str] = [transaction_uid, *(uid for pair in references for uid in pair)]
    return all(uids.is_valid(uid) for uid in named)


def _item(sop_class_uid: str, sop_instance_uid: str, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    if reason is not None:
        item.FailureReason = int(reason)
    return item


def _check(peer: Peer, message: str, answer: Dataset) -> None:
    if "Status" not in answer:
        raise PeerUnreachable(f"{peer.name} did not answer {message}")
    if answer.Status != CommitmentStatus.SUCCESS:
        reason = f"{peer.name} answered {message} with status {answer.Status:04X}"
        raise PeerUnreachable(reason, int(answer.Status))  # asked again later: nothing is lost
