"""What becomes of an association request, where the library does not say, or fails over it.

The library does not say why a connection failed; an answer with a number that is in no table of PS3.8 ends its thread,
so that the requestor waits for the whole timeout (seen with pynetdicom 3.0.4); and it does not limit what the peer may
send.
"""

from __future__ import annotations

import socket
import ssl
import sys
import time
from typing import Any, NamedTuple

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import AssociationSocket

from dicom_node.config import Peer
from dicom_node.network.command import LAST
from dicom_node.network.judgedsocket import JudgedSocket
from dicom_node.network.memory import NO_OBJECT
from dicom_node.network.upperlayer import BadPdu

PERMANENT = 1  # Result of an A-ASSOCIATE-RJ (PS3.8 9.3.4); any other is transient
_NO_REASON_GIVEN = 1
_SERVICE_USER = 0  # Source of an A-ABORT (PS3.8 9.3.8)
_FRAGMENT_HEADER = 7  # the library's own limit: with less, no byte of a message fits (six by PS3.8 9.3.5.1, then one)


class Rejection(NamedTuple):
    """The numbers of an A-ASSOCIATE-RJ (PS3.8 9.3.4), as the peer gave them."""

    result: int
    source: int
    reason: int

    def __str__(self) -> str:
        known = A_ASSOCIATE_RJ()
        known.source, known.reason_diagnostic = self.source, self.reason
        try:
            return str(known.reason_str)
        except ValueError:
            return f"source {self.source}, reason {self.reason}"


class Heard:
    """What a peer answered to one association request, or why it could not be asked."""

    def __init__(self) -> None:
        self.rejection: Rejection | None = None
        self.no_connection: BaseException | None = None
        self._asked_at: float | None = None
        self._aborted = self._broken = False
        self._unfinished = 0
        """Bytes so far of the incoming message."""

    def handlers(self) -> list[tuple[Any, ...]]:
        return [(evt.EVT_CONN_OPEN, self._connected), (evt.EVT_PDU_RECV, self._take)]

    def is_broken(self, association: Association) -> bool:
        """Whether the peer accepted in a way that trips the library up, now or at the first message."""
        if not association.is_established:
            return self._broken
        longest = association.acceptor.maximum_length
        no_room = longest is None or 0 < longest <= _FRAGMENT_HEADER
        return no_room or not all(context.transfer_syntax for context in association.accepted_contexts)

    def why_not(self, peer: Peer) -> str:
        """Why there is no association, in words that follow the peer's name."""
        if self._asked_at is None:
            return f"cannot be reached: {_in_words(self.no_connection)}"
        if time.monotonic() - self._asked_at >= peer.timeout_s:
            return f"accepted the connection but gave no answer within peers.timeout_s = {peer.timeout_s:g} seconds"
        how = "aborted the association" if self._aborted else "ended the connection"
        doubt = (
            "does it accept this node's certificate?"
            if peer.tls
            else "is it a DICOM port without TLS, and does it let this machine in?"
        )
        return f"{how} at once, without answering the request; {doubt}"

    def _connected(self, event: evt.Event) -> None:
        self._asked_at = time.monotonic()
        connection = event.assoc.dul.socket
        if connection is not None and connection.socket is not None:
            # Otherwise small messages wait for each other's acknowledgement (Nagle): 89 ms instead of 4 for a report.
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Otherwise a peer that hangs in the middle of a PDU, ours or its own, holds the library's thread for ever,
            # and with it the requestor, whom no timeout of the library frees.
            connection.longest_s = event.assoc.network_timeout
            connection.socket.settimeout(connection.longest_s)

    def _take(self, event: evt.Event) -> None:
        """Keep what the peer said, and leave the library only what it can handle."""
        pdu = event.pdu
        if isinstance(pdu, A_ASSOCIATE_RJ):
            # The library's own `is_rejected` is not enough. A rejection closes the connection; if it is read before the
            # requesting thread has checked for a connection, that thread takes the peer for unreachable.
            self.rejection = Rejection(int(pdu.result or 0), int(pdu.source or 0), int(pdu.reason_diagnostic or 0))
            pdu.result, pdu.source, pdu.reason_diagnostic = PERMANENT, 1, _NO_REASON_GIVEN
        elif isinstance(pdu, A_ABORT_RQ):
            self._aborted = True
            pdu.source, pdu.reason_diagnostic = _SERVICE_USER, 0
        elif isinstance(pdu, A_ASSOCIATE_AC):
            try:
                self._broken = not _as_proposed(pdu.to_primitive(), event.assoc)
            except Exception:  # noqa: BLE001 - outermost line of a handler: whatever the peer wrote there
                self._broken = True
            if self._broken:
                pdu.variable_items = []  # nothing accepted: that ends the association at once
        elif isinstance(pdu, P_DATA_TF):
            self._count(event.assoc, pdu)

    def _count(self, association: Association, pdu: P_DATA_TF) -> None:
        """End an association whose message grows without end; the library would hold it all."""
        for item in pdu.presentation_data_value_items:
            value = item.presentation_data_value
            self._unfinished += len(value)
            if self._unfinished > NO_OBJECT:
                item.presentation_data_value = value[:1]
                association.dul.socket.over = True
            elif value and value[0] & LAST:
                self._unfinished = 0


def _as_proposed(accepted: A_ASSOCIATE, association: Association) -> bool:
    """Whether every accepted transfer syntax was proposed (PS3.8 9.3.3.2): in a deflated one, for example, the peer's
    data could grow a thousandfold."""
    proposed = {uid for c in association.requestor.requested_contexts for uid in c.transfer_syntax}
    taken = [c for c in accepted.presentation_context_definition_results_list if c.result == 0]
    return proposed.issuperset(uid for c in taken for uid in c.transfer_syntax[:1])


class Caller(AE):  # type: ignore[misc]
    """The library's application entity, which also says why a connection failed."""

    def __init__(self, ae_title: str, heard: Heard) -> None:
        super().__init__(ae_title)
        self._heard = heard

    def _create_socket(self, assoc: Association, address: Any, tls_args: Any) -> AssociationSocket:
        made = _Connection(assoc, address=address)
        made.tls_args = tls_args
        made.heard = self._heard
        return made


class _Connection(JudgedSocket):
    """Too long a message ends it as if the peer had: after an abort, whoever awaits an answer would go on waiting."""

    heard: Heard
    over = False

    def recv(self, nr_bytes: int) -> bytearray:
        if self.over:
            raise ConnectionAbortedError("a message without end")
        return super().recv(nr_bytes)

    def misjudged(self, why: BadPdu) -> None:
        raise ConnectionAbortedError(str(why))

    def _shutdown_socket(self) -> None:
        """The library calls this while it handles the connection error, which it then drops."""
        if not self._is_connected:
            self.heard.no_connection = self.heard.no_connection or sys.exception()
        super()._shutdown_socket()


def _in_words(error: BaseException | None) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; see peers.tls_ca"
    if isinstance(error, ssl.SSLError) and "HANDSHAKE_FAILURE" in str(error.reason):
        return "it ended the TLS handshake; has it no suite of this node's, or does it want peers.tls_certificate?"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {str(error.reason or error).replace('_', ' ').lower()}"
    if isinstance(error, TimeoutError):
        return "connection timed out; is it switched on, and does the firewall let this machine through?"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused; is the port right, and is it running?"
    return str(getattr(error, "strerror", None) or error or "for an unknown reason")
