"""The listening socket: accepts, consults the rules, and leaves anything that may take time to the connection's thread.

The library would do the TLS handshake in the accept loop, where one silent client holds up everybody, and would build
an association with two threads for each connection before a byte is read. Its hook for doing otherwise is
`AE.make_server(server_class=...)`.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import socketserver
import ssl
import time
from typing import Any, Protocol

from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from dicom_node.logs import trace
from dicom_node.network import admission, request, upperlayer
from dicom_node.network.admission import Connection, Connections, Refusal, Rules
from dicom_node.network.request import Request
from dicom_node.network.tally import Tally
from dicom_node.network.tls import ServerTls
from dicom_node.network.upperlayer import BadPdu, Closed, PduType

_OUT_OF_HANDLES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Serve(Protocol):
    """Serves one association whose request has been read, to its end; returns the last PDU to send, if any."""

    def __call__(self, handler: RequestHandler, connection: Connection, asked: Request, first: bytes) -> bytes: ...


class Server(ThreadedAssociationServer):  # type: ignore[misc]
    request_queue_size = 128  # connections the kernel holds until they are accepted; the library's 5 are soon full
    daemon_threads = True

    def __init__(self, *library: Any, rules: Rules, tally: Tally, serve: Serve, **given: Any) -> None:
        self.rules = rules
        self.tally = tally
        self.serve = serve
        self.connections = Connections(rules)
        self.tls = ServerTls(rules.tls) if rules.tls is not None else None
        super().__init__(*library, request_handler=_Handler, **given)

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError as exc:
            if exc.errno in _OUT_OF_HANDLES:  # the connection stays in the queue: make room rather than spin
                self.tally.warn("no_more_connections", reason=exc.strerror)
                for waiting in self.connections.waiting()[:1]:
                    waiting.cut()
                time.sleep(0.05)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Called in the accept loop, so nothing here waits."""
        address = admission.address(client_address[0])
        if self.rules.admits(address):
            return True
        self.tally.warn("connection_refused", address=address, reason="not in node.allowed_addresses")
        return False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The library would print a traceback to stderr, with whatever values are in it."""
        self.tally.warn("connection_failed", reason="fault of this program")

    def service_actions(self) -> None:
        super().service_actions()
        self.tally.flush()


class _Handler(RequestHandler):  # type: ignore[misc]
    """One connection in its own thread: handshake, request, association, close."""

    server: Server

    def handle(self) -> None:
        address = admission.address(self.client_address[0])
        connection, ended = self.server.connections.arrived(self.request, address)
        if ended is not None:
            self.server.tally.warn(
                "connection_ended", address=ended.address, reason="too many waiting, this one longest"
            )
        last_word = b""
        try:
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            last_word = self._serve(connection)
        except Exception as exc:  # noqa: BLE001 - outermost line of the connection's thread
            self.server.tally.warn("connection_failed", association=connection.number, error=trace(exc))
        finally:
            self.server.connections.left(connection)  # before the last PDU: its peer may connect again at once
            upperlayer.farewell(connection.socket, last_word)
            connection.ended.set()

    def _serve(self, connection: Connection) -> bytes:
        """Returns what is left to send before the connection is closed."""
        try:
            first = request.padded_with_spaces(self._request(connection))
            asked = request.parse(first)
        except BadPdu as exc:
            self._warn(connection, str(exc))
            return upperlayer.abort(exc.reason)
        except Closed as exc:
            if exc.begun:
                self._warn(connection, "closed by the peer in the middle of its first PDU")
            else:  # a load balancer that checks whether the port is open
                self.server.tally.mention("connection_closed", address=connection.address)
            return b""
        except TimeoutError:
            self._warn(connection, f"no association request within {self.server.rules.request_s:g} s")
            return b""
        except OSError as exc:
            how = "TLS handshake failed" if isinstance(exc, ssl.SSLError) else "connection lost"
            self._warn(connection, f"{how} ({getattr(exc, 'reason', None) or exc.strerror})")
            return b""
        refusal = admission.refusal(self.server.rules, asked)
        refusal = refusal or self.server.connections.associate(connection, asked.calling)
        if refusal is not None:
            self._reject(connection, asked, refusal)
            return upperlayer.rejection(*refusal.answer)
        return self.server.serve(self, connection, asked, first)

    def _request(self, connection: Connection) -> bytes:
        """The A-ASSOCIATE-RQ; handshake and request share one deadline."""
        deadline = time.monotonic() + self.server.rules.request_s
        if self.server.tls is not None:
            self._secure(connection, self.server.tls.context())
        kind, pdu = upperlayer.read_pdu(connection.socket, deadline)
        if kind is not PduType.ASSOCIATE_RQ:
            raise BadPdu(f"{kind.name} before an association", upperlayer.AbortReason.UNEXPECTED_PDU)
        return pdu

    def _secure(self, connection: Connection, context: ssl.SSLContext) -> None:
        plain = connection.socket
        plain.settimeout(self.server.rules.request_s)
        connection.socket = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self.request = connection.socket
        connection.socket.do_handshake()  # the socket's timeout applies to the whole handshake

    def _warn(self, connection: Connection, reason: str) -> None:
        self.server.tally.warn(
            "connection_ended", association=connection.number, address=connection.address, reason=reason
        )

    def _reject(self, connection: Connection, asked: Request, refusal: Refusal) -> None:
        self.server.tally.warn(
            "association_rejected",
            association=connection.number,
            address=connection.address,
            calling=asked.calling,
            reason=refusal.reason,
            hint=refusal.hint,
        )


def stop(server: Server, grace_s: float, abort_s: float) -> None:
    """Accept nothing new, let associations end by themselves, end the rest cleanly, cut what then remains."""
    socketserver.BaseServer.shutdown(server)
    server.server_close()
    for waiting in server.connections.waiting():
        waiting.cut()
    _wait(server, grace_s)
    for connection in server.connections.associated():
        with contextlib.suppress(Exception):
            connection.end()
    _wait(server, abort_s)
    for connection in server.connections.associated():
        connection.cut()
    _wait(server, abort_s)


def _wait(server: Server, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    for connection in server.connections.associated():
        connection.ended.wait(max(0.0, deadline - time.monotonic()))
