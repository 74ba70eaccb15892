"""The library's socket, with bounds: by itself it reads a PDU of any length, and waits for ever for the rest of one."""

from __future__ import annotations

import time

from pynetdicom.transport import AssociationSocket

from dicom_node.network import upperlayer
from dicom_node.network.upperlayer import CALM_S, BadPdu


class JudgedSocket(AssociationSocket):  # type: ignore[misc]
    """pynetdicom's view of a connection of which no PDU is longer, or takes longer, than it may."""

    longest_s = CALM_S
    """For a PDU to be whole, and for the peer to take one of ours."""
    _body_is_next = False

    def recv(self, nr_bytes: int) -> bytearray:
        """The library reads six bytes of a PDU, then, where it knows the type, the rest. Raises OSError."""
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
                return bytearray(b"\xff") + read[1:]  # a type that the library does not know: it aborts in order
        return read

    def misjudged(self, why: BadPdu) -> None:
        """Called before the association ends for it."""
