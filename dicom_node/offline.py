"""`dicom-node classify`: the node's own pipeline without the network, in a temporary folder.

Files are accepted, series completed, judged, classified and reported by the very code that `serve` runs; only the clock
is moved on, as nothing more will come. The temporary node has its own Device UID, so the UIDs are new each time.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_node import received
from dicom_node.config import Backlog, Config, Model, NodeSection
from dicom_node.errors import ModelFailed
from dicom_node.logs import fields, trace
from dicom_node.receiving.accepting import Acceptor
from dicom_node.receiving.arrivals import Arrivals
from dicom_node.status import StoreStatus
from dicom_node.store import jobs, overview
from dicom_node.store.database import Database
from dicom_node.store.opening import open_store
from dicom_node.store.spool import Spool
from dicom_node.store.tables import ObjectKind
from dicom_node.working.process import load_classifier
from dicom_node.working.worker import Node, Worker

log = logging.getLogger("dicom_node.offline")

AE_TITLE = "CLASSIFY"


@dataclass(frozen=True)
class Classified:
    """What became of one series."""

    series_uid: str
    state: str
    reason: str | None
    findings: dict[str, Any] | None
    report: bytes | None
    """The Structured Report as a Part 10 file; None where the series was refused or failed."""

    def to_json(self) -> dict[str, Any]:
        return {
            "series_uid": self.series_uid,
            "state": self.state,
            "reason": self.reason,
            "findings": self.findings,
        }


def classify(paths: Sequence[Path], *, checkpoint: Path | None = None, device: str = "auto") -> list[Classified]:
    """Classify all series among the files; one result per series, in order of arrival. Raises NodeError.

    The head holder is removed as the checkpoint was trained for: there is no configuration to say so.
    """
    with tempfile.TemporaryDirectory(prefix="dicom-node-") as folder:
        config = Config(
            node=NodeSection(ae_title=AE_TITLE, data_folder=Path(folder), min_free_mib=0),
            model=_model(checkpoint, device),
        )
        database, spool = open_store(config)
        try:
            _take_in_and_work(config, database, spool, paths)
            with database.read() as connection:
                lines = sorted(overview.lines(connection, now=time.time(), limit=100_000), key=lambda line: line.id)
                return [_result(overview.history(connection, line.id), line, spool) for line in lines]
        finally:
            database.close()


def _take_in_and_work(config: Config, database: Database, spool: Spool, paths: Sequence[Path]) -> None:
    """Accept all files, then do whatever follows, as if the time that a node waits had passed."""
    ahead_s = 0.0

    def clock() -> float:
        return time.time() + ahead_s

    node = Node(database.device_uid(), AE_TITLE)
    worker = Worker(database, spool, load_classifier(config), config, node=node, owner="classify", clock=clock)
    acceptor = Acceptor(
        database,
        spool,
        rules=config.eligibility,
        backlog=Backlog(older_than_h=1e9),  # a person waits for these, however old they are
        reopen_wait_s=config.completion.reopen_wait_s,
        clock=clock,
    )
    arrivals = Arrivals(
        database,
        spool,
        waits=config.completion,
        rules=config.eligibility,
        version=worker.version,
        clock=clock,
        association_open=lambda _: False,
    )
    for path in paths:
        _accept(acceptor, path)
    ahead_s = 2.0 * config.completion.silence_s
    # A series that turns out not to be a head makes those passed over candidates again: repeat until nothing changes.
    for _ in range(1 + len(paths)):
        arrivals.tick()
        arrivals.tick()  # one passed over for a better series is settled once that has its job
        if not _work(worker):
            return
        ahead_s += 2.0 * jobs.LONGEST_WAIT_S


def _model(checkpoint: Path | None, device: str) -> Model:
    from dtvit.checkpoint import UnusableCheckpoint, describe
    from dtvit.preprocess import mode_for

    chosen = Model(checkpoint=checkpoint, device=device)  # type: ignore[arg-type]
    if checkpoint is not None:
        with contextlib.suppress(UnusableCheckpoint):  # loading it will report that
            mode = mode_for(describe(checkpoint).metadata.preprocessing)
            return chosen.model_copy(update={"brace_removal": mode or chosen.brace_removal})
    return chosen


def _accept(acceptor: Acceptor, path: Path) -> None:
    """A file that is not a whole object is logged by its path, and skipped."""
    try:
        one = received.from_file(path, calling_aet=AE_TITLE)
    except Exception as exc:  # noqa: BLE001 - outermost line of one file; the library promises no class of exception
        log.warning("unreadable %s", fields(file=path, error=trace(exc)))
        return
    status = acceptor.accept(one)
    if status != StoreStatus.SUCCESS:
        log.warning("unreadable %s", fields(file=path, status=f"{status:04X}"))  # why: in the line before


def _work(worker: Worker) -> bool:
    """Do what there is to do now; returns whether there was anything."""
    busy = False
    try:
        while worker.step():
            busy = True
    except ModelFailed as exc:
        log.error("model_failed %s", fields(reason=exc))
        return True
    return busy


def _result(known: dict[str, Any], line: overview.Line, spool: Spool) -> Classified:
    runs = known["runs"]
    files = [row["file"] for row in known["deliveries"] if row["kind"] == ObjectKind.REPORT]
    return Classified(
        series_uid=known["series"]["series_uid"],
        state=line.state,
        reason=line.reason,
        findings=runs[-1]["findings"] if runs else None,
        report=spool.read(files[-1]) if files else None,
    )
