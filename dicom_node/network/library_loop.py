"""An association served by pynetdicom, within limits that it does not set itself.

Its transport reads whatever length a PDU claims and waits for ever for the rest; its messages grow without end. Here
each PDU is judged before it is read and must be complete in time, and the bytes held for messages not yet answered are
counted.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.pdu import P_DATA_TF

from dicom_node.logs import trace
from dicom_node.network import syntaxes
from dicom_node.network.command import COMMAND, LAST, MAX_COMMAND
from dicom_node.network.judgedsocket import JudgedSocket
from dicom_node.network.memory import NO_OBJECT, Memory
from dicom_node.network.upperlayer import CALM_S, BadPdu

_END_S = 10.0  # time for the library to end an association that it has given up


class Wire(JudgedSocket):
    """One whose association request has already been read."""

    def __init__(
        self, association: Association, connection: socket.socket, first: bytes, complain: Callable[[str], None]
    ) -> None:
        super().__init__(association, client_socket=connection)
        self.longest_s = CALM_S
        connection.settimeout(CALM_S)  # for sending too: a peer may stop taking answers
        self._unread = first
        self._complain = complain

    @property
    def ready(self) -> bool:
        return bool(self._unread) or bool(super().ready)

    def recv(self, nr_bytes: int) -> bytearray:
        if self._unread:
            self._body_is_next = not self._body_is_next
            got, self._unread = self._unread[:nr_bytes], self._unread[nr_bytes:]
            return bytearray(got)
        return super().recv(nr_bytes)

    def misjudged(self, why: BadPdu) -> None:
        self._complain(str(why))


class Bounds:
    """Counts what one association holds in memory for messages not yet answered; ends it beyond its limits."""

    def __init__(self, memory: Memory, max_object: int, complain: Callable[[str], None]) -> None:
        self._memory = memory
        self._max_object = max_object
        self._complain = complain
        self._lock = threading.Lock()  # the library's two threads
        self._command = 0
        self._held = 0
        self.broken = False

    def on_pdu(self, event: evt.Event) -> None:
        """EVT_PDU_RECV: before the library keeps what the PDU carries."""
        if not isinstance(event.pdu, P_DATA_TF):
            return
        for item in event.pdu.presentation_data_value_items:
            value = item.presentation_data_value
            longest = self._max_object if _brings_objects(event.assoc, item.presentation_context_id) else NO_OBJECT
            reason = None if self.broken or not value else self._judge(value, longest)
            if reason is not None:
                self.broken = True
                self._complain(reason)
                event.assoc.abort(block=False)
            if self.broken:
                item.presentation_data_value = value[:1]

    def _judge(self, value: bytes, longest: int) -> str | None:
        """Why the association cannot go on, or None."""
        with self._lock:
            if value[0] & COMMAND:
                self._command = 0 if value[0] & LAST else self._command + len(value)
                return "a command set without end" if self._command > MAX_COMMAND else None
            size = len(value) - 1
            if self._held + size > longest:
                return f"more than {longest} bytes of data before an answer"
            if not self._memory.lend(size, held=self._held):
                return "too many large objects at once: see node.max_object_mib"
            self._held += size
        return None

    def answered(self, size: int) -> None:
        """A message whose data set had this many bytes has been dealt with."""
        with self._lock:
            size = min(size, self._held)
            self._held -= size
            self._memory.give_back(size)

    def close(self) -> None:
        self.answered(self._held)


def _brings_objects(association: Association, context_id: int) -> bool:
    """Whether messages in this presentation context may carry an object to be stored."""
    accepted = (c for c in association.accepted_contexts if c.context_id == context_id)
    return any(syntaxes.is_storage(str(c.abstract_syntax)) for c in accepted)


def run(association: Association, connection: socket.socket, wire: Wire, complain: Callable[[str], None]) -> None:
    """Serve until the association has ended, one way or another, and make sure that it does."""
    association.dul.socket = None
    association.dul.event_queue.queue.clear()  # the library has already announced the connection itself
    association.set_socket(wire)
    wire.event_queue.put("Evt5")  # transport connection indication (PS3.8 9.2.3)
    association.run = _quietly(association.run, complain)
    association.dul.state_machine.do_action = _quietly(
        association.dul.state_machine.do_action, complain, association.dul.kill_dul
    )
    association.start()
    ending_since: float | None = None
    while association.is_alive():
        association.join(0.5 if ending_since is None else 0.1)
        if association._kill or not association.dul.is_alive():
            ending_since = ending_since or time.monotonic()
            if time.monotonic() - ending_since > _END_S:  # the peer keeps sending, and the library keeps reading
                with contextlib.suppress(OSError, ValueError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
    association.dul.kill_dul()


def _quietly(
    act: Callable[..., None], complain: Callable[[str], None], then: Callable[[], None] = lambda: None
) -> Callable[..., None]:
    """What ends a thread of the library, such as a PDU in the wrong state, must not print a traceback to stderr."""

    def guarded(*given: object) -> None:
        try:
            act(*given)
        except Exception as exc:  # noqa: BLE001 - outermost line of a thread
            complain(f"the library gave up ({trace(exc)})")
            then()

    return guarded
