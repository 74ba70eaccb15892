"""A stand-in PACS for demo and tests: a real Storage SCP on a loopback port that keeps what it is sent in a folder.

It accepts only what it is told to accept and answers as it is told to answer, so that a test can make it an awkward
PACS; it is not part of the node.
"""

from __future__ import annotations

import itertools
import random
import socket
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from dicom_node.network import syntaxes
from dicom_node.status import StoreStatus


@dataclass(frozen=True)
class Stored:
    """One object the stand-in took."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    at: float


class StandInPacs:
    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = "PACS",
        storage_classes: Collection[str] = tuple(syntaxes.STORAGE_CLASSES),
        answer: Callable[[str], int] = lambda _sop_class_uid: StoreStatus.SUCCESS,
    ) -> None:
        """`answer`: SOP Class UID -> status for a C-STORE request; only what is answered with Success is kept."""
        self.folder = folder
        self.ae_title = ae_title
        self.port = 0
        self.stored: list[Stored] = []
        self._answer = answer
        self._arrived = threading.Condition()
        self._numbers = itertools.count(1)
        self._server: ThreadedAssociationServer | None = None
        self._ae = AE(ae_title)
        self._ae.require_called_aet = True
        self._ae.add_supported_context(syntaxes.VERIFICATION)
        for storage_class in storage_classes:
            self._ae.add_supported_context(storage_class, syntaxes.ACCEPTED)

    def start(self, port: int = 0) -> int:
        """Listen on loopback; returns the port. 0 means the previous one, at first a free one. May be restarted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handlers = [(evt.EVT_C_STORE, self._on_store)]
        self._server = self._ae.start_server(("127.0.0.1", port or self.port), block=False, evt_handlers=handlers)
        assert self._server is not None
        self.port = int(self._server.server_address[1])
        return self.port

    def stop(self) -> None:
        if self._server is not None:
            self._ae.shutdown()
            self._server = None

    def wait_for(self, count: int, timeout_s: float) -> list[Stored]:
        """What is stored, as soon as there are `count` objects or the time is up."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self.stored) >= count, timeout_s)
            return list(self.stored)

    def _on_store(self, event: evt.Event) -> int:
        status = int(self._answer(str(event.request.AffectedSOPClassUID)))
        if status == StoreStatus.SUCCESS:
            path = self.folder / f"{next(self._numbers):05d}.dcm"
            path.write_bytes(event.encoded_dataset())
            request = event.request
            with self._arrived:
                self.stored.append(
                    Stored(path, str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), time.time())
                )
                self._arrived.notify_all()
        return status


def free_port() -> int:
    """A loopback port that nobody listens on now; somebody may in a moment, so ask just before use.

    Chosen at random below the ports that systems assign themselves (from 32768 or 49152 on), so that only a program
    that asks for it by number takes it.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
