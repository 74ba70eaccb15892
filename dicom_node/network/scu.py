"""The sender's side of DIMSE: C-ECHO and C-STORE as SCU (PS3.7 9.1.1, 9.1.5).

A file goes out byte for byte where the peer takes its transfer syntax; only where it does not, and the object is
uncompressed, is it encoded anew, as every peer may ask for Implicit VR Little Endian (PS3.5 10.1).
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from dicom_node.config import Peer
from dicom_node.errors import PeerError, PeerRefused, PeerUnreachable
from dicom_node.network import syntaxes
from dicom_node.status import PENDING, StoreStatus, is_stored, is_temporary
from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_config.STORE_SEND_CHUNKED_DATASET = True  # files are sent as they are, and not through memory
_config.LOG_HANDLER_LEVEL = "none"
_MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: context IDs are odd and below 256


@dataclass(frozen=True)
class Outgoing:
    """A Part 10 file to be stored at a peer."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Sent:
    """What a peer answered to one object: stored (`error` is None, `status` Success or a warning), or why not."""

    item: Outgoing
    status: int | None
    error: PeerError | None = None


class NoContext(PeerRefused):
    """The peer accepted no presentation context for this SOP class."""


class NoAssociation(PeerRefused):
    """The peer rejects our associations: a matter of its configuration, which may be mended there at any time."""


class AssociationBroken(PeerUnreachable):
    """The association ended while `item` was under way."""

    def __init__(self, reason: str, item: Outgoing) -> None:
        super().__init__(reason)
        self.item = item


def outgoing(path: Path) -> Outgoing:
    """Read what negotiation needs from a Part 10 file. Raises pydicom's InvalidDicomError if it is none."""
    meta = pydicom.dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"], stop_before_pixels=True)
    return Outgoing(
        path,
        str(meta.file_meta.MediaStorageSOPClassUID),
        str(meta.file_meta.MediaStorageSOPInstanceUID),
        str(meta.file_meta.TransferSyntaxUID),
    )


def echo(peer: Peer, calling_aet: str) -> float:
    """C-ECHO; returns the seconds it took, association included. Raises PeerError."""
    begun = time.monotonic()
    with _association(peer, calling_aet, [(syntaxes.VERIFICATION, str(pydicom.uid.ImplicitVRLittleEndian))]) as open_:
        if open_ is None:
            raise NoContext(f"{_name(peer)} does not accept Verification, which every peer must")
        status = open_.send_c_echo()
        if "Status" not in status:
            raise PeerUnreachable(f"{_name(peer)} did not answer C-ECHO")
        if status.Status != StoreStatus.SUCCESS:
            raise PeerRefused(f"{_name(peer)} answered C-ECHO with status {status.Status:04X}", status.Status)
    return time.monotonic() - begun


def count_instances(peer: Peer, calling_aet: str, study_uid: str, series_uid: str) -> int | None:
    """Number of Series Related Instances (C-FIND, Study Root, PS3.4 C.6.2); None if the peer does not tell.

    Raises PeerError.
    """
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID, query.SeriesInstanceUID = study_uid, series_uid
    query.NumberOfSeriesRelatedInstances = None
    model = StudyRootQueryRetrieveInformationModelFind
    contexts = [(str(model), str(uid)) for uid in syntaxes.UNCOMPRESSED[:2]]
    with _association(peer, calling_aet, contexts) as open_:
        if open_ is None:
            raise NoContext(f"{_name(peer)} accepts no C-FIND (Study Root Query/Retrieve Information Model)")
        found = None
        for status, answer in open_.send_c_find(query, model):
            if "Status" not in status:
                raise PeerUnreachable(f"{_name(peer)} did not answer C-FIND")
            if status.Status in PENDING and answer is not None:
                found = answer.get("NumberOfSeriesRelatedInstances", found)
            elif status.Status != StoreStatus.SUCCESS and status.Status not in PENDING:
                raise PeerRefused(f"{_name(peer)} answered C-FIND with status {status.Status:04X}", status.Status)
    return int(found) if found else None


def send(
    peer: Peer,
    calling_aet: str,
    items: Sequence[Outgoing],
    *,
    still: Callable[[Outgoing], bool] = lambda _: True,
) -> Iterator[Sent]:
    """Store the items, over as few associations as negotiation allows; yields one answer an item, in order.

    `still`: whether to send it after all, asked right before it goes out; for one that is not sent nothing is yielded.
    Raises AssociationBroken where the peer left in the middle of an item, those after it were not tried then, and
    PeerUnreachable or NoAssociation where no association comes about. What was not yielded by then was not answered.
    """
    for batch in _batches(items):
        contexts = sorted({pair for item in batch for pair in _contexts_for(item)})
        with _association(peer, calling_aet, contexts) as open_:
            if open_ is None:
                yield from (Sent(item, None, _no_context(peer, item)) for item in batch)
                continue
            for item in batch:
                sent = _send_one(open_, peer, item, still)
                if sent is not None:
                    yield sent


def _no_context(peer: Peer, item: Outgoing) -> NoContext:
    return NoContext(
        f"{_name(peer)} accepted no presentation context for {pydicom.uid.UID(item.sop_class_uid).name}; "
        f"enable {item.sop_class_uid} there, then retry"
    )


def _send_one(association: Association, peer: Peer, item: Outgoing, still: Callable[[Outgoing], bool]) -> Sent | None:
    taken = {
        str(context.transfer_syntax[0])
        for context in association.accepted_contexts
        if context.abstract_syntax == item.sop_class_uid
    }
    if not taken:
        return Sent(item, None, _no_context(peer, item))
    as_it_is = item.transfer_syntax_uid in taken
    if not association.is_established:
        raise AssociationBroken(f"{_name(peer)} ended the association", item)
    if not still(item):
        return None
    try:
        answer = association.send_c_store(item.path if as_it_is else pydicom.dcmread(item.path))
    except FileNotFoundError:
        return Sent(item, None, PeerRefused("the stored object is gone; nothing was sent"))
    except ValueError:  # its text may quote values of the object
        return Sent(item, None, PeerRefused(f"{_name(peer)} takes {item.sop_class_uid} in no transfer syntax we have"))
    except RuntimeError as exc:
        raise AssociationBroken(f"{_name(peer)} ended the association", item) from exc
    if "Status" not in answer:
        reason = f"{_name(peer)} did not answer C-STORE: timeout, abort or an invalid response"
        raise AssociationBroken(reason, item)
    status = int(answer.Status)
    if is_stored(status):
        return Sent(item, status)
    kind = PeerUnreachable if is_temporary(status) else PeerRefused
    return Sent(item, status, kind(f"{_name(peer)} answered C-STORE with status {status:04X}", status))


def _contexts_for(item: Outgoing) -> list[tuple[str, str]]:
    """Presentation contexts to propose: the file's own syntax, and what it can be encoded to without loss."""
    own = item.transfer_syntax_uid
    others = [str(uid) for uid in syntaxes.UNCOMPRESSED[:2]] if own in map(str, syntaxes.UNCOMPRESSED) else []
    return [(item.sop_class_uid, uid) for uid in dict.fromkeys([own, *others])]


def _batches(items: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    batch: list[Outgoing] = []
    contexts: set[tuple[str, str]] = set()
    for item in items:
        needed = set(_contexts_for(item))
        if batch and len(contexts | needed) > _MAX_CONTEXTS:
            yield batch
            batch, contexts = [], set()
        batch.append(item)
        contexts |= needed
    if batch:
        yield batch


@contextmanager
def _association(
    peer: Peer,
    calling_aet: str,
    contexts: Sequence[tuple[str, str]],
    *,
    handlers: Sequence[tuple[Any, ...]] = (),
    as_scp: str | None = None,
) -> Iterator[Association | None]:
    """An established association; None where the peer accepts associations, but none of the proposed contexts.

    `handlers`: the library's, for what the peer may ask on it; `as_scp`: an abstract syntax of which we are the SCP
    although we open the association (PS3.7 D.3.3.4).
    """
    ae = AE(calling_aet)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = peer.timeout_s
    proposed = [build_context(*pair) for pair in contexts]
    roles = [] if as_scp is None else [build_role(as_scp, scp_role=True)]
    rejections: list[A_ASSOCIATE_RJ] = []
    try:
        association = ae.associate(
            peer.host,
            peer.port,
            contexts=proposed,
            ae_title=peer.ae_title,
            ext_neg=roles,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, _no_delay),
                (evt.EVT_PDU_RECV, _keep_a_rejection, [rejections]),
                *handlers,
            ],
            tls_args=(_tls(peer), peer.host) if peer.tls else None,
        )
    except OSError as exc:  # the host's name is not known, now or at all
        raise PeerUnreachable(f"{_name(peer)} cannot be reached: {exc.strerror}") from exc
    if rejections:
        answer = rejections[0]
        reason = f"{_name(peer)} rejected the association: {_why(answer)}"
        # Rejected for good (1) is a matter of configuration on either side, for now (2) of load (PS3.8 9.3.4).
        raise NoAssociation(reason) if answer.result == 1 else PeerUnreachable(reason)
    if not association.is_established:
        if association.rejected_contexts and not association.accepted_contexts:
            yield None
            return
        how = " (over TLS; is its certificate signed by peers.tls_ca, for this host?)" if peer.tls else ""
        raise PeerUnreachable(f"{_name(peer)} cannot be reached or ended the association at once{how}")
    _keep_answers_for_the_sender(association)
    try:
        yield association
        association.release()
    finally:
        if association.is_alive():
            association.abort()


def _tls(peer: Peer) -> ssl.SSLContext:
    """TLS 1.2 or newer, certificate and host name verified: PS3.15 B.9, BCP 195 (RFC 9325). Raises PeerUnreachable."""
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=peer.tls_ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if peer.tls_certificate is not None:
            context.load_cert_chain(peer.tls_certificate, peer.tls_key)
    except (OSError, ssl.SSLError) as exc:
        raise PeerUnreachable(f"{_name(peer)}: the TLS files of its configuration cannot be used: {exc}") from exc
    return context


def _keep_answers_for_the_sender(association: Association) -> None:
    """Let the library's own thread give back an answer that it took by mistake.

    Each association has a thread that looks for requests of the peer. A sender pauses it, but on a busy machine it may
    already be past the point where it pauses, take the answer for a stray message and drop it (seen with pynetdicom
    3.0.4); the sender then waits for its whole timeout although the object was stored.
    """
    serve = association._serve_request

    def serve_or_give_back(message: Any, context_id: int) -> None:
        if message.is_valid_request:
            serve(message, context_id)
        else:
            association.dimse.msg_queue.put((context_id, message))

    association._serve_request = serve_or_give_back


def _keep_a_rejection(event: evt.Event, rejections: list[A_ASSOCIATE_RJ]) -> None:
    """The library's own word (`is_rejected`) is not enough.

    A rejection closes the connection. Where it is read before the thread that asked has looked whether there is a
    connection, that thread takes it for a peer that cannot be reached (seen with pynetdicom 3.0.4 on a busy machine).
    """
    if isinstance(event.pdu, A_ASSOCIATE_RJ):
        rejections.append(event.pdu)


def _why(rejection: A_ASSOCIATE_RJ) -> str:
    try:
        return str(rejection.reason_str)
    except ValueError:  # no such source or reason in PS3.8 9.3.4
        return f"source {rejection.source}, reason {rejection.reason_diagnostic}"


def _no_delay(event: evt.Event) -> None:
    """Small messages wait for each other's acknowledgement otherwise (Nagle): 89 ms instead of 4 for a report."""
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _name(peer: Peer) -> str:
    return f"{peer.name} ({peer.host}:{peer.port})"
