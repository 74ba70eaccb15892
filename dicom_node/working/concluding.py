"""The end of a job: from the results of all slices of its series to a report, a refusal, or a failure that says why.

Each end is one transaction, and only of the worker that holds the job's lease.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

from dicom_node import anatomy
from dicom_node.config import Config
from dicom_node.delivering import otherclass, reporting, spooled
from dicom_node.delivering.reporting import Maker
from dicom_node.errors import LeaseLost, StoreFull, StoreUnavailable
from dicom_node.headers import eligibility
from dicom_node.logs import fields, trace
from dicom_node.report.carried import InconsistentSeries
from dicom_node.store import cancelling, choices, jobs, outbox, series, whereabouts
from dicom_node.store.database import Database
from dicom_node.store.jobs import Job
from dicom_node.store.results import SliceResult
from dicom_node.store.series import Instance
from dicom_node.store.spool import Spool
from dicom_node.store.tables import JobState, ObjectKind
from dtvit.findings import Outcome, SeriesFindings

log = logging.getLogger("dicom_node.worker")

LAST_WORDS = 2  # tries to report that a job failed; if these end the worker too, only the state says so


class Concluding:
    def __init__(
        self,
        database: Database,
        spool: Spool,
        config: Config,
        maker: Maker,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._spool = spool
        self._config = config
        self._maker = maker
        self._clock = clock

    def conclude(
        self, job: Job, one: series.Series, instances: Sequence[Instance], found: Sequence[SliceResult], begun: float
    ) -> None:
        """From the results of all its slices to a report or a refusal: by content, or in favour of another series."""
        ruled_out = {i.id: i.ruled_out for i in instances if i.ruled_out is not None}
        usable = [r for r in found if r.instance_id not in ruled_out]
        refused = eligibility.judge(instances, self._config.eligibility)
        if refused is None and (no_head := anatomy.why_no_head(usable)) is not None:
            refused = f"{no_head}{_besides(ruled_out, len(instances))}"
        if refused is not None:
            with self._reportable(job):
                self._refuse(job, one, instances, refused)
            return
        metadata = self._maker.metadata
        cuts = anatomy.Cuts(metadata.slice_thresholds, metadata.series_thresholds)
        findings = anatomy.conclude(found, instances, ruled_out=ruled_out, cuts=cuts, whole=one.whole is not False)
        if findings.outcome is Outcome.NOT_EVALUATED and self._another_may_tell(job, one, instances):
            self._end(job, JobState.REFUSED, reason=choices.LEFT_TO_ANOTHER)
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

    def report_failure(self, job: Job, one: series.Series, instances: Sequence[Instance]) -> None:
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

    @contextmanager
    def _reportable(self, job: Job) -> Iterator[None]:
        """The job fails where its images allow no report, whatever the report would say."""
        try:
            yield
        except InconsistentSeries as exc:
            self._end(job, JobState.FAILED, reason=f"{exc}; correct it at the sender and send it again")
        except spooled.NothingLeft as exc:
            self._end(job, JobState.FAILED, reason=f"{exc}; send it again, then: dicom-node retry {job.series_id}")

    def _refuse(self, job: Job, one: series.Series, instances: Sequence[Instance], reason: str) -> None:
        """Nothing is sent, unless an earlier result of the series is out: then NOT EVALUATED supersedes it."""
        with self._database.read() as connection:
            stands = whereabouts.stands(connection, job.series_id)
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
            others = [series.instances_of(connection, i) for i in choices.passed_over(connection, one.study_uid)]
        return any(not eligibility.is_another_scan(other, instances) for other in others)

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
            earlier = whereabouts.predecessors(connection, job.series_id, job.run)
            told = whereabouts.told(connection, job.series_id, before_run=job.run)
        first = [each for each in map(otherclass.first_built, earlier) if each is not None]
        predecessors = [spooled.reference(one, each, self._spool) for each in first]
        left = bool(first) and spooled.is_elsewhere(first[0], headers[0], self._spool)
        run = reporting.run_of(one, job, at=self._clock())
        owed_to = partial(reporting.owed_to, outcome=found.outcome, told=told, destinations=self._config.destinations)
        built = reporting.report(self._maker, run, headers, found, predecessors)
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
                model_digest=self._maker.version.model_digest,
                preprocessing=self._maker.version.preprocessing,
                extras_due=left or any(owed_to(kind) for kind in reporting.EXTRAS),
            )
            if left:
                series.note_left_behind(connection, job.series_id, job.id, told, now=now)
            to = owed_to(ObjectKind.REPORT)
            to += [name for name in whereabouts.waiting_for_reports(connection, job.series_id) if name not in to]
            cancelling.supersede(connection, job.series_id, job.run, now=now)
            outbox.put(connection, job.id, [built.stored_in(self._spool)], to, now=now)
            jobs.settle_delivered(connection, job.id, now=now)
        if left:
            log.error("left_behind %s", fields(series=job.series_id, run=job.run, to=", ".join(sorted(told))))

    def _end(self, job: Job, state: JobState, *, reason: str) -> None:
        """End without a report. Where the scan thereby lacks its result, `choices.judged_too_soon` finds those that may
        give it."""
        now = self._clock()
        with self._database.write() as connection:
            jobs.finish(connection, job, state, now=now, reason=reason)
            if reason == choices.LEFT_TO_ANOTHER:
                choices.leave_to_another(connection, job.series_id, job.id, reason, now=now)
        log.info("job_done %s", fields(job=job.id, series=job.series_id, run=job.run, state=state, reason=reason))


def _besides(ruled_out: Mapping[int, str], images: int) -> str:
    """What a refusal by content must add where headers ruled out images, which may be those with the brain."""
    if not ruled_out:
        return ""
    ((why, _),) = Counter(ruled_out.values()).most_common(1)
    return f"; {len(ruled_out)} of {images} images were not looked at: {why}"
