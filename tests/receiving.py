"""A receiver on loopback, and what hostile peers send it: raw bytes, past any library's own checks."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

from pydicom import uid
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association

from dicom_node.network import syntaxes
from dicom_node.network.admission import Rules
from dicom_node.network.scp import Receiver
from dicom_node.received import Received
from dicom_node.status import StoreStatus

OWN_LOOP = True  # which loop the receivers here are served by; `either_loop` has a test run with both
CT = str(uid.CTImageStorage)
EXPLICIT = str(uid.ExplicitVRLittleEndian)
ABORT, REJECT, ACCEPT, RELEASED = 7, 3, 2, 6  # PDU types that an acceptor sends
GRACE_S = 0.5  # nobody here waits long for associations that were left open


def receiver(
    accept: Callable[[Received], StoreStatus], *, port: int = 0, bind: str = "127.0.0.1", **changed: Any
) -> Receiver:
    """A receiver that knows CT1; `changed` are other rules."""
    given: dict[str, Any] = {"ae_title": "DICOM_NODE", "senders": frozenset({"CT1"}), "max_associations": 8}
    given["own_loop"] = OWN_LOOP
    return Receiver(accept, Rules(**(given | changed)), bind=bind, port=port)


@contextlib.contextmanager
def listening(
    accept: Callable[[Received], StoreStatus] = lambda _: StoreStatus.SUCCESS, **changed: Any
) -> Iterator[int]:
    """The port of a receiver with these rules."""
    one = receiver(accept, **changed)
    try:
        yield one.start()
    finally:
        one.stop(GRACE_S)


def associate(
    port: int,
    *,
    calling: str = "CT1",
    called: str = "DICOM_NODE",
    syntax: str = EXPLICIT,
    sent: list[bytes] | None = None,
) -> Association:
    """`sent`: where the bytes go that this side sends, one PDU an entry."""
    ae = AE(calling)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = 10
    contexts = [build_context(CT, syntax), build_context(syntaxes.VERIFICATION)]
    record = [] if sent is None else [(evt.EVT_DATA_SENT, lambda event: sent.append(bytes(event.data)))]
    return ae.associate("127.0.0.1", port, contexts=contexts, ae_title=called, evt_handlers=record)


def item(kind: int, value: bytes) -> bytes:
    """An item of an association request."""
    return struct.pack(">BxH", kind, len(value)) + value


def context(number: int, abstract: str = CT, transfers: tuple[str, ...] = (EXPLICIT,)) -> bytes:
    inside = item(0x30, abstract.encode()) + b"".join(item(0x40, t.encode()) for t in transfers)
    return item(0x20, bytes([number % 256, 0, 0, 0]) + inside)


USER = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4")


def request(
    *contexts: bytes, called: str = "DICOM_NODE", calling: str = "CT1", user: bytes = USER, length: int | None = None
) -> bytes:
    """An A-ASSOCIATE-RQ, which may lie about its length."""
    fixed = struct.pack(">Hxx16s16s32x", 1, called.encode().ljust(16), calling.encode().ljust(16))
    body = fixed + item(0x10, b"1.2.840.10008.3.1.1.1") + b"".join(contexts or (context(1),)) + item(0x50, user)
    return struct.pack(">BxI", 1, len(body) if length is None else length) + body


def p_data(*values: tuple[int, int, bytes], length: int | None = None) -> bytes:
    """A P-DATA-TF of presentation data values: context, message control header, fragment."""
    body = b"".join(struct.pack(">IBB", len(value) + 2, number, control) + value for number, control, value in values)
    return struct.pack(">BxI", 4, len(body) if length is None else length) + body


def element(tag: int, value: bytes) -> bytes:
    """An element of a command set (Implicit VR Little Endian)."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def command(field: int, *elements: bytes, message: int = 1, data_set: int = 0) -> bytes:
    number = struct.Struct("<H").pack
    inside = element(0x0002, CT.encode()) + element(0x0100, number(field)) + element(0x0110, number(message))
    inside += element(0x0800, number(data_set)) + b"".join(elements)
    return element(0x0000, struct.pack("<I", len(inside))) + inside


def store_request(instance: str, *, message: int = 1) -> bytes:
    return command(0x0001, element(0x0700, b"\0\0"), element(0x1000, instance.encode()), message=message)


def answers(connection: socket.socket, timeout_s: float = 15.0) -> list[bytes]:
    """The PDUs that come until the other side closes; TimeoutError if it does not."""
    connection.settimeout(timeout_s)
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            got += part
    return list(pdus(got))


def rejection(port: int, *contexts: bytes, **titles: str) -> tuple[int, int, int] | None:
    """Result, source and reason where an association is rejected (PS3.8 9.3.4); None where it is not.

    By bytes: pynetdicom takes an answer that comes very soon for a connection that failed.
    """
    first = exchange(port, request(*contexts, **titles))[0]
    return (first[7], first[8], first[9]) if first[0] == REJECT else None


def pdus(stream: bytes) -> Iterator[bytes]:
    """The whole PDUs a stream holds, as its length fields have it."""
    at = 0
    while at + 6 <= len(stream):
        end = at + 6 + int.from_bytes(stream[at + 2 : at + 6])
        if end > len(stream):
            return
        yield stream[at:end]
        at = end


def exchange(
    port: int, *parts: bytes, finish: bool = True, timeout_s: float = 15.0, quiet_s: float = 0.3
) -> list[bytes]:
    """Send the first part on a new connection, the others after its answer; the PDUs that came until it was closed.

    `finish`: say that no more will be sent, once nothing came for `quiet_s`. Raises TimeoutError where the other side
    does not close.
    """
    got = b""
    with (
        socket.create_connection(("127.0.0.1", port)) as connection,
        contextlib.suppress(BrokenPipeError, ConnectionResetError),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"".join(parts[:1]))
        if parts[1:]:
            connection.settimeout(1.0)
            with contextlib.suppress(TimeoutError):
                got = connection.recv(65536)
            connection.settimeout(timeout_s)
            connection.sendall(b"".join(parts[1:]))
        connection.settimeout(quiet_s if finish else timeout_s)
        while True:
            try:
                part = connection.recv(65536)
            except TimeoutError:
                if not finish:
                    raise
                finish = False
                with contextlib.suppress(OSError):  # closed by the other side in this very moment
                    connection.shutdown(socket.SHUT_WR)
                connection.settimeout(timeout_s)
                continue
            if not part:
                break
            got += part
    return list(pdus(got))
