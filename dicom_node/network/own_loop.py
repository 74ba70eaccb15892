"""An established association served by a loop of our own: P-DATA in, C-STORE and C-ECHO answered, in one thread.

pynetdicom negotiates; its way of serving (two polling threads, an object per PDU, a data set per response) accounts for
more than half the cost of receiving. `library_loop` serves those who ask for other services, and everybody where
node.receive_loop says so. Sources: PS3.8 9.2, 9.3.5, annex E (P-DATA), PS3.7 9.3.1 (C-STORE), 9.3.5 (C-ECHO).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dicom_node import digests
from dicom_node.network import command, upperlayer
from dicom_node.network.command import COMMAND, LAST, MAX_COMMAND, Command, Field
from dicom_node.network.memory import Memory
from dicom_node.network.syntaxes import VERIFICATION
from dicom_node.network.upperlayer import CALM_S, HEADER, LONGEST, AbortReason, BadPdu, PduType
from dicom_node.status import StoreStatus

_BUFFER = 3 * (HEADER + LONGEST[PduType.P_DATA])
_WORTH_DIGESTING = 2**16  # bytes: each time the interpreter's lock is let go, which others wait for
_WHOLE = socket.MSG_WAITALL if sys.platform == "linux" else 0
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux; otherwise senders with Nagle's algorithm wait for our ACK

Store = Callable[[str, str, str, bytearray, str], StoreStatus]
"""SOP Class and Instance UID, transfer syntax, data set, its digest -> status."""


def _timed_by_the_kernel(connection: socket.socket, longest_s: float) -> bool:
    """Limit every wait for the peer; returns whether the kernel does so, which saves a system call per read.

    A wait that takes too long then raises BlockingIOError. Under TLS Python waits, as it knows what its records hold.
    """
    if sys.platform != "linux" or isinstance(connection, ssl.SSLSocket):
        connection.settimeout(longest_s)
        return False
    timeval = struct.pack("ll", int(longest_s), max(1, int(longest_s % 1 * 1e6)))  # all zeros would mean for ever
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, timeval)
    connection.settimeout(None)
    return True


@dataclass
class _Message:
    """One incoming DIMSE message."""

    context: int | None = None
    command_set: bytearray = field(default_factory=bytearray)
    command: Command | None = None
    data_set: bytearray = field(default_factory=bytearray)
    digest: digests.Digest = field(default_factory=digests.Digest)
    """Of the data set's first `digested` bytes."""
    digested: int = 0
    held: int = 0
    """Bytes of the data set that `memory` has lent."""
    refused: str | None = None
    """Why its data set is not kept; the rest of it is skipped."""

    def digest_rest(self, *, worth: int = 0) -> None:
        """Of what has come since, if that is as much as `worth`."""
        if len(self.data_set) - self.digested >= max(worth, 1):
            with memoryview(self.data_set) as whole:
                self.digest.update(whole[self.digested :])
            self.digested = len(self.data_set)


class Loop:
    def __init__(
        self,
        connection: socket.socket,
        *,
        contexts: dict[int, tuple[str, str]],
        longest: int,
        store: Store,
        memory: Memory,
        max_object: int,
        idle_s: float,
        complain: Callable[[str], None],
    ) -> None:
        """`contexts`: abstract and transfer syntax of the accepted ones; `longest`: the peer's Maximum Length."""
        self._socket = connection
        self._contexts = contexts
        self._longest = longest
        self._store = store
        self._memory = memory
        self._max_object = max_object
        self._idle_s = idle_s
        self._complain = complain
        self._message = _Message()
        self._ending = False
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0
        self._whole = 0

    def end(self) -> None:
        """End the association cleanly, once what has begun is answered; called by another thread."""
        self._ending = True
        with contextlib.suppress(OSError, ValueError):
            socket.socket.shutdown(self._socket, socket.SHUT_RD)

    def run(self) -> bytes:
        """Serve until the end; returns the last PDU to send, if any. Raises OSError."""
        self._whole = _WHOLE if _timed_by_the_kernel(self._socket, min(CALM_S, self._idle_s)) else 0
        try:
            while True:
                if not self._have(HEADER):
                    return self._ended()
                kind, length = upperlayer.judge(self._view[self._begin : self._begin + HEADER].tobytes())
                if not self._have(HEADER + length):
                    return self._ended()
                body = self._view[self._begin + HEADER : self._begin + HEADER + length]
                self._begin += HEADER + length
                if kind is PduType.P_DATA:
                    self._p_data(body)
                elif kind is PduType.RELEASE_RQ:
                    return upperlayer.RELEASE_RP
                elif kind is PduType.ABORT:
                    self._complain("aborted by the peer")
                    return b""
                else:
                    raise BadPdu(f"{kind.name} within an association", AbortReason.UNEXPECTED_PDU)
        except BadPdu as exc:
            self._complain(str(exc))
            return upperlayer.abort(exc.reason)
        except (TimeoutError, BlockingIOError):
            self._complain("the peer was silent for too long")
            return upperlayer.abort(AbortReason.NOT_SPECIFIED)
        finally:
            self._memory.give_back(self._message.held)

    def _ended(self) -> bytes:
        if self._ending:
            return upperlayer.abort(AbortReason.NOT_SPECIFIED)
        self._complain("the connection was closed without a release")
        return b""

    def _have(self, size: int) -> bool:
        """Read until the buffer holds `size` bytes; False where the peer ends the connection first."""
        if self._end - self._begin >= size:
            return True
        if self._begin + size > _BUFFER:
            kept = self._view[self._begin : self._end].tobytes()
            self._view[: len(kept)] = kept
            self._begin, self._end = 0, len(kept)
        elif self._begin == self._end:
            self._begin = self._end = 0
        self._message.digest_rest(worth=_WORTH_DIGESTING)  # while the peer sends the rest
        begun = self._end > self._begin or self._message.context is not None
        due = time.monotonic() + (CALM_S if begun else self._idle_s)
        while self._end - self._begin < size:
            missing = size - (self._end - self._begin)
            try:
                if size == HEADER or not self._whole:  # all that is there: under load that may be several PDUs
                    count = self._socket.recv_into(self._view[self._end :])
                else:  # one wait for the rest of a PDU, not one for each of its segments
                    count = self._socket.recv_into(self._view[self._end : self._end + missing], missing, self._whole)
            except (TimeoutError, BlockingIOError):
                count = -1
            if not count:
                return False
            if time.monotonic() > due:
                raise TimeoutError
            self._end += max(count, 0)
            if _QUICKACK is not None:
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        return True

    def _p_data(self, body: memoryview) -> None:
        """Presentation data values (PS3.8 9.3.5.1), each a fragment of a message."""
        at, end = 0, len(body)
        while at < end:
            if at + 6 > end:
                raise BadPdu("a P-DATA that ends within a value")
            length = int.from_bytes(body[at : at + 4])
            context, control = body[at + 4], body[at + 5]
            if length < 2 or at + 4 + length > end:
                raise BadPdu("a value that is longer than its P-DATA")
            self._fragment(context, control, body[at + 6 : at + 4 + length])
            at += 4 + length

    def _fragment(self, context: int, control: int, content: memoryview) -> None:
        message = self._message
        if message.context is None:
            if context not in self._contexts:
                raise BadPdu("data for a presentation context that was not accepted")
            message.context = context
        elif message.context != context:
            raise BadPdu("fragments of a message in two presentation contexts")
        if (message.command is None) != bool(control & COMMAND):
            raise BadPdu("command and data set out of order")
        if message.command is None:
            message.command_set += content
            if len(message.command_set) > MAX_COMMAND:
                raise BadPdu("a command set without end")
            if control & LAST:
                message.command = command.parse(message.command_set)
                if not message.command.has_data_set:
                    self._serve(message, message.command, context)
        else:
            self._keep(message, content)
            if control & LAST:
                self._serve(message, message.command, context)

    def _keep(self, message: _Message, content: memoryview) -> None:
        if message.refused is not None:
            return
        size = len(content)
        if message.context is not None and self._contexts[message.context][0] == VERIFICATION:
            message.refused = "it came in the context of Verification"  # a stranger must not take the senders' memory
        elif message.held + size > self._max_object:
            message.refused = "larger than node.max_object_mib"
        elif not self._memory.lend(size, held=message.held):
            message.refused = "too many large objects at once: see node.max_object_mib"
        else:
            message.held += size
            message.data_set += content  # one piece: a list of small fragments would hold many times what was lent
            return
        message.data_set = bytearray()
        self._memory.give_back(message.held)
        message.held = 0
        self._complain(f"an object was refused: {message.refused}")

    def _serve(self, message: _Message, asked: Command, context: int) -> None:
        """Answer a whole message and be ready for the next."""
        if asked.field == Field.C_STORE:
            if not asked.sop_class or not asked.sop_instance:
                raise BadPdu("C-STORE without SOP Class or Instance UID")
            abstract_syntax, transfer_syntax = self._contexts[context]
            if abstract_syntax == VERIFICATION:  # the only context that a stranger has
                status = StoreStatus.SOP_CLASS_NOT_SUPPORTED
            elif message.refused is not None:
                status = StoreStatus.OUT_OF_RESOURCES
            else:
                sop_class, sop_instance = (
                    uid.decode("ascii", "replace") for uid in (asked.sop_class, asked.sop_instance)
                )
                message.digest_rest()
                digest = digests.noted(message.digest)
                status = self._store(sop_class, sop_instance, transfer_syntax, message.data_set, digest)
        elif asked.field == Field.C_ECHO:
            status = StoreStatus.SUCCESS
        elif asked.field == Field.C_CANCEL:
            status = None
        else:
            raise BadPdu(f"a message of kind {asked.field:04X}", AbortReason.UNEXPECTED_PDU)
        self._memory.give_back(message.held)
        self._message = _Message()
        if status is not None:
            self._socket.sendall(command.response(asked, context, status, self._longest))
