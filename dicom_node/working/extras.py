"""What a job owes besides its report: picture, PDF, key objects, the withdrawal of older ones. Made after the report.

A flag in the job (`extras_due`) says that they are still to be made, so that a worker that dies leaves them to the
next; a try is counted first, and what ends the process twice is given up. Nothing here delays a report or costs one,
and no picture costs the withdrawal of an older result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from pydicom.dataset import Dataset

from dicom_node import anatomy
from dicom_node.config import Config
from dicom_node.delivering import reporting, spooled
from dicom_node.delivering.built import Built
from dicom_node.errors import StoreFull, StoreUnavailable
from dicom_node.logs import fields, trace
from dicom_node.report import picture
from dicom_node.report.picture import Shown
from dicom_node.store import jobs, outbox, results, series, whereabouts
from dicom_node.store.database import Database
from dicom_node.store.jobs import Record
from dicom_node.store.outbox import MadeObject
from dicom_node.store.results import Version
from dicom_node.store.series import Instance, Series
from dicom_node.store.spool import Spool
from dicom_node.store.tables import ObjectKind
from dicom_node.working.signs import signs_of_life
from dicom_node.working.slices import SliceReader
from dtvit.findings import Outcome, SeriesFindings
from dtvit.reading.headervalues import UnreadableSlice

log = logging.getLogger("dicom_node.worker")

EXTRAS_TRIES = 2


class Extras:
    def __init__(
        self,
        database: Database,
        spool: Spool,
        reader: SliceReader,
        config: Config,
        maker: reporting.Maker,
        *,
        owner: str,
        clock: Callable[[], float],
        alive: Callable[[], None],
    ) -> None:
        self._alive = alive
        self._database = database
        self._spool = spool
        self._reader = reader
        self._config = config
        self._maker = maker
        self._owner = owner
        self._clock = clock

    def make_next(self, *, at_most: int = jobs.BACKLOG) -> bool:
        """Make picture and key objects for a job whose report is on its way; False if there is none that urgent."""
        now, lease_s = self._clock(), self._config.results.lease_s
        with self._database.read() as connection:
            job = jobs.next_with_extras(connection, now=now, lease_s=lease_s, at_most=at_most)
            if job is None:
                return False
            one = series.get(connection, job.series_id)
            instances = series.instances_of(connection, job.series_id)
            told = whereabouts.told(connection, job.series_id, before_run=job.run)
        if one is None:  # forgotten in between
            return True
        with self._database.write() as connection:
            tries, until = job.extras_tries, now + lease_s
            if not jobs.begin_extras(connection, job.id, tries=tries, owner=self._owner, until=until):
                return True
        try:
            with signs_of_life(self._alive, len(instances)):
                self._make(one, job, instances, told)
        except (StoreFull, StoreUnavailable):  # later, when there is room again
            with suppress(StoreFull, StoreUnavailable), self._database.write() as connection:
                jobs.end_extras(connection, job.id)
            raise
        return True

    def _make(self, one: Series, job: Record, instances: Sequence[Instance], told: Collection[str]) -> None:
        """Make and store them; what cannot be made is not sent. Raises StoreFull, StoreUnavailable."""
        built: list[tuple[Built, list[str]]] = []
        try:
            assert job.result is not None  # otherwise it would owe nothing
            found = SeriesFindings.from_json(job.result.findings)
            headers = spooled.headers(instances, self._spool)
            run = reporting.run_of(one, job, at=self._clock())
            if job.extras_tries <= EXTRAS_TRIES:  # one try more than pictures get: they must not cost these
                built += self._withdrawals(one, run, headers[0], found, job.result.version)
            if job.extras_tries >= EXTRAS_TRIES:
                log.error("no_extras %s", fields(job=job.id, error="making them ended the worker"))
            elif job.result.version.model_digest != self._maker.version.model_digest:
                log.warning("no_extras %s", fields(job=job.id, error="the model has changed since the report"))
            else:
                built += self._shown(one, replace(run, replaces=bool(told)), headers, found, instances, told)
        except (StoreFull, StoreUnavailable):
            raise
        except Exception as exc:  # noqa: BLE001 - outermost line of the extras: the report matters most, and is out
            log.error("no_extras %s", fields(job=job.id, error=trace(exc)))
        with self._database.write() as connection:
            now = self._clock()
            if jobs.extras_made(connection, job.id):  # otherwise another worker was first, or the patient is forgotten
                for item, to in built:
                    outbox.put(connection, job.id, [item.stored_in(self._spool)], to, now=now)
                jobs.settle_delivered(connection, job.id, now=now)

    def _shown(
        self,
        one: Series,
        run: reporting.Run,
        headers: Sequence[Dataset],
        found: SeriesFindings,
        instances: Sequence[Instance],
        told: Collection[str],
    ) -> list[tuple[Built, list[str]]]:
        """Picture, document and key objects of this result, and to whom each goes."""
        built: list[tuple[Built, list[str]]] = []
        pages = {ObjectKind.PICTURE: reporting.summary_picture, ObjectKind.DOCUMENT: reporting.summary_document}
        owed_to = partial(reporting.owed_to, outcome=found.outcome, told=told, destinations=self._config.destinations)
        wanted = {kind: to for kind in pages if (to := owed_to(kind))}
        pictures = self._pictures(one.id, found, instances) if wanted else {}
        for kind, to in wanted.items():
            built.append((pages[kind](self._maker, run, headers, found, pictures), to))
        to = owed_to(ObjectKind.KEY_OBJECTS)
        selection = reporting.key_objects(self._maker, run, headers, found) if to else None
        if selection is not None:
            built.append((selection, to))
        return built

    def _withdrawals(
        self, one: Series, run: reporting.Run, header: Dataset, found: SeriesFindings, version: Version
    ) -> list[tuple[Built, list[str]]]:
        """Withdraw superseded pictures, documents and key objects where the destination has them and wants to be told.

        Those of all earlier runs: the one before may have been superseded before it could withdraw anything. Once the
        destination has the withdrawal of an object, it is not sent again. A report is named by its successor, but if it
        is filed under another patient or study, the successor is not beside it.
        """
        built, maker = [], self._maker.about(version)  # whichever model made it, it is withdrawn
        for peer in self._config.destinations:
            title = reporting.REJECTIONS.get(peer.withdraw_by)
            if title is None:
                continue
            with self._database.read() as connection:
                runs = [each.id for each in jobs.of_series(connection, one.id) if each.run < run.number]
                taken = [each for job_id in runs for each in whereabouts.taken_by(connection, job_id, peer.name)]
                sure = [
                    each
                    for job_id in runs
                    for each in whereabouts.taken_by(connection, job_id, peer.name, for_sure=True)
                ]
            told = [spooled.named_by(each, self._spool) for each in sure if each.kind is ObjectKind.WITHDRAWAL]
            untold = [each for each in taken if each.sop_instance_uid not in set().union(*told)]
            for source, made, why in self._outdated(untold, header):
                old = [spooled.reference(one, each, self._spool) for each in made]
                withdrawn = reporting.withdrawal(
                    maker, run, source, found, old, why=why, title=title, to=peer.name, superseded=True
                )
                built.append((withdrawn, [peer.name]))
        return built

    def _outdated(
        self, taken: Sequence[MadeObject], header: Dataset
    ) -> Iterator[tuple[Dataset, list[MadeObject], str]]:
        """For each study that has any: a header of the patient it is filed under, the objects, and why."""
        for source, made in spooled.by_place(taken, header, self._spool):
            beside = source is header
            why = "superseded by a newer result" if beside else "its images belong to another patient or study"
            kinds = reporting.EXTRAS if beside else (ObjectKind.REPORT, *reporting.EXTRAS)
            if these := [each for each in made if each.kind in kinds]:
                yield source, these, why

    def _pictures(self, series_id: int, found: SeriesFindings, instances: Sequence[Instance]) -> dict[int, Shown]:
        """The slices that the picture shows, by their index in the findings; one that is gone is not shown.

        Where the model looked is shown only for slices that suggest hemorrhage: a map is scaled to its own maximum, and
        on a slice without blood its brightest spot would mean nothing.
        """
        known = {i.sop_instance_uid: i for i in instances}
        files = {i.id: i.file for i in instances if i.ruled_out is None}
        with self._database.read() as connection:
            slices = results.of_series(connection, series_id, self._maker.version)
        ordered = anatomy.in_order([each for each in slices if each.instance_id in files])
        slabs = {
            (each.instance_id, each.frame): (each, those if each.averaged > 1 else [])
            for each, those in zip(ordered, anatomy.slabs(ordered), strict=True)
        }
        pictures = {}
        for index in picture.to_show(found):
            one = found.slices[index]
            speaks = one.outcome is not Outcome.ABSENT
            try:
                instance = known[one.sop_instance_uid]
                result, slab = slabs[instance.id, one.frame or 0]
                pictures[index] = self._reader.show(
                    *(instance.file, one.frame),
                    with_relevance=speaks,
                    parts=result.parts,
                    slab=[(files[each.instance_id], each.frame, weight) for each, weight in slab],
                )
            except (KeyError, FileNotFoundError, UnreadableSlice) as exc:
                log.warning("not_pictured %s", fields(error=trace(exc)))
        return pictures
