"""What `dicom-node withdraw` does: takes a result back, by a person's decision.

What has not been delivered is no longer delivered. Where the result is already stored, or may be because it was on the
wire, a Key Object Selection says that it is no longer valid (IHE Image Object Change Management), if the destination is
configured to act on one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicom_node.config import Config, Peer
from dicom_node.delivering import reporting, spooled
from dicom_node.delivering.built import Built
from dicom_node.errors import NotPossible
from dicom_node.report import wording
from dicom_node.store import cancelling, jobs, outbox, series, whereabouts
from dicom_node.store.database import Connection, Database
from dicom_node.store.jobs import Record, Result
from dicom_node.store.outbox import MadeObject
from dicom_node.store.results import Version
from dicom_node.store.series import Instance, Series
from dicom_node.store.spool import Spool
from dicom_node.store.tables import JobState, ObjectKind
from dtvit.checkpoint import Checkpoint
from dtvit.findings import SeriesFindings

REPORTED = (JobState.REPORTED, JobState.DELIVERED, JobState.FAILED, JobState.REFUSED)


@dataclass(frozen=True)
class _Standing:
    """The results that a withdrawal takes back, and who has them."""

    told: list[tuple[Record, Result]]
    taken: dict[str, list[MadeObject]]
    """What each destination has, or may have."""


class _Changed(Exception):
    """Something was sent or made since the database was read."""


def withdraw(
    database: Database,
    spool: Spool,
    config: Config,
    one: Series,
    *,
    why: str,
    checkpoint: Checkpoint,
    device_uid: str,
    now: float,
) -> str:
    """Take back the result of the series; returns what was done, in words. Raises NotPossible.

    Results that the newest one superseded go with it: otherwise they would stand again. Each is taken back in its own
    study, where a correction may have left it. What is sent is built before the transaction, during which nothing else
    is written and no image acknowledged.
    """
    if not wording.plain(why).strip(" ?"):
        raise NotPossible("say why, in plain ASCII: the reason is part of what is sent")
    while True:
        with database.read() as connection:
            standing = _standing(connection, one.id, config)
            images = series.instances_of(connection, one.id)
            images += reversed(series.instances_of(connection, one.id, current=False))
        newest, result = standing.told[-1]
        at_hand = Version(checkpoint.digest, result.version.preprocessing)
        maker = reporting.Maker(device_uid, config.node.ae_title, checkpoint.metadata, at_hand, config.results)
        about, run = maker.about(result.version), reporting.run_of(one, newest, at=now)
        built: dict[str, list[Built]] = {}
        for peer in _with(standing, config):
            if (title := reporting.REJECTIONS.get(peer.withdraw_by)) is not None:
                header, found = _a_header(images, spool), SeriesFindings.from_json(result.findings)
                for source, made in spooled.by_place(standing.taken[peer.name], header, spool):
                    old = [spooled.reference(one, each, spool) for each in made]
                    built.setdefault(peer.name, []).append(
                        reporting.withdrawal(about, run, source, found, old, why=why, title=title, to=peer.name)
                    )
        with suppress(_Changed), database.write_alone() as connection:  # else what is being stored just now escapes it
            if _standing(connection, one.id, config) != standing:  # no more is sent before this is committed
                raise _Changed
            for told, _ in standing.told:
                jobs.withdraw(connection, told.id, reason=why, now=now)
            cancelled = sum(cancelling.cancel(connection, told.id, now=now) for told, _ in standing.told)
            for name, items in built.items():
                outbox.put(connection, newest.id, [each.stored_in(spool) for each in items], [name], now=now)
            said = [f"{cancelled} deliveries cancelled"] if cancelled else []
            return "; ".join(["withdrawn", *said, *(_told_of(peer, built) for peer in _with(standing, config))])


def _standing(connection: Connection, series_id: int, config: Config) -> _Standing:
    """Raises NotPossible where there is none."""
    told = _told(jobs.of_series(connection, series_id))
    taken = {
        peer.name: [
            made
            for run, _ in told
            for made in whereabouts.taken_by(connection, run.id, peer.name)
            if made.kind is not ObjectKind.WITHDRAWAL
        ]
        for peer in config.destinations
    }
    return _Standing(told, taken)


def _with(standing: _Standing, config: Config) -> list[Peer]:
    """Destinations that have, or may have, something of it."""
    return [peer for peer in config.destinations if standing.taken[peer.name]]


def _told_of(peer: Peer, built: Collection[str]) -> str:
    if peer.name in built:
        return f"{peer.name} will be told with a Key Object Selection"
    keeps = f"{peer.name} keeps what it has or was being sent"
    return f"{keeps}, as peers.withdraw_by is {peer.withdraw_by!r}: tell its users"


def _told(runs: Sequence[Record]) -> list[tuple[Record, Result]]:
    """The runs of a series whose result still stands, in order. Raises NotPossible where there is none."""
    if not runs:
        raise NotPossible("there is no result to withdraw")
    found = [(run, run.result) for run in runs if run.state in REPORTED and run.result is not None]
    if not found or runs[-1].state in (JobState.READY, JobState.RUNNING):
        raise NotPossible(f"its newest job is {runs[-1].state}")
    return found


def _a_header(instances: Sequence[Instance], spool: Spool) -> Dataset:
    """The header of any image whose file exists and is intact; where all have moved to another series with a
    correction, the last one from before."""
    for one in instances:
        if (header := spooled.header_of(one, spool)) is not None:
            return header
    raise NotPossible("every image of it is gone from the spool, so the patient of the result is not known")
