"""What `dicom-node withdraw` does: takes a result back, by a person's decision.

What is not delivered yet is not delivered any more. Where the result is stored already, or may be as it was on the
wire, a Key Object Selection says that it holds no longer (IHE Image Object Change Management), if the destination is
configured to act on one.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from dicom_node import reporting, spooled
from dicom_node.config import Config
from dicom_node.errors import NotPossible
from dicom_node.report import wording
from dicom_node.store import jobs, outbox, series
from dicom_node.store.database import Connection
from dicom_node.store.jobs import Record, Result
from dicom_node.store.series import Instance, Series
from dicom_node.store.spool import Spool
from dicom_node.tables import JobState, ObjectKind
from dtvit.checkpoint import Metadata
from dtvit.findings import SeriesFindings

REPORTED = (JobState.REPORTED, JobState.DELIVERED, JobState.FAILED, JobState.REFUSED)


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
    told = _told(jobs.of_series(connection, one.id))
    runs = [run.id for run, _ in told]
    newest, result = told[-1]
    cancelled = sum(outbox.cancel(connection, job_id) for job_id in runs)
    said = [f"{cancelled} deliveries cancelled"] if cancelled else []
    for peer in config.destinations:
        made = (each for job_id in runs for each in outbox.taken_by(connection, job_id, peer.name))
        old = [spooled.reference(one, each, spool) for each in made if each.kind is not ObjectKind.WITHDRAWAL]
        if not old:
            continue
        title = reporting.REJECTIONS.get(peer.withdraw_by)
        if title is None:
            keeps = f"{peer.name} keeps what it has or was being sent"
            said.append(f"{keeps}: peers.withdraw_by is {peer.withdraw_by!r}, tell its users")
            continue
        maker = reporting.Maker(device_uid, config.node.ae_title, metadata, result.version, config.results)
        run = reporting.run_of(one, newest, at=now)
        superseded = reversed(series.instances_of(connection, one.id, current=False))
        header = _a_header([*series.instances_of(connection, one.id), *superseded], spool)
        found = SeriesFindings.from_json(result.findings)
        built = reporting.withdrawal(maker, run, header, found, old, why=why, title=title, to=peer.name)
        outbox.put(connection, newest.id, [reporting.stored(built, spool)], [peer.name], now=now)
        said.append(f"{peer.name} is told by a Key Object Selection")
    for job_id in runs:
        jobs.withdraw(connection, job_id, reason=why, now=now)
    return "; ".join(["withdrawn", *said])


def _told(runs: Sequence[Record]) -> list[tuple[Record, Result]]:
    """Those of a series that came to a result which still stands, in order. Raises NotPossible where there is none."""
    if not runs:
        raise NotPossible("there is no result to withdraw")
    found = [(run, run.result) for run in runs if run.state in REPORTED and run.result is not None]
    if not found or runs[-1].state in (JobState.READY, JobState.RUNNING):
        raise NotPossible(f"its newest job is {runs[-1].state}")
    return found


def _a_header(instances: Sequence[Instance], spool: Spool) -> Dataset:
    """Of any image whose file is there and whole: of one that counts, as they agree about patient and study, else there
    were no result; of the last from before where all have gone to another series, with a correction."""
    for one in instances:
        if (header := spooled.header_of(one, spool)) is not None:
            return header
    raise NotPossible("every image of it is gone from the spool, and with them whom the result is about")
