"""Who a node deals with on a bad day: a PACS in every mood, and a scanner that asks it to commit to what it has.

Both speak real DICOM on loopback ports. The PACS answers questions for storage commitment on associations of its own,
once: who misses the answer has to ask again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pynetdicom import AE, evt

from dicom_node.config import Peer
from dicom_node.errors import PeerError
from dicom_node.network import commitment
from dicom_node.network.stand_in import StandInPacs
from dicom_node.status import CommitmentStatus, FailureReason, StoreStatus

MOODS = ("up", "up", "up", "up", "down", "slow", "busy", "rejecting", "dropping", "losing")
CONTEXTS = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]


class AwkwardPacs(StandInPacs):
    """Stores what it is sent, in the mood for it."""

    mood = "up"
    lost = 0
    """Objects it took, lost, and said so of."""

    def __init__(self, folder: Path, node: Callable[[], Peer]) -> None:
        """`node`: where its answers on storage commitment go."""
        super().__init__(folder)
        self._node = node
        self._ae.add_supported_context(commitment.SOP_CLASS, CONTEXTS)

    def start(self, port: int = 0) -> int:
        bound = super().start(port)
        assert self._server is not None
        self._server.bind(evt.EVT_N_ACTION, self._on_action)
        return bound

    def feel(self, mood: str) -> None:
        if mood == "down" and self.mood != "down":
            self.stop()
        elif mood != "down" and self.mood == "down":
            self.start()
        self._ae.require_calling_aet = ["NOBODY"] if mood == "rejecting" else []
        self.mood = mood

    def _on_store(self, event: Any) -> int:
        if self.mood == "slow":
            threading.Event().wait(0.7)
        if self.mood == "busy":
            return int(StoreStatus.OUT_OF_RESOURCES)
        if self.mood == "dropping":
            if random.random() < 0.5:
                super()._on_store(event)  # it has the object, and its answer is lost
            event.assoc.abort()
            return int(StoreStatus.PROCESSING_FAILURE)
        return super()._on_store(event)

    def _on_action(self, event: Any) -> tuple[int, None]:
        if self.mood == "busy":
            return int(CommitmentStatus.RESOURCE_LIMITATION), None
        asked = event.action_information
        references = [
            (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
            for item in asked.ReferencedSOPSequence
        ]
        answer = threading.Thread(target=self._report, args=(str(asked.TransactionUID), references), daemon=True)
        if self.mood == "dropping":
            event.assoc.abort()
        answer.start()
        return int(CommitmentStatus.SUCCESS), None

    def _report(self, transaction_uid: str, references: list[tuple[str, str]]) -> None:
        """Once; in the mood to, it loses the first object it was asked about."""
        if self.mood == "losing":
            gone = references[0][1]
            with self._arrived:
                self.stored[:] = [one for one in self.stored if one.sop_instance_uid != gone]
            self.lost += 1
        have = {one.sop_instance_uid for one in self.stored}
        missing = int(FailureReason.NO_SUCH_OBJECT_INSTANCE)
        answers = [(cls, uid, None if uid in have else missing) for cls, uid in references]
        with suppress(PeerError):
            commitment.report(self._node(), self.ae_title, transaction_uid, answers)


@dataclass
class CommittingScanner:
    """Asks the node for storage commitment, and takes its answers; one in five it does not understand at first."""

    ae_title: str
    port: int = 0
    told: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Transaction UID -> how many images the node committed to, and how many not."""

    def __post_init__(self) -> None:
        ae = AE(self.ae_title)
        ae.add_supported_context(commitment.SOP_CLASS, CONTEXTS, scu_role=True, scp_role=True)
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._on_report)]
        self._server: Any = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.port = int(self._server.server_address[1])

    def _on_report(self, event: Any) -> tuple[int, None]:
        if random.random() < 0.2:
            return int(CommitmentStatus.PROCESSING_FAILURE), None
        told = event.event_information
        kept, failed = (len(told.get(name) or ()) for name in ("ReferencedSOPSequence", "FailedSOPSequence"))
        self.told[str(told.TransactionUID)] = kept, failed
        return int(CommitmentStatus.SUCCESS), None

    def close(self) -> None:
        self._server.shutdown()
