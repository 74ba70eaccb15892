"""The library's socket, with limits: by itself it reads a PDU of any length, and waits for ever for the rest of one."""

from __future__ import annotations

import time

from pynetdicom.transport import AssociationSocket

from dicom_node.network import upperlayer
from dicom_node.network.upperlayer import CALM_S, BadPdu


class JudgedSocket(AssociationSocket):  # type: ignore[misc]
    """pynetdicom's view of a connection, on which no PDU may be too long or take too long."""

    longest_s = CALM_S
    """Time for a PDU to be complete, and for the peer to take one of ours."""
    _body_is_next = False

    def recv(self, nr_bytes: int) -> bytearray:
        """The library reads six bytes of a PDU, then the rest if it knows the type. Raises OSError."""
        body, self._body_is_next = self._body_is_next, not self._body_is_next
        assert self.socket is not None
        read = upperlayer.read_exactly(self.socket, nr_bytes, time.monotonic() + self.longest_s)
        self.socket.settimeout(self.longest_s)
        if not body and len(read) == nr_bytes:
            try:
                upperlayer.judge(bytes(read))
            except BadPdu as exc:
                self.misjudged(exc)
                self._body_is_next = False
                return bytearray(b"\xff") + read[1:]  # a type that the library does not know: it aborts cleanly
        return read

    def misjudged(self, why: BadPdu) -> None:
        """Called before the association is ended because of it."""
