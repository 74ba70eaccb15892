"""The worker: claims jobs, has slices read, asks the model. A separate process, the only one with torch and decoders.

Slices are classified while their series still arrives, one row per slice (`classifying`); what is left for the job is
the remaining slices, the conclusion and the report (`concluding`). A job ends once, whatever happens, and only by the
worker that holds its lease.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dicom_node import anatomy
from dicom_node.config import Config
from dicom_node.delivering import reporting
from dicom_node.errors import LeaseLost, ModelFailed, StoreFull, StoreUnavailable
from dicom_node.logs import fields, trace
from dicom_node.store import jobs, results, series
from dicom_node.store.database import Database
from dicom_node.store.jobs import Job
from dicom_node.store.results import SliceResult, Version
from dicom_node.store.series import Instance
from dicom_node.store.spool import Spool
from dicom_node.working.classifying import Classifying
from dicom_node.working.concluding import Concluding
from dicom_node.working.extras import Extras
from dicom_node.working.judging import Classifier
from dicom_node.working.signs import signs_of_life
from dicom_node.working.slices import SliceReader
from dtvit.reading.headervalues import UnreadableSlice

log = logging.getLogger("dicom_node.worker")

RETRY_WAIT_S = 5.0  # after the first failed try; grows with each further one, up to jobs.LONGEST_WAIT_S


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
        maker = reporting.Maker(
            node.device_uid,
            node.ae_title,
            classifier.checkpoint.metadata,
            self.version,
            config.results,
            classifier.precision,
        )
        self._extras = Extras(database, spool, self._reader, config, maker, owner=owner, clock=clock, alive=alive)
        self._concluding = Concluding(database, spool, config, maker, clock=clock)

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
            with signs_of_life(self._heartbeat(job), len(instances)):
                self._concluding.report_failure(job, one, instances)
            return
        looked_at = self._look_at_all(job)
        over = None if looked_at is None else self._looked_over(job, *looked_at)
        if looked_at is None or over is None:
            self._give_back(job, wait_s=0.0, reason=None)  # told to stop or to make way; what was read is kept
            return
        with signs_of_life(self._heartbeat(job), len(over)):
            self._concluding.conclude(job, one, looked_at[0], over, begun)

    def _look_at_all(self, job: Job) -> tuple[list[Instance], list[SliceResult]] | None:
        """The instances of the job's series and a result for each usable one; None if told to stop first, or if this is
        backlog and something live arrived meanwhile.

        Images that arrive meanwhile are looked at as well, or belong to the next run.
        """
        while True:
            while self._classifying.next_slices(job.series_id, self._heartbeat(job), at_most=job.priority):
                if self._must_stop(job):
                    return None
                with self._database.write() as connection:
                    jobs.extend(connection, job, now=self._clock(), lease_s=self._lease_s, further=True)
            with self._database.read() as connection:
                found = results.of_series(connection, job.series_id, self.version)
                instances = series.instances_of(connection, job.series_id)
            known = {r.instance_id for r in found}
            if all(i.id in known for i in instances if i.ruled_out is None):
                return instances, [r for r in found if r.instance_id in {i.id for i in instances}]

    def _must_stop(self, job: Job) -> bool:
        return self._stopping() or (job.priority > jobs.LIVE and self._classifying.is_something_live())

    def _looked_over(
        self, job: Job, instances: Sequence[Instance], found: Sequence[SliceResult]
    ) -> list[SliceResult] | None:
        """The results after a second look, now that the series is complete: at head masks that the neighbours decide,
        and at thin slices together with their neighbours. Unchanged where that is not possible; None if told to stop.
        """
        known = {(r.instance_id, r.frame): r for r in found}
        of_id = {i.id: i for i in instances if i.ruled_out is None}

        def usable() -> list[SliceResult]:
            return anatomy.in_order([r for r in known.values() if r.instance_id in of_id])

        def keep(newer: Sequence[SliceResult]) -> None:
            with self._database.write() as connection:
                results.replace(connection, newer, self.version, now=self._clock())
            known.update({(r.instance_id, r.frame): r for r in newer})

        # After a try that failed going on without is safe; thin slices seen alone would be judged by their noise.
        refined = self._refined(job, usable(), of_id) if job.tries == 1 else []
        if refined:
            log.info("refined %s", fields(job=job.id, slices=len(refined)))
            keep(refined)
        thin = 0
        for batch in self._reader.in_slabs(usable(), of_id, self._heartbeat(job)):
            keep(batch)
            thin += sum(one.averaged > 1 for one in batch)
            if self._must_stop(job):
                return None
        if thin:
            log.info("in_slabs %s", fields(job=job.id, slices=thin))
        return list(known.values())

    def _refined(
        self, job: Job, ordered: Sequence[SliceResult], instances: Mapping[int, Instance]
    ) -> list[SliceResult]:
        try:
            return self._reader.refine(ordered, instances, self._heartbeat(job))
        except UnreadableSlice as exc:
            log.warning("not_refined %s", fields(job=job.id, error=trace(exc)))
            return []

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

    def _give_back(self, job: Job, *, wait_s: float, reason: str | None) -> None:
        try:
            with self._database.write() as connection:
                jobs.give_back(connection, job, now=self._clock(), wait_s=wait_s, reason=reason)
        except (LeaseLost, StoreFull, StoreUnavailable) as exc:
            log.warning("not_given_back %s", fields(job=job.id, reason=exc))  # the lease expires by itself
