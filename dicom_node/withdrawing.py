"""What `dicom-node withdraw` does: takes a result back, by a person's decision.

What is not delivered yet is not delivered any more. Where the result is stored already, or may be as it was on the
wire, a Key Object Selection says that it holds no longer (IHE Image Object Change Management), if the destination is
configured to act on one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset

from dicom_node import reporting
from dicom_node.config import Config
from dicom_node.errors import NotPossible
from dicom_node.report import wording
from dicom_node.store import jobs, outbox, series
from dicom_node.store.database import Connection
from dicom_node.store.results import Version
from dicom_node.store.series import Instance, Series
from dicom_node.store.spool import Spool
from dicom_node.tables import JobState, ObjectKind
from dtvit.checkpoint import Metadata
from dtvit.findings import SeriesFindings

REPORTED = (JobState.REPORTED, JobState.DELIVERED, JobState.FAILED)


def withdraw(
    connection: Connection,
    spool: Spool,
    config: Config,
    one: Series,
    *,
    why: str,
    metadata: Metadata,
    device_uid: str,
    now: float,
) -> str:
    """Take back the result of the series; returns what was done, in words. Raises NotPossible.

    Results that the newest superseded go with it: where it is gone, they would be the ones that stand.
    """
    if not wording.plain(why).strip(" ?"):
        raise NotPossible("say why, in plain ASCII: the reason stands in what is sent")
    job = jobs.newest(connection, one.id)
    runs = [run for run in jobs.of_series(connection, one.id) if run.state in REPORTED and run.findings is not None]
    if job is None or job.state in (JobState.READY, JobState.RUNNING) or not runs:
        raise NotPossible("there is no result to withdraw" if job is None else f"its newest job is {job.state}")
    job = runs[-1]
    cancelled = sum(outbox.cancel(connection, run.id) for run in runs)
    said = [f"{cancelled} deliveries cancelled"] if cancelled else []
    for peer in config.destinations:
        taken = [
            row
            for run in runs
            for row in outbox.taken_by(connection, run.id, peer.name)
            if row.kind != ObjectKind.WITHDRAWAL
        ]
        title = reporting.REJECTIONS.get(peer.withdraw_by)
        if not taken:
            continue
        if title is None:
            keeps = f"{peer.name} keeps what it has or was being sent"
            said.append(f"{keeps}: peers.withdraw_by is {peer.withdraw_by!r}, tell its users")
            continue
        version = Version(job.model_digest, job.preprocessing)
        maker = reporting.Maker(device_uid, config.node.ae_title, metadata, version, config.results)
        built = _rejection(connection, spool, one, job, taken, maker, why=why, title=title, to=peer.name, now=now)
        outbox.put(connection, job.id, [reporting.stored(built, spool)], [peer.name], now=now)
        said.append(f"{peer.name} is told by a Key Object Selection")
    for run in runs:
        jobs.withdraw(connection, run.id, reason=why, now=now)
    return "; ".join(["withdrawn", *said])


def _rejection(
    connection: Connection,
    spool: Spool,
    one: Series,
    job: Any,
    taken: Sequence[Any],
    maker: reporting.Maker,
    *,
    why: str,
    title: Any,
    to: str,
    now: float,
) -> reporting.Built:
    header = _a_header(series.instances_of(connection, one.id), spool)
    run = reporting.run_of(one, job.run, at=now)
    old = [reporting.reference(one, row) for row in taken]
    findings = SeriesFindings.from_json(job.findings)
    return reporting.withdrawal(maker, run, header, findings, old, why=why, title=title, to=to)


def _a_header(instances: Sequence[Instance], spool: Spool) -> Dataset:
    """Of any image whose file is there and whole; they agree about patient and study, else there were no result."""
    for one in instances:
        if (header := reporting.header_of(one, spool)) is not None:
            return header
    raise NotPossible("every image of it is gone from the spool, and with them whom the result is about")
