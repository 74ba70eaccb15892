"""The Upper Layer as bytes: PDUs, whose length is judged before memory is taken, and the short answers.

Source: PS3.8 9.3. A PDU states its length in 32 bits, and nothing forces a peer to tell the truth.
"""

from __future__ import annotations

import socket
import time
from enum import IntEnum

MAX_PDU = 128 * 1024  # offered as Maximum Length Received; larger ones measured no faster
HEADER = 6  # type, reserved, length
FAREWELL_S = 1.0  # time for the peer to take the last PDU
CALM_S = 60.0  # a PDU that has begun must be complete by then: 2 KiB/s for the longest


class PduType(IntEnum):
    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class AbortReason(IntEnum):
    """Of the service provider (PS3.8 table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    INVALID_PARAMETER = 6


LONGEST = {
    PduType.ASSOCIATE_AC: 64 * 1024,  # 128 contexts with one transfer syntax each take 10 KiB
    PduType.ASSOCIATE_RQ: 512 * 1024,  # 128 contexts with 40 transfer syntaxes each and their user items take 200 KiB
    PduType.P_DATA: 2 * MAX_PDU,  # twice what was agreed: some peers do not count the header of what they send
}
_LONGEST_OTHER = 1024  # 4 bytes by the standard


class Closed(Exception):
    """The peer ended the connection; `begun`: in the middle of a PDU."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__("the connection was closed")
        self.begun = begun


class BadPdu(Exception):
    """What arrived is not an acceptable PDU; `reason` is the one to abort with."""

    def __init__(self, text: str, reason: AbortReason = AbortReason.INVALID_PARAMETER) -> None:
        super().__init__(text)
        self.reason = reason


def judge(header: bytes) -> tuple[PduType, int]:
    """Type and length of the PDU whose first six bytes these are. Raises BadPdu."""
    try:
        kind = PduType(header[0])
    except ValueError as exc:
        raise BadPdu(f"PDU type {header[0]:02X} is not known", AbortReason.UNRECOGNIZED_PDU) from exc
    length = int.from_bytes(header[2:HEADER])
    if length > LONGEST.get(kind, _LONGEST_OTHER):
        raise BadPdu(f"a PDU of {length} bytes is too long")
    return kind, length


def read_exactly(connection: socket.socket, size: int, deadline: float) -> bytearray:
    """`size` bytes, or fewer where the peer ends the connection. Raises TimeoutError past `deadline` (monotonic)."""
    got = bytearray(size)
    view, filled = memoryview(got), 0
    while filled < size:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the peer is too slow")
        connection.settimeout(left_s)
        count = connection.recv_into(view[filled:])
        if not count:
            view.release()
            del got[filled:]
            break
        filled += count
    return got


def read_pdu(connection: socket.socket, deadline: float) -> tuple[PduType, bytes]:
    """One whole PDU, header included. Raises BadPdu, Closed, TimeoutError, OSError."""
    header = read_exactly(connection, HEADER, deadline)
    if len(header) < HEADER:
        raise Closed(begun=bool(header))
    kind, length = judge(bytes(header))
    body = read_exactly(connection, length, deadline)
    if len(body) < length:
        raise Closed(begun=True)
    return kind, bytes(header + body)


RELEASE_RP = bytes([PduType.RELEASE_RP, 0, 0, 0, 0, 4, 0, 0, 0, 0])


def rejection(result: int, source: int, reason: int) -> bytes:
    """A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return bytes([PduType.ASSOCIATE_RJ, 0, 0, 0, 0, 4, 0, result, source, reason])


def abort(reason: AbortReason) -> bytes:
    """A-ABORT of the service provider (PS3.8 9.3.8)."""
    return bytes([PduType.ABORT, 0, 0, 0, 0, 4, 0, 0, 2, reason])


def farewell(connection: socket.socket, last_word: bytes) -> None:
    """Send the last PDU and close so that it arrives: closing with bytes unread would reset the connection first."""
    deadline = time.monotonic() + FAREWELL_S
    try:
        connection.settimeout(FAREWELL_S)
        if last_word:
            connection.sendall(last_word)
        socket.socket.shutdown(connection, socket.SHUT_WR)
        while last_word and (left_s := deadline - time.monotonic()) > 0:
            connection.settimeout(left_s)
            if not socket.socket.recv(connection, 65536):  # past TLS: nobody reads it
                break
    except (OSError, ValueError):
        pass
    finally:
        connection.close()
