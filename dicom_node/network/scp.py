"""The receiver: C-ECHO and C-STORE as SCP (PS3.7 9.1.1, 9.1.5). What becomes of an object is up to the callback.

`door` lets connections in and reads their association request; one of two loops then serves what was asked for.
Only AE titles, addresses and the node's own association numbers are logged, nothing else that a peer sends.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import RequestHandler

from dicom_node import digests
from dicom_node.config import Config
from dicom_node.errors import NodeError
from dicom_node.logs import fields, trace
from dicom_node.network import admission, door, library_loop, negotiating, syntaxes, upperlayer
from dicom_node.network.admission import Connection, Rules
from dicom_node.network.library_loop import Bounds, Wire
from dicom_node.network.memory import SMALL, Memory
from dicom_node.network.own_loop import Loop
from dicom_node.network.request import Request
from dicom_node.network.tally import Tally
from dicom_node.network.tls import TlsFiles
from dicom_node.network.upperlayer import MAX_PDU, BadPdu
from dicom_node.received import Received, file_meta
from dicom_node.status import CommitmentStatus, StoreStatus
from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

log = logging.getLogger("dicom_node.scp")

_config.LOG_HANDLER_LEVEL = "none"  # the library's own logging quotes data sets, and costs time on every PDU
GRACE_S = 10.0  # time for all open associations to end by themselves
_ABORT_S = 1.0  # time for A-ABORT to be sent to those that did not
_OBJECTS_AT_ONCE = 2  # of the largest size, in memory for all associations together

Accept = Callable[[Received], StoreStatus]


def rules_of(config: Config, has_room: Callable[[], bool] = lambda: True) -> Rules:
    node = config.node
    tls = None
    if node.tls and node.tls_certificate is not None and node.tls_key is not None:
        tls = TlsFiles(node.tls_certificate, node.tls_key, node.tls_ca, node.tls_clients)
    return Rules(
        ae_title=node.ae_title,
        senders=config.senders,
        addresses=admission.networks(node.allowed_addresses),
        echo_from_anyone=node.echo_from == "anyone",
        max_associations=node.max_associations,
        max_per_address=node.max_associations_per_address,
        request_s=node.request_timeout_s,
        max_object=node.max_object_mib * 2**20,
        tls=tls,
        own_loop=node.receive_loop == "own",
        has_room=has_room,
    )


def _size_of(request: Any) -> int:
    """Bytes of the data set of an N-ACTION or N-EVENT-REPORT request."""
    told = getattr(request, "ActionInformation", None) or getattr(request, "EventInformation", None)
    return 0 if told is None else len(told.getvalue())


def _in_either_role(abstract_syntax: str) -> PresentationContext:
    """The association's requestor may be the SCP (PS3.7 D.3.3.4), as for reports on storage commitment."""
    context = build_context(abstract_syntax, syntaxes.UNCOMPRESSED)
    context.scu_role = context.scp_role = True
    return context


class Receiver:
    def __init__(
        self,
        accept: Accept,
        rules: Rules,
        *,
        bind: str,
        port: int,
        services: Sequence[tuple[str, Sequence[tuple[Any, ...]]]] = (),
    ) -> None:
        """`services`: further abstract syntaxes, each with the library's handlers and their arguments."""
        self._accept = accept
        self._rules = rules
        self._address = (bind, port)
        self._services = services
        self._memory = Memory(_OBJECTS_AT_ONCE * rules.max_object, for_small=rules.max_associations * SMALL)
        self._serving_others = threading.Lock()
        self._tally = Tally(log)
        self._server: door.Server | None = None
        self._verification = [build_context(syntaxes.VERIFICATION, syntaxes.UNCOMPRESSED)]
        self._contexts = [
            *self._verification,
            *(build_context(storage, syntaxes.ACCEPTED) for storage in syntaxes.STORAGE_CLASSES),
        ]

    def start(self) -> int:
        """Listen; returns the port, which matters where 0 was asked for. Raises NodeError if it is taken."""
        ae = AE(self._rules.ae_title)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.maximum_pdu_size = MAX_PDU
        ae.maximum_associations = 2**16  # `admission` counts, and says why
        ae.acse_timeout = self._rules.request_s
        ae.dimse_timeout = ae.network_timeout = self._rules.idle_s
        try:
            self._server = ae.make_server(
                self._address,
                contexts=[*self._contexts, *(_in_either_role(abstract) for abstract, _ in self._services)],
                evt_handlers=[
                    (evt.EVT_C_ECHO, lambda _: int(StoreStatus.SUCCESS)),
                    *(handler for _, handlers in self._services for handler in handlers),
                ],
                server_class=door.Server,
                rules=self._rules,
                tally=self._tally,
                serve=self._serve,
            )
        except OSError as exc:
            bind, port = self._address
            raise NodeError(
                f"cannot listen on {bind} port {port}: {exc.strerror}; "
                "change node.bind or node.port, or stop the program that uses it"
            ) from exc
        threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True).start()
        return int(self._server.server_address[1])

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Accept nothing new, let open associations end, then abort what is left."""
        if self._server is not None:
            door.stop(self._server, grace_s, _ABORT_S)

    def has_open_association(self, calling_aet: str) -> bool:
        """Whether this sender may still be in the middle of something."""
        return self._server is not None and any(
            connection.calling == calling_aet for connection in self._server.connections.associated()
        )

    def _serve(self, handler: RequestHandler, connection: Connection, asked: Request, first: bytes) -> bytes:
        log.debug("association %s", fields(association=connection.number, calling=asked.calling))
        further = {abstract for abstract, _ in self._services}
        if self._rules.own_loop and not asked.abstract_syntaxes & further:
            return self._by_own_loop(connection, asked, first)
        self._by_library(handler, connection, asked, first)
        return b""

    def _by_own_loop(self, connection: Connection, asked: Request, first: bytes) -> bytes:
        supported = self._verification
        if self._rules.knows(asked.calling):
            private = sorted(filter(syntaxes.is_private_class, asked.abstract_syntaxes))
            supported = [*self._contexts, *(build_context(uid, syntaxes.ACCEPTED) for uid in private)]
        try:
            negotiated = negotiating.negotiate(first, supported)
        except BadPdu as exc:
            self._complain(connection, str(exc))
            return upperlayer.abort(exc.reason)
        if negotiated.contexts is None:
            return negotiated.answer
        loop = Loop(
            connection.socket,
            contexts=negotiated.contexts,
            longest=negotiated.longest,
            store=lambda *received: self._store(connection, *received),
            memory=self._memory,
            max_object=self._rules.max_object,
            idle_s=self._rules.idle_s,
            complain=lambda reason: self._complain(connection, reason),
        )
        connection.end = loop.end
        connection.socket.sendall(negotiated.answer)
        try:
            return loop.run()
        except OSError as exc:
            self._complain(connection, f"connection lost ({exc.strerror})")
            return b""

    def _by_library(self, handler: RequestHandler, connection: Connection, asked: Request, first: bytes) -> None:
        def complain(reason: str) -> None:
            self._complain(connection, reason)

        association: Association = handler._create_association()
        if not self._rules.knows(asked.calling):
            association.acceptor.supported_contexts = self._verification
        bounds = Bounds(self._memory, self._rules.max_object, complain)

        def on_store(event: evt.Event) -> int:
            if bounds.broken:
                return StoreStatus.OUT_OF_RESOURCES
            request = event.request
            data_set = request.DataSet.getvalue() if request.DataSet is not None else b""
            sop_class, sop_instance = str(request.AffectedSOPClassUID or ""), str(request.AffectedSOPInstanceUID or "")
            try:
                if event.context.abstract_syntax == syntaxes.VERIFICATION:  # the only context that a stranger has
                    return StoreStatus.SOP_CLASS_NOT_SUPPORTED
                digest, syntax = digests.of(data_set), str(event.context.transfer_syntax)
                return self._store(connection, sop_class, sop_instance, syntax, data_set, digest)
            finally:
                bounds.answered(len(data_set))

        def on_other(event: evt.Event, serve: Callable[..., object], given: Sequence[object]) -> object:
            """One at a time: 8 MiB become forty times as much once the library has parsed them."""
            if bounds.broken:
                return CommitmentStatus.RESOURCE_LIMITATION, None
            with self._serving_others:
                try:
                    return serve(event, *given)
                finally:
                    bounds.answered(_size_of(event.request))

        for _, handlers in self._services:
            for kind, serve, given in handlers:
                association.bind(kind, on_other, [serve, given])
        association.bind(evt.EVT_PDU_RECV, bounds.on_pdu)
        association.bind(evt.EVT_C_STORE, on_store)
        association.bind(evt.EVT_ABORTED, lambda _: complain("aborted"))
        association.bind(evt.EVT_RELEASED, lambda _: handler.server.connections.left(connection))
        connection.end = lambda: association.abort(block=False)
        try:
            wire = Wire(association, connection.socket, first, complain)
            library_loop.run(association, connection.socket, wire, complain)
        finally:
            bounds.close()

    def _store(
        self,
        connection: Connection,
        sop_class: str,
        sop_instance: str,
        transfer_syntax: str,
        data_set: bytes | bytearray,
        digest: str,
    ) -> StoreStatus:
        """The callback decides what becomes of the object; an error of ours is never answered with Success."""
        received = Received(
            sop_class_uid=sop_class,
            sop_instance_uid=sop_instance,
            transfer_syntax_uid=transfer_syntax,
            meta=file_meta(sop_class, sop_instance, transfer_syntax),
            data_set=data_set,
            digest=digest,
            calling_aet=connection.calling or "",
            association=connection.number,
        )
        try:
            return StoreStatus(self._accept(received))
        except Exception as exc:  # noqa: BLE001 - outermost line: the peer must get an answer, and it must not be Success
            log.error("store_failed %s", fields(association=connection.number, error=trace(exc)))
            return StoreStatus.PROCESSING_FAILURE

    def _complain(self, connection: Connection, reason: str) -> None:
        self._tally.warn("association_broken", association=connection.number, calling=connection.calling, reason=reason)
