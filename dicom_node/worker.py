"""The worker: reads pixels, asks the model, makes reports. A process of its own, the only one with torch and decoders.

Slices are classified while their series still arrives, one row a slice; a job then needs what is left, the conclusion
and the report. Before a slice is read, a try is counted: one that ends the process twice is left out, with the reason.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset

from dicom_node import __version__, anatomy, uids
from dicom_node.config import Config
from dicom_node.errors import LeaseLost, ModelFailed, StoreFull, StoreUnavailable
from dicom_node.logs import fields, trace
from dicom_node.report import sr
from dicom_node.store import jobs, outbox, results, series
from dicom_node.store.database import Database
from dicom_node.store.jobs import Job
from dicom_node.store.results import SliceResult, Version
from dicom_node.store.series import Instance
from dicom_node.store.spool import Spool
from dicom_node.tables import JobState
from dtvit import ct, preprocess
from dtvit.checkpoint import Checkpoint
from dtvit.findings import SeriesFindings

log = logging.getLogger("dicom_node.worker")

MANUFACTURER = "dicom-node project"
ALGORITHM = "DTViT"
READ_TRIES = 2
RETRY_WAIT_S = 5.0
RULES_IN_WORDS = {
    "count": "as many images as the PACS holds",
    "covered": "the brain covered from end to end, then quiet",
    "silence": "no further image for the configured time",
}


class Classifier(Protocol):
    """What the worker needs of `dtvit.inference.Classifier`."""

    @property
    def checkpoint(self) -> Checkpoint: ...

    def predict(self, inputs: npt.NDArray[np.uint8]) -> Any: ...


@dataclass(frozen=True)
class Node:
    """Who makes the reports."""

    device_uid: str
    ae_title: str


@dataclass(frozen=True)
class _Waiting:
    """A slice that was read and waits for the model."""

    instance_id: int
    slice: ct.CTSlice
    prepared: preprocess.Prepared


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
        self._node = node
        self._owner = owner
        self._clock = clock
        self._alive = alive
        self._stopping = stopping
        self._lease_s = config.results.lease_s
        self.version = Version(classifier.checkpoint.digest, preprocess.preprocessing(config.model.brace_removal))

    def step(self) -> bool:
        """One job, or one batch of slices still arriving; False if there was nothing to do.

        Raises ModelFailed, after everything is given back, where the process should end; StoreFull, StoreUnavailable.
        """
        with self._database.write() as connection:
            job = jobs.claim(connection, owner=self._owner, now=self._clock(), lease_s=self._lease_s)
        if job is not None:
            self._run(job)
            return True
        return self._classify_some(None, self._alive)

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
        ruled_out = {i.id: i.ruled_out for i in instances if i.ruled_out is not None}
        usable = [r for r in found if r.instance_id not in ruled_out]
        if not any(r.left_out for r in usable) and not anatomy.is_head(usable):
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
            found = self._classify(batch, alive)
        except Exception:
            with self._database.write() as connection:
                series.end_reading(connection, [i.id for i in batch])
            raise
        with self._database.write() as connection:
            results.keep(connection, found, self.version, now=self._clock())
        return True

    def _classify(self, batch: Sequence[Instance], alive: Callable[[], None]) -> list[SliceResult]:
        found: list[SliceResult] = []
        waiting: list[_Waiting] = []
        for instance in batch:
            for looked_at in self._look_at(instance):
                alive()
                if isinstance(looked_at, SliceResult):
                    found.append(looked_at)
                    continue
                waiting.append(looked_at)
                if len(waiting) >= self._config.model.batch:  # a multi-frame image may have more than fit
                    found += self._predict(waiting)
                    waiting = []
        return found + self._predict(waiting)

    def _look_at(self, instance: Instance) -> Iterator[SliceResult | _Waiting]:
        """Each frame of one instance, prepared for the model, or left out; a fault costs no more than it must."""
        if instance.tries >= READ_TRIES:
            yield _left_out(instance, "its pixel data made the reading process end")
            return
        try:
            image = ct.CTObject(self._spool.read(instance.file))
        except FileNotFoundError:
            yield _left_out(instance, "its file is missing from the spool")
            return
        except ct.UnreadableSlice as exc:
            yield _left_out(instance, str(exc))
            return
        for index in range(len(image)):
            try:
                one = image.slice(index)
                prepared = preprocess.prepare(one, self._config.model.brace_removal)
            except ct.UnreadableSlice as exc:
                yield _left_out(instance, str(exc), frame=exc.frame or 0)
            except Exception as exc:  # noqa: BLE001 - outermost line of one slice: the others are looked at
                frame = index + 1 if len(image) > 1 else 0
                yield _left_out(instance, f"it could not be prepared for the model ({trace(exc)})", frame=frame)
            else:
                yield _Waiting(instance.id, one, prepared)

    def _predict(self, waiting: Sequence[_Waiting]) -> list[SliceResult]:
        if not waiting:
            return []
        inputs = np.stack([w.prepared.input for w in waiting])
        try:
            predictions = self._classifier.predict(inputs)
        except Exception as exc:  # whatever a GPU, its driver or the model has to say
            raise ModelFailed(f"the model failed on {len(inputs)} slices ({trace(exc)})") from exc
        if not (np.isfinite(predictions.presence).all() and np.isfinite(predictions.location).all()):
            raise ModelFailed("the model gave a probability that is not a finite number")
        return [
            SliceResult(
                instance_id=w.instance_id,
                frame=w.slice.frame or 0,
                instance_number=w.slice.instance_number,
                position_mm=_finite(w.slice.position_mm),
                thickness_mm=w.slice.thickness_mm,
                content=asdict(w.prepared.content),
                presence=float(presence),
                location=(float(location[0]), float(location[1]), float(location[2])),
            )
            for w, presence, location in zip(waiting, predictions.presence, predictions.location, strict=True)
        ]

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
        headers = [self._header(i) for i in instances]
        with self._database.read() as connection:
            earlier = outbox.predecessor(connection, job.series_id, job.run)
        context = self._context(job, one, found, earlier)
        content = sr.to_bytes(sr.build(headers, found, context))
        made = outbox.MadeObject(
            kind="report",
            sop_class_uid=sr.SR_CLASSES[0],
            sop_instance_uid=context.sop_instance_uid,
            series_uid=context.series_instance_uid,
            file=self._spool.keep(content),
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        to = [peer.name for peer in self._config.destinations]
        now = self._clock()
        with self._database.write() as connection:
            self._finish(connection, job, state, found, reason, now)
            outbox.put(connection, job.id, [made], to, now=now)
            jobs.settle_delivered(connection, job.id, now=now)

    def _finish(
        self, connection: Any, job: Job, state: JobState, found: SeriesFindings, reason: str | None, now: float
    ) -> None:
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
        )

    def _context(self, job: Job, one: series.Series, found: SeriesFindings, earlier: Sequence[Any]) -> sr.ReportContext:
        names = (
            self._node.device_uid,
            one.series_uid,
            repr(one.first_at),  # runs count from 1 again if the series is purged and comes back
            self.version.model_digest,
            self.version.preprocessing,
            str(job.run),
            sr.SR_CLASSES[0],
        )
        partial = "; ".join(found.coverage.gaps) or "fewer images came than were announced"
        whole = one.whole is not False and found.coverage.complete
        predecessors = [e for e in earlier if e.kind == "report"]
        predecessor = None
        if predecessors:
            last = predecessors[-1]
            predecessor = sr.Predecessor(one.study_uid, last.series_uid, last.sop_class_uid, last.sop_instance_uid)
        return sr.ReportContext(
            device_uid=self._node.device_uid,
            device_name=self._node.ae_title,
            sop_instance_uid=uids.derived(*names, "instance"),
            series_instance_uid=uids.derived(*names, "series"),
            content_datetime=datetime.fromtimestamp(self._clock(), UTC).astimezone(),
            algorithm=sr.Algorithm(ALGORITHM, __version__, MANUFACTURER, self._parameters()),
            completion_rule=RULES_IN_WORDS.get(one.rule or "", "by command"),
            series_number=self._config.results.series_number,
            whole=whole,
            partial_because=None if whole else partial,
            run=job.run,
            predecessor=predecessor,
            notice=self._classifier.checkpoint.metadata.notice,
            title=self._config.results.title,
        )

    def _parameters(self) -> Mapping[str, str]:
        checkpoint = self._classifier.checkpoint
        metadata = checkpoint.metadata
        slices, whole = metadata.slice_thresholds, metadata.series_thresholds
        return {
            "checkpoint": metadata.name,
            "weights sha256": checkpoint.digest,
            "encoder": metadata.encoder,
            "window": f"{metadata.window_hu[0]:g}..{metadata.window_hu[1]:g} HU",
            "preprocessing": self.version.preprocessing,
            "slice thresholds": f"absent below {slices.absent_below:g}, present at {slices.present_at:g}",
            "series thresholds": f"absent below {whole.absent_below:g}, present at {whole.present_at:g}",
        }

    def _header(self, instance: Instance) -> Dataset:
        return pydicom.dcmread(self._spool.path(instance.file), stop_before_pixels=True)

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


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _left_out(instance: Instance, reason: str, *, frame: int = 0) -> SliceResult:
    log.warning("slice_left_out %s", fields(instance=instance.id, frame=frame or None, reason=reason))
    facts = instance.facts
    return SliceResult(
        instance.id, frame, facts.instance_number, facts.position_mm, facts.thickness_mm, content=None, left_out=reason
    )
