"""A node and its peer that ask each other for storage commitment in a test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from made import NOW, Made, ct, made_node
from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from dicom_node.config import Commitment, Config, Peer
from dicom_node.delivering import keeping
from dicom_node.delivering.committing import Reports
from dicom_node.network.commitment import SOP_CLASS, SOP_INSTANCE, Report
from dicom_node.store import outbox
from dicom_node.store.tables import jobs, series

CONTEXTS = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]


class Other:
    """Another node: takes N-ACTION and N-EVENT-REPORT, remembers them, and may answer on the same association."""

    def __init__(
        self, *, status: int = 0, answers_at_once: Callable[[Dataset], Dataset | None] = lambda _: None
    ) -> None:
        self.asked: list[Dataset] = []
        self.told: list[tuple[int, Dataset]] = []
        self.heard = threading.Event()
        self.status = status
        self._answers_at_once = answers_at_once
        ae = AE("PACS")
        ae.add_supported_context(SOP_CLASS, CONTEXTS, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_N_ACTION, self._on_action), (evt.EVT_N_EVENT_REPORT, self._on_report)]
        self.server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.server_address[1]

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        self.asked.append(event.action_information)
        answer = self._answers_at_once(event.action_information)
        if answer is not None and self.status == 0:
            kind = 2 if "FailedSOPSequence" in answer else 1
            arguments = (answer, kind, SOP_CLASS, SOP_INSTANCE)
            threading.Thread(target=event.assoc.send_n_event_report, args=arguments).start()
        return self.status, None

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        self.told.append((event.event_type, event.event_information))
        self.heard.set()
        return self.status, None

    def close(self) -> None:
        self.server.shutdown()


def node_with(folder: Path, *peers: Peer) -> Made:
    return made_node(folder, peers=peers, commitment=Commitment(accept=True))


def stored(node: Made, count: int = 1) -> list[str]:
    """Objects that PACS1 has stored; their SOP Instance UIDs."""
    node.accept(ct(1))
    uids = [f"2.25.{number}" for number in range(1, count + 1)]
    with node.database.write() as connection:
        values = {"series_id": 1, "run": 1, "state": "reported", "priority": 0, "not_before": NOW, "tries": 1}
        connection.execute(jobs.insert().values(values | {"created_at": NOW}))
        connection.execute(series.update().values(state="complete", run=1))
        made = [outbox.MadeObject("report", "1.2.3", uid, "2.25.9", f"aa/{uid}.dcm", 1, "0" * 64) for uid in uids]
        outbox.put(connection, 1, made, ["PACS1"], now=NOW)
        for due in outbox.due(connection, "PACS1", now=NOW, longest_wait_s=60):
            outbox.delivered(connection, due, 0, now=NOW, commitment=True)
    return uids


def take(node: Made, told: Dataset) -> None:
    Reports(node.database, node.config, clock=node.clock).take(
        Report(
            told.TransactionUID,
            frozenset(item.ReferencedSOPInstanceUID for item in told.ReferencedSOPSequence),
            {item.ReferencedSOPInstanceUID: item.FailureReason for item in told.get("FailedSOPSequence", ())},
        )
    )


class Us:
    """The parts of a node that are asked, and answer."""

    def __init__(self, node: Made, config: Config | None = None) -> None:
        config = config or node.config
        self.asked = keeping.Keeper(node.database, node.spool, config, clock=node.clock).asked
        self.answerers = keeping.answerers(node.database, node.spool, config, clock=node.clock, jitter=lambda: 0.0)

    def tick(self) -> int:
        return sum(answerer.tick() for answerer in self.answerers)


def references(*datasets: Dataset) -> list[tuple[str, str]]:
    return [(str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in datasets]
