"""The receiver: C-ECHO and C-STORE as SCP (PS3.7 9.1.1, 9.1.5). What becomes of an object is the callback's word.

Callers and called title are checked when an association is requested; nothing of what a peer sends is logged but AE
titles and the node's own association numbers.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import secrets
import socket
import time
from collections.abc import Callable, Collection
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.transport import ThreadedAssociationServer

from dicom_node.errors import NodeError
from dicom_node.logs import fields, trace
from dicom_node.network import syntaxes
from dicom_node.received import Received
from dicom_node.status import StoreStatus
from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

log = logging.getLogger("dicom_node.scp")

_config.LOG_HANDLER_LEVEL = "none"  # the library's own logging quotes data sets, and costs time with every PDU
ANYONE = "*"
MAX_PDU = 128 * 1024  # larger ones gave nothing, measured
_SHUTDOWN_S = 10.0  # for all open associations to end by themselves
_ABORT_S = 1.0  # for A-ABORT to be sent to those that did not


class Receiver:
    def __init__(
        self,
        accept: Callable[[Received], StoreStatus],
        *,
        ae_title: str,
        bind: str,
        port: int,
        allowed: Collection[str],
        max_associations: int,
    ) -> None:
        self._accept = accept
        self._numbers = itertools.count(1)
        self._address = (bind, port)
        self._server: ThreadedAssociationServer | None = None
        self._ae = _entity(ae_title, allowed, max_associations)

    def start(self) -> int:
        """Listen; returns the port, which is of interest where 0 was asked for. Raises NodeError if it is taken."""
        handlers = [
            (evt.EVT_CONN_OPEN, self._on_connect),
            (evt.EVT_ACCEPTED, self._on_accepted),
            (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_ABORTED, self._on_aborted),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_C_STORE, self._on_store),
        ]
        try:
            self._server = self._ae.start_server(self._address, block=False, evt_handlers=handlers)
        except OSError as exc:
            bind, port = self._address
            raise NodeError(
                f"cannot listen on {bind} port {port}: {exc.strerror}; "
                "change node.bind or node.port, or stop what holds it"
            ) from exc
        assert self._server is not None
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Accept nothing new, let open associations end, then abort what is left."""
        if self._server is None:
            return
        self._server.shutdown()  # the accept loop; open associations go on
        self._join(_SHUTDOWN_S)
        for association in self._requested():
            association.abort(block=False)
        self._join(_ABORT_S)
        cut = self._server.active_associations
        for association in cut:
            _cut(association)
        for association in cut:
            association.join(_ABORT_S)
        self._ae.shutdown()

    def _join(self, timeout_s: float) -> None:
        """Wait for associations to end by themselves."""
        deadline = time.monotonic() + timeout_s
        for association in self._requested():
            association.join(max(0.0, deadline - time.monotonic()))

    def _requested(self) -> list[Association]:
        """Open associations, without the connections whose peer never asked for one."""
        assert self._server is not None
        return [a for a in self._server.active_associations if a.requestor.primitive is not None]

    def has_open_association(self, calling_aet: str) -> bool:
        """Whether this sender may still be in the middle of something."""
        if self._server is None:
            return False
        return any(
            a.is_established and a.requestor.ae_title.strip() == calling_aet for a in self._server.active_associations
        )

    def _on_connect(self, event: evt.Event) -> None:
        connection = event.assoc.dul.socket
        event.assoc.number = next(self._numbers)
        if connection is not None and connection.socket is not None:
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_accepted(self, event: evt.Event) -> None:
        log.debug("association %s", fields(association=_number(event), calling=_calling(event)))

    def _on_rejected(self, event: evt.Event) -> None:
        reason, hint = self._why_rejected(event)
        log.warning(
            "association_rejected %s",
            fields(association=_number(event), calling=_calling(event), reason=reason, hint=hint),
        )

    def _why_rejected(self, event: evt.Event) -> tuple[str, str]:
        """The library tells handlers only that it rejected; the reasons it has stand in the same order here."""
        requested = event.assoc.requestor.primitive
        if requested is not None and str(requested.called_ae_title).strip() != self._ae.ae_title:
            return "called AE title is not ours", f"this node is {self._ae.ae_title}, see node.ae_title"
        if self._ae.require_calling_aet and _calling(event) not in self._ae.require_calling_aet:
            return "calling AE title is not allowed", "to let it in, add it to node.allowed_senders"
        return "too many associations, or nothing proposed that is accepted", "see node.max_associations"

    def _on_aborted(self, event: evt.Event) -> None:
        log.warning("association_aborted %s", fields(association=_number(event), calling=_calling(event)))

    def _on_echo(self, event: evt.Event) -> int:
        return StoreStatus.SUCCESS

    def _on_store(self, event: evt.Event) -> int:
        try:
            return int(self._accept(_received(event)))
        except Exception as exc:  # noqa: BLE001 - outermost line: the peer must get an answer, and it must not be Success
            log.error("store_failed %s", fields(association=_number(event), error=trace(exc)))
            return StoreStatus.PROCESSING_FAILURE


def _entity(ae_title: str, allowed: Collection[str], max_associations: int) -> AE:
    ae = AE(ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.require_called_aet = True
    if ANYONE not in allowed:
        # An empty list would let everybody in; a title made up at each start lets nobody in.
        ae.require_calling_aet = sorted(allowed) or [secrets.token_hex(8)]
    ae.maximum_associations = max_associations
    ae.maximum_pdu_size = MAX_PDU
    ae.acse_timeout = 10
    ae.dimse_timeout = 60
    ae.network_timeout = 120
    ae.add_supported_context(syntaxes.VERIFICATION)
    for storage_class in syntaxes.STORAGE_CLASSES:
        ae.add_supported_context(storage_class, syntaxes.ACCEPTED)
    return ae


def _cut(association: Association) -> None:
    """End a connection whose peer stalls within a PDU: the thread that reads from it hears nothing else."""
    connection = association.dul.socket
    if connection is not None and connection.socket is not None:
        with contextlib.suppress(OSError):
            connection.socket.shutdown(socket.SHUT_RDWR)


def _received(event: evt.Event) -> Received:
    request = event.request
    data_set = request.DataSet.getvalue() if request.DataSet is not None else b""
    return Received(
        sop_class_uid=str(request.AffectedSOPClassUID or ""),
        sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
        transfer_syntax_uid=str(event.context.transfer_syntax),
        meta=b"\0" * 128 + b"DICM" + encode_file_meta(event.file_meta),
        data_set=data_set,
        calling_aet=_calling(event),
        association=_number(event),
    )


def _number(event: evt.Event) -> int:
    return int(getattr(event.assoc, "number", 0))


def _calling(event: evt.Event) -> str:
    primitive: Any = event.assoc.requestor.primitive
    title = getattr(primitive, "calling_ae_title", None) or event.assoc.requestor.ae_title
    return str(title).strip()
