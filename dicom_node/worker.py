"""The worker: reads pixels, asks the model, makes reports. A process of its own, the only one with torch and decoders.

Slices are classified while their series still arrives, one row a slice; a job then needs what is left, the conclusion
and the report. Before a slice is read, a try is counted: one that ends the process twice is left out, with the reason.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from dicom_node import anatomy, reporting
from dicom_node.config import Config
from dicom_node.errors import LeaseLost, ModelFailed, StoreFull, StoreUnavailable
from dicom_node.logs import fields, trace
from dicom_node.report import picture, sr
from dicom_node.report.context import Predecessor
from dicom_node.slices import Classifier, Shown, SliceReader
from dicom_node.store import jobs, outbox, results, series
from dicom_node.store.database import Database
from dicom_node.store.jobs import Job
from dicom_node.store.results import SliceResult, Version
from dicom_node.store.series import Instance
from dicom_node.store.spool import Spool
from dicom_node.tables import JobState
from dtvit import preprocess
from dtvit.findings import Outcome, SeriesFindings
from dtvit.headervalues import UnreadableSlice

log = logging.getLogger("dicom_node.worker")

RETRY_WAIT_S = 5.0
EXTRAS_TRIES = 2


@dataclass(frozen=True)
class Node:
    """Who makes the reports."""

    device_uid: str
    ae_title: str


class Worker:
    def __init__(
        self,
        database: Database,
        spool: Spool,
        classifier: Classifier,
        config: Config,
        *,
        node: Node,
        owner: str,
        clock: Callable[[], float] = time.time,
        alive: Callable[[], None] = lambda: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database = database
        self._spool = spool
        self._classifier = classifier
        self._config = config
        self._owner = owner
        self._clock = clock
        self._alive = alive
        self._stopping = stopping
        self._lease_s = config.results.lease_s
        self.version = Version(classifier.checkpoint.digest, preprocess.preprocessing(config.model.brace_removal))
        self._reader = SliceReader(
            classifier, spool, brace_removal=config.model.brace_removal, batch=config.model.batch
        )
        self._maker = reporting.Maker(
            node.device_uid, node.ae_title, classifier.checkpoint.metadata, self.version, config.results
        )

    def step(self) -> bool:
        """One job, or the extras of one, or one batch of slices still arriving; False if there was nothing to do.

        Raises ModelFailed, after everything is given back, where the process should end; StoreFull, StoreUnavailable.
        """
        with self._database.write() as connection:
            job = jobs.claim(connection, owner=self._owner, now=self._clock(), lease_s=self._lease_s)
        if job is not None:
            self._run(job)
            return True
        return self._make_extras() or self._classify_some(None, self._alive)

    def _run(self, job: Job) -> None:
        """Every end of a job is here: reported, refused, failed, given back, or lost to another worker."""
        begun = time.monotonic()
        try:
            self._do(job, begun)
        except LeaseLost:
            log.warning("lease_lost %s", fields(job=job.id))
        except (StoreFull, StoreUnavailable) as exc:
            log.error("job_waits %s", fields(job=job.id, reason=exc))
            self._give_back(job, wait_s=RETRY_WAIT_S, reason=None)
        except ModelFailed as exc:
            self._try_failed(job, exc)
            raise
        except Exception as exc:  # noqa: BLE001 - outermost line of a job: the queue goes on whatever one series does
            self._try_failed(job, exc)

    def _try_failed(self, job: Job, exc: Exception) -> None:
        error = str(exc) if isinstance(exc, ModelFailed) else trace(exc)
        log.error(
            "try_failed %s", fields(job=job.id, tries=f"{job.tries} of {self._config.results.tries}", error=error)
        )
        self._give_back(job, wait_s=min(RETRY_WAIT_S * job.tries, jobs.LONGEST_WAIT_S), reason=error)

    def _do(self, job: Job, begun: float) -> None:
        with self._database.read() as connection:
            one = series.get(connection, job.series_id)
            instances = series.instances_of(connection, job.series_id)
        assert one is not None
        if job.tries > self._config.results.tries:
            self._report_failure(job, one, instances)
            return
        looked_at = self._look_at_all(job)
        if looked_at is None:
            self._give_back(job, wait_s=0.0, reason=None)  # told to stop
            return
        instances, found = looked_at
        found = self._refined(job, instances, found)
        ruled_out = {i.id: i.ruled_out for i in instances if i.ruled_out is not None}
        usable = [r for r in found if r.instance_id not in ruled_out]
        if anatomy.is_surely_no_head(usable):
            self._end(job, JobState.REFUSED, reason="no head by its content: no brain inside a closed skull was found")
            return
        metadata = self._classifier.checkpoint.metadata
        cuts = anatomy.Cuts(metadata.slice_thresholds, metadata.series_thresholds)
        findings = anatomy.conclude(found, instances, ruled_out=ruled_out, cuts=cuts, whole=one.whole is not False)
        try:
            self._report(job, one, instances, findings, JobState.REPORTED, None)
        except sr.InconsistentSeries as exc:
            self._end(job, JobState.FAILED, reason=f"{exc}; correct it at the sender and send it again")
            return
        log.info(
            "job_done %s",
            fields(
                job=job.id,
                series=job.series_id,
                run=job.run,
                slices=len(findings.slices),
                evaluated=len(findings.evaluated),
                outcome=findings.outcome,
                took_s=time.monotonic() - begun,
                state="reported",
            ),
        )

    def _look_at_all(self, job: Job) -> tuple[list[Instance], list[SliceResult]] | None:
        """The instances of the job's series and a result for each usable one; None if told to stop before.

        More may arrive meanwhile: they are looked at as well, or belong to the next run.
        """
        while True:
            while self._classify_some(job.series_id, self._heartbeat(job)):
                if self._stopping():
                    return None
                with self._database.write() as connection:
                    jobs.extend(connection, job, now=self._clock(), lease_s=self._lease_s, further=True)
            with self._database.read() as connection:
                found = results.of_series(connection, job.series_id, self.version)
                instances = series.instances_of(connection, job.series_id)
            known = {r.instance_id for r in found}
            if all(i.id in known for i in instances if i.ruled_out is None):
                return instances, [r for r in found if r.instance_id in {i.id for i in instances}]

    def _refined(self, job: Job, instances: Sequence[Instance], found: Sequence[SliceResult]) -> list[SliceResult]:
        """The results, once more over the finished series; as they were where that cannot be done."""
        of_id = {i.id: i for i in instances if i.ruled_out is None}
        usable = anatomy.in_order([r for r in found if r.instance_id in of_id])
        if job.tries > 1:  # a try before this one ended the process; going on without is safe, reading again may not be
            return list(found)
        try:
            refined = self._reader.refine(usable, of_id, self._heartbeat(job))
        except (FileNotFoundError, UnreadableSlice) as exc:
            log.warning("not_refined %s", fields(job=job.id, error=trace(exc)))
            return list(found)
        if refined:
            log.info("refined %s", fields(job=job.id, slices=len(refined)))
            with self._database.write() as connection:
                results.replace(connection, refined, self.version, now=self._clock())
        newer = {(r.instance_id, r.frame): r for r in refined}
        return [newer.get((r.instance_id, r.frame), r) for r in found]

    def _report_failure(self, job: Job, one: series.Series, instances: Sequence[Instance]) -> None:
        """NOT EVALUATED, after the last try; where not even that report can be made, the state alone says so."""
        reason = f"processing failed {job.tries - 1} times"
        advice = f"{reason}; see the log, then: dicom-node retry {job.series_id}"
        findings = anatomy.nothing_evaluated(instances, reason)
        try:
            self._report(job, one, instances, findings, JobState.FAILED, advice)
        except (LeaseLost, StoreFull, StoreUnavailable):
            raise
        except Exception as exc:  # noqa: BLE001 - the last line of defence: this job must end
            self._end(job, JobState.FAILED, reason=f"{advice}. No report could be made either ({trace(exc)})")
        else:
            log.error("job_failed %s", fields(job=job.id, series=job.series_id, run=job.run, reason=reason))

    def _heartbeat(self, job: Job) -> Callable[[], None]:
        """To be called often: keeps the process known alive and, a few times a lease, the job leased."""
        last = self._clock()

        def beat() -> None:
            nonlocal last
            self._alive()
            now = self._clock()
            if not 0.0 <= now - last < self._lease_s / 4.0:
                last = now
                with self._database.write() as connection:
                    jobs.extend(connection, job, now=now, lease_s=self._lease_s)

        return beat

    def _classify_some(self, series_id: int | None, alive: Callable[[], None]) -> bool:
        """Read and classify the next slices without a result; False if there are none."""
        limit = self._config.model.batch
        with self._database.read() as connection:
            unread = results.unread(connection, self.version, limit=limit, series_id=series_id)
        suspects = [i for i in unread if i.tries > 0]
        batch = suspects[:1] or unread  # one that was being read when a worker died is read alone
        if not batch:
            return False
        with self._database.write() as connection:
            series.begin_reading(connection, [i.id for i in batch])
        try:
            found = self._reader.read(batch, alive)
        except Exception:
            with self._database.write() as connection:
                series.end_reading(connection, [i.id for i in batch])
            raise
        with self._database.write() as connection:
            results.keep(connection, found, self.version, now=self._clock())
        return True

    def _report(
        self,
        job: Job,
        one: series.Series,
        instances: Sequence[Instance],
        found: SeriesFindings,
        state: JobState,
        reason: str | None,
    ) -> None:
        """Build the report once, store it, and end the job with it in one transaction."""
        headers = self._headers(instances)
        with self._database.read() as connection:
            earlier = outbox.predecessor(connection, job.series_id, job.run)
        predecessor = next((_reference(one, e) for e in reversed(earlier) if e.kind == reporting.REPORT), None)
        built = reporting.report(self._maker, self._run_of(one, job.run), headers, found, predecessor)
        made = reporting.stored(built, self._spool)
        with self._database.write() as connection:
            now = self._clock()
            jobs.finish(
                connection,
                job,
                state,
                now=now,
                reason=reason or "; ".join(found.reasons) or None,
                outcome=found.outcome,
                findings=asdict(found),
                model_digest=self.version.model_digest,
                preprocessing=self.version.preprocessing,
                extras_due=any(self._wanted(kind, found.outcome) for kind in reporting.EXTRAS),
            )
            outbox.put(connection, job.id, [made], self._wanted(reporting.REPORT, found.outcome), now=now)
            jobs.settle_delivered(connection, job.id, now=now)

    def _make_extras(self) -> bool:
        """Picture and key objects of a job whose report is on its way; False if there is none."""
        with self._database.read() as connection:
            job = jobs.next_with_extras(connection)
            if job is None:
                return False
            one = series.get(connection, job.series_id)
            instances = series.instances_of(connection, job.series_id)
            earlier = outbox.predecessor(connection, job.series_id, job.run)
        assert one is not None
        built: list[tuple[reporting.Built, list[str]]] = []
        with self._database.write() as connection:
            jobs.begin_extras(connection, job.id)
        try:
            if job.extras_tries < EXTRAS_TRIES:
                built = self._extras(one, job, instances, earlier)
            else:
                log.error("no_extras %s", fields(job=job.id, error="making them ended the worker"))
        except (StoreFull, StoreUnavailable):
            raise
        except Exception as exc:  # noqa: BLE001 - outermost line of the extras: the report is what counts, and is out
            log.error("no_extras %s", fields(job=job.id, error=trace(exc)))
        made = [(reporting.stored(item, self._spool), to) for item, to in built]
        with self._database.write() as connection:
            now = self._clock()
            if jobs.extras_made(connection, job.id):
                for item, to in made:
                    outbox.put(connection, job.id, [item], to, now=now)
                jobs.settle_delivered(connection, job.id, now=now)
        return True

    def _extras(
        self, one: series.Series, job: Any, instances: Sequence[Instance], earlier: Sequence[Any]
    ) -> list[tuple[reporting.Built, list[str]]]:
        """What is to be sent besides the report, and to whom."""
        found = SeriesFindings.from_json(job.findings)
        headers = self._headers(instances)
        run = self._run_of(one, job.run)
        built: list[tuple[reporting.Built, list[str]]] = []
        pages = {reporting.PICTURE: reporting.summary_picture, reporting.DOCUMENT: reporting.summary_document}
        wanted = {kind: to for kind in pages if (to := self._wanted(kind, found.outcome))}
        pictures = self._pictures(found, instances) if wanted else {}
        for kind, to in wanted.items():
            built.append((pages[kind](self._maker, run, headers, found, pictures), to))
        to = self._wanted(reporting.KEY_OBJECTS, found.outcome)
        selection = reporting.key_objects(self._maker, run, headers, found) if to else None
        if selection is not None:
            built.append((selection, to))
        return built + self._withdrawals(one, run, headers[0], found, earlier)

    def _withdrawals(
        self, one: series.Series, run: reporting.Run, header: Dataset, found: SeriesFindings, earlier: Sequence[Any]
    ) -> list[tuple[reporting.Built, list[str]]]:
        """The superseded picture goes, where the destination has one and wants it said; the report names its own."""
        built = []
        pictures = {e.job_id for e in earlier if e.kind == reporting.PICTURE}
        for peer in self._config.destinations:
            title = reporting.REJECTIONS.get(peer.withdraw_by)
            if title is None or not pictures:
                continue
            with self._database.read() as connection:
                taken = [row for job_id in pictures for row in outbox.taken_by(connection, job_id, peer.name)]
            old = [_reference(one, row) for row in taken if row.kind == reporting.PICTURE]
            if old:
                why = "superseded by a newer result"
                made = reporting.withdrawal(self._maker, run, header, found, old, why=why, title=title, to=peer.name)
                built.append((made, [peer.name]))
        return built

    def _pictures(self, found: SeriesFindings, instances: Sequence[Instance]) -> dict[int, Shown]:
        """The slices that the picture shows, by their index in the findings; one that is gone is not shown.

        Where the model looked is told only of slices that speak for hemorrhage: a map is scaled to its own maximum, and
        on a slice without blood its brightest spot would mean nothing.
        """
        files = {i.sop_instance_uid: i.file for i in instances}
        pictures = {}
        for index in picture.shown(found):
            one = found.slices[index]
            speaks = one.outcome is not Outcome.ABSENT
            try:
                pictures[index] = self._reader.show(files[one.sop_instance_uid], one.frame, with_relevance=speaks)
            except (KeyError, FileNotFoundError, UnreadableSlice) as exc:
                log.warning("not_pictured %s", fields(error=trace(exc)))
        return pictures

    def _wanted(self, kind: str, outcome: Outcome) -> list[str]:
        return [p.name for p in self._config.destinations if reporting.wanted_by(p, kind, outcome)]

    def _run_of(self, one: series.Series, number: int) -> reporting.Run:
        return reporting.Run(
            study_uid=one.study_uid,
            series_uid=one.series_uid,
            first_at=one.first_at,
            number=number,
            rule=one.rule,
            whole=one.whole is not False,
            at=self._clock(),
        )

    def _headers(self, instances: Sequence[Instance]) -> list[Dataset]:
        """Of every instance; one whose file is gone gets what its row and another's header tell of it."""
        found: list[Dataset | None] = []
        for one in instances:
            try:
                found.append(pydicom.dcmread(self._spool.path(one.file), stop_before_pixels=True))
            except FileNotFoundError:
                found.append(None)
        like = next((header for header in found if header is not None), None)
        if like is None:
            raise FileNotFoundError("every file of the series is gone")
        return [_remembered(i, like) if header is None else header for i, header in zip(instances, found, strict=True)]

    def _end(self, job: Job, state: JobState, *, reason: str) -> None:
        """Without a report. A refusal makes the study's other series candidates again, in the same transaction."""
        now = self._clock()
        with self._database.write() as connection:
            jobs.finish(connection, job, state, now=now, reason=reason)
            one = series.get(connection, job.series_id)
            if state is JobState.REFUSED and one is not None:
                series.choose_again(connection, one.study_uid, now=now)
        log.info("job_done %s", fields(job=job.id, series=job.series_id, run=job.run, state=state, reason=reason))

    def _give_back(self, job: Job, *, wait_s: float, reason: str | None) -> None:
        try:
            with self._database.write() as connection:
                jobs.give_back(connection, job, now=self._clock(), wait_s=wait_s, reason=reason)
        except (LeaseLost, StoreFull, StoreUnavailable) as exc:
            log.warning("not_given_back %s", fields(job=job.id, reason=exc))  # the lease runs out by itself


def _remembered(instance: Instance, like: Dataset) -> Dataset:
    """The header of an instance whose file is gone: patient, study and series are those of `like`."""
    ds = deepcopy(like)
    ds.SOPClassUID, ds.SOPInstanceUID = instance.sop_class_uid, instance.sop_instance_uid
    ds.InstanceNumber = instance.facts.instance_number
    return ds


def _reference(one: series.Series, made: Any) -> Predecessor:
    """An object of an earlier run, as later objects name it."""
    return Predecessor(one.study_uid, made.series_uid, made.sop_class_uid, made.sop_instance_uid)
