"""The worker: reads pixels, asks the model, makes reports. A separate process, the only one with torch and decoders.

Slices are classified while their series still arrives, one row per slice (`classifying`); what is left for the job is
the remaining slices, the conclusion and the report. A job ends once, whatever happens, and only by the worker that
holds its lease.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from dicom_node import anatomy
from dicom_node.config import Config
from dicom_node.delivering import reporting, spooled
from dicom_node.errors import LeaseLost, ModelFailed, StoreFull, StoreUnavailable
from dicom_node.headers import eligibility
from dicom_node.logs import fields, trace
from dicom_node.report import sr
from dicom_node.store import jobs, outbox, results, series
from dicom_node.store.database import Database
from dicom_node.store.jobs import Job
from dicom_node.store.results import SliceResult, Version
from dicom_node.store.series import Instance
from dicom_node.store.spool import Spool
from dicom_node.store.tables import JobState, ObjectKind
from dicom_node.working.classifying import Classifying
from dicom_node.working.extras import Extras
from dicom_node.working.slices import Classifier, SliceReader
from dtvit.findings import Outcome, SeriesFindings
from dtvit.headervalues import UnreadableSlice

log = logging.getLogger("dicom_node.worker")

RETRY_WAIT_S = 5.0  # after the first failed try; grows with each further one, up to jobs.LONGEST_WAIT_S
LAST_WORDS = 2  # tries to report that a job failed; if these end the worker too, only the state says so


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
        readers: int = 0,
        alive: Callable[[], None] = lambda: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """`readers`: how many processes read beside this one, until `close`; with 0, this one reads."""
        self._database = database
        self._spool = spool
        self._classifier = classifier
        self._config = config
        self._owner = owner
        self._clock = clock
        self._alive = alive
        self._stopping = stopping
        self._lease_s = config.results.lease_s
        self._reader = SliceReader(
            *(classifier, spool), brace_removal=config.model.brace_removal, batch=config.model.batch, readers=readers
        )
        self.version = Version(classifier.checkpoint.digest, self._reader.preprocessing)
        self._classifying = Classifying(
            database, self._reader, self.version, lease_s=self._lease_s, clock=clock, stopping=stopping
        )
        self._maker = reporting.Maker(
            node.device_uid,
            node.ae_title,
            classifier.checkpoint.metadata,
            self.version,
            config.results,
            classifier.precision,
        )
        self._extras = Extras(database, spool, self._reader, config, self._maker, owner=owner, clock=clock)

    def close(self) -> None:
        self._reader.close()

    def step(self) -> bool:
        """One job, or the extras of one, or one batch of slices still arriving; False if there was nothing to do.

        Whatever is live, even if still arriving, goes before all backlog. Raises ModelFailed, after everything has been
        given back, where the process should end; StoreFull, StoreUnavailable.
        """
        return any(
            self._do_a_job(at_most)
            or self._extras.make_next(at_most=at_most)
            or self._classifying.next_slices(None, self._alive, at_most=at_most)
            for at_most in (jobs.LIVE, jobs.BACKLOG)
        )

    def _do_a_job(self, at_most: int) -> bool:
        now = self._clock()
        with self._database.read() as connection:
            if not jobs.is_due(connection, now=now, lease_s=self._lease_s, at_most=at_most):
                return False
        with self._database.write() as connection:
            job = jobs.claim(connection, owner=self._owner, now=now, lease_s=self._lease_s, at_most=at_most)
        if job is not None:
            self._run(job)
        return job is not None

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
        except Exception as exc:  # noqa: BLE001 - outermost line of a job: one series must not stop the queue
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
        if one is None:
            raise LeaseLost("its patient was forgotten")
        if job.tries > self._config.results.tries:
            self._report_failure(job, one, instances)
            return
        looked_at = self._look_at_all(job)
        if looked_at is None:
            self._give_back(job, wait_s=0.0, reason=None)  # told to stop or to make way; what was read is kept
            return
        instances, found = looked_at
        self._conclude(job, one, instances, self._refined(job, instances, found), begun)

    def _conclude(
        self, job: Job, one: series.Series, instances: Sequence[Instance], found: Sequence[SliceResult], begun: float
    ) -> None:
        """From the results of all its slices to a report or a refusal: by content, or in favour of another series."""
        ruled_out = {i.id: i.ruled_out for i in instances if i.ruled_out is not None}
        usable = [r for r in found if r.instance_id not in ruled_out]
        refused = eligibility.judge(eligibility.members(instances), self._config.eligibility)
        if refused is None and (no_head := anatomy.why_no_head(usable)) is not None:
            refused = f"{no_head}{_besides(ruled_out, len(instances))}"
        if refused is not None:
            with self._reportable(job):
                self._refuse(job, one, instances, refused)
            return
        metadata = self._classifier.checkpoint.metadata
        cuts = anatomy.Cuts(metadata.slice_thresholds, metadata.series_thresholds)
        findings = anatomy.conclude(found, instances, ruled_out=ruled_out, cuts=cuts, whole=one.whole is not False)
        if findings.outcome is Outcome.NOT_EVALUATED and self._another_may_tell(job, one, instances):
            why = "none of its images could be evaluated; another series of the study is used instead"
            self._end(job, JobState.REFUSED, reason=why)
            return
        with self._reportable(job):
            self._report(job, one, instances, findings, JobState.REPORTED, None)
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

    @contextmanager
    def _reportable(self, job: Job) -> Iterator[None]:
        """The job fails where its images allow no report, whatever the report would say."""
        try:
            yield
        except sr.InconsistentSeries as exc:
            self._end(job, JobState.FAILED, reason=f"{exc}; correct it at the sender and send it again")
        except spooled.NothingLeft as exc:
            self._end(job, JobState.FAILED, reason=f"{exc}; send it again, then: dicom-node retry {job.series_id}")

    def _refuse(self, job: Job, one: series.Series, instances: Sequence[Instance], reason: str) -> None:
        """Nothing is sent, unless an earlier result of the series is out: then NOT EVALUATED supersedes it."""
        with self._database.read() as connection:
            stands = outbox.stands(connection, job.series_id)
        if not stands:
            self._end(job, JobState.REFUSED, reason=reason)
            return
        if not instances:
            taken_back = f"to take back what was reported of it: dicom-node withdraw {job.series_id}"
            self._end(job, JobState.FAILED, reason=f"all its images came again in other series; {taken_back}")
            return
        self._report(job, one, instances, anatomy.nothing_evaluated(instances, reason), JobState.REFUSED, reason)
        log.info(
            "job_done %s", fields(job=job.id, series=job.series_id, run=job.run, state=JobState.REFUSED, reason=reason)
        )

    def _another_may_tell(self, job: Job, one: series.Series, instances: Sequence[Instance]) -> bool:
        """Whether nothing was ever reported of this series, and another series of the scan was passed over for it."""
        if one.forced or job.run > 1:
            return False
        with self._database.read() as connection:
            others = [series.instances_of(connection, i) for i in series.passed_over(connection, one.study_uid)]
        mine = eligibility.members(instances)
        return any(not eligibility.is_another_scan(eligibility.members(other), mine) for other in others)

    def _look_at_all(self, job: Job) -> tuple[list[Instance], list[SliceResult]] | None:
        """The instances of the job's series and a result for each usable one; None if told to stop first, or if this is
        backlog and something live arrived meanwhile.

        Images that arrive meanwhile are looked at as well, or belong to the next run.
        """
        while True:
            while self._classifying.next_slices(job.series_id, self._heartbeat(job), at_most=job.priority):
                if self._stopping() or (job.priority > jobs.LIVE and self._classifying.is_something_live()):
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
        """The results after a second look over the complete series; unchanged where that is not possible."""
        of_id = {i.id: i for i in instances if i.ruled_out is None}
        usable = anatomy.in_order([r for r in found if r.instance_id in of_id])
        if job.tries > 1:  # an earlier try ended the process; going on without is safe, reading again may not be
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
        """NOT EVALUATED, after the last try; if not even that report can be made, only the state says so."""
        tries = self._config.results.tries
        reason = f"processing failed {tries} times"
        advice = f"{reason}; see the log, then: dicom-node retry {job.series_id}"
        if job.tries > tries + LAST_WORDS:
            self._end(job, JobState.FAILED, reason=f"{advice}. No report could be made either (it ended the worker)")
            return
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
        """To be called often: shows that the process is alive and, a few times per lease, extends the job's lease."""
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

    def _report(
        self,
        job: Job,
        one: series.Series,
        instances: Sequence[Instance],
        found: SeriesFindings,
        state: JobState,
        reason: str | None,
    ) -> None:
        """Build the report once, then store it and end the job in one transaction.

        The file is written inside it, too: if the job is lost, perhaps because its patient was forgotten, none remains.
        """
        headers = spooled.headers(instances, self._spool)
        found = reporting.with_limits(found, headers, (each.facts.age_years for each in instances))
        with self._database.read() as connection:
            earlier = outbox.predecessor(connection, job.series_id, job.run)
            told = outbox.told(connection, job.series_id, before_run=job.run)
        first = reporting.first_built(earlier)
        predecessor = None if first is None else spooled.reference(one, first, self._spool)
        left = first is not None and spooled.is_elsewhere(first, headers[0], self._spool)
        run = reporting.run_of(one, job, at=self._clock())
        built = reporting.report(self._maker, run, headers, found, predecessor)
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
                extras_due=left or any(self._extras.wanted(kind, found.outcome, told) for kind in reporting.EXTRAS),
            )
            if left:
                series.note_left_behind(connection, job.series_id, job.id, told, now=now)
            to = self._extras.wanted(ObjectKind.REPORT, found.outcome, told)
            to += [name for name in outbox.waiting_for_reports(connection, job.series_id) if name not in to]
            outbox.supersede(connection, job.series_id, job.run, now=now)
            outbox.put(connection, job.id, [reporting.stored(built, self._spool)], to, now=now)
            jobs.settle_delivered(connection, job.id, now=now)
            if state is JobState.REFUSED:
                series.choose_again(connection, one.study_uid, now=now)
        if left:
            log.error("left_behind %s", fields(series=job.series_id, run=job.run, to=", ".join(sorted(told))))

    def _end(self, job: Job, state: JobState, *, reason: str) -> None:
        """End without a report. After a refusal, or where no image is left, the study's other series are candidates
        again; all in one transaction."""
        now = self._clock()
        with self._database.write() as connection:
            jobs.finish(connection, job, state, now=now, reason=reason)
            one = series.get(connection, job.series_id)
            says_nothing = state is JobState.REFUSED or not series.count(connection, job.series_id)
            if says_nothing and one is not None:
                series.choose_again(connection, one.study_uid, now=now)
        log.info("job_done %s", fields(job=job.id, series=job.series_id, run=job.run, state=state, reason=reason))

    def _give_back(self, job: Job, *, wait_s: float, reason: str | None) -> None:
        try:
            with self._database.write() as connection:
                jobs.give_back(connection, job, now=self._clock(), wait_s=wait_s, reason=reason)
        except (LeaseLost, StoreFull, StoreUnavailable) as exc:
            log.warning("not_given_back %s", fields(job=job.id, reason=exc))  # the lease expires by itself


def _besides(ruled_out: Mapping[int, str], images: int) -> str:
    """What a refusal by content must add where headers ruled out images, which may be those with the brain."""
    if not ruled_out:
        return ""
    ((why, _),) = Counter(ruled_out.values()).most_common(1)
    return f"; {len(ruled_out)} of {images} images were not looked at: {why}"
