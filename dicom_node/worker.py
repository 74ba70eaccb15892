"""The worker: reads pixels, asks the model, makes reports. A process of its own, the only one with torch and decoders.

Slices are classified while their series still arrives, one row a slice; a job then needs what is left, the conclusion
and the report. Before a slice is read, a try is counted: one that ends the process twice is left out, with the reason.
"""

from __future__ import annotations

import hashlib
import logging
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
from dicom_node.errors import LeaseLost, StoreFull, StoreUnavailable
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
        self.version = Version(classifier.checkpoint.digest, preprocess.preprocessing(config.model.brace_removal))

    def step(self) -> bool:
        """One job, or one batch of slices still arriving; False if there was nothing to do."""
        with self._database.write() as connection:
            job = jobs.claim(connection, owner=self._owner, now=self._clock(), lease_s=self._config.results.lease_s)
        if job is not None:
            self._run(job)
            return True
        return self._classify_some(series_id=None)

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
        except sr.InconsistentSeries as exc:
            self._end(job, JobState.FAILED, reason=f"{exc}; correct it at the sender and send it again")
        except Exception as exc:  # noqa: BLE001 - outermost line of a job: the queue goes on whatever one series does
            tries = f"{job.tries} of {self._config.results.tries}"
            log.error("try_failed %s", fields(job=job.id, tries=tries, error=trace(exc)))
            self._give_back(job, wait_s=RETRY_WAIT_S * job.tries, reason=trace(exc))

    def _do(self, job: Job, begun: float) -> None:
        with self._database.read() as connection:
            one = series.get(connection, job.series_id)
            instances = series.instances_of(connection, job.series_id)
        assert one is not None
        if job.tries > self._config.results.tries:
            reason = f"processing failed {job.tries - 1} times"
            advice = f"{reason}; see the log, then: dicom-node retry {job.series_id}"
            self._report(job, one, instances, anatomy.nothing_evaluated(instances, reason), JobState.FAILED, advice)
            return
        while self._classify_some(series_id=job.series_id):
            if self._stopping():
                self._give_back(job, wait_s=0.0, reason=None)
                return
            with self._database.write() as connection:
                jobs.extend(connection, job, now=self._clock(), lease_s=self._config.results.lease_s)
        with self._database.read() as connection:
            found = results.of_series(connection, job.series_id, self.version)
        ruled_out = {i.id: i.ruled_out for i in instances if i.ruled_out is not None}
        usable = [r for r in found if r.instance_id not in ruled_out]
        if not any(r.left_out for r in usable) and not anatomy.is_head(usable):
            self._end(job, JobState.REFUSED, reason="no head by its content: no brain inside a closed skull was found")
            with self._database.write() as connection:
                series.choose_again(connection, one.study_uid, now=self._clock())
            return
        metadata = self._classifier.checkpoint.metadata
        cuts = anatomy.Cuts(metadata.slice_thresholds, metadata.series_thresholds)
        found_in_series = anatomy.conclude(
            found, instances, ruled_out=ruled_out, cuts=cuts, whole=one.whole is not False
        )
        self._report(job, one, instances, found_in_series, JobState.REPORTED, None)
        log.info(
            "job_done %s",
            fields(
                job=job.id,
                series=job.series_id,
                run=job.run,
                slices=len(found_in_series.slices),
                evaluated=len(found_in_series.evaluated),
                outcome=found_in_series.outcome,
                took_s=time.monotonic() - begun,
                state="reported",
            ),
        )

    def _classify_some(self, series_id: int | None) -> bool:
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
        found: list[SliceResult] = []
        waiting: list[_Waiting] = []
        for instance in batch:
            for looked_at in self._look_at(instance):
                self._alive()
                if isinstance(looked_at, SliceResult):
                    found.append(looked_at)
                    continue
                waiting.append(looked_at)
                if len(waiting) >= limit:  # a multi-frame image has more slices than fit into one batch
                    found += self._predict(waiting)
                    waiting = []
        found += self._predict(waiting)
        with self._database.write() as connection:
            results.keep(connection, found, self.version, now=self._clock())
        return True

    def _look_at(self, instance: Instance) -> Iterator[SliceResult | _Waiting]:
        """Each frame of one instance, prepared for the model, or left out; a fault costs no more than it must."""
        if instance.tries >= READ_TRIES:
            yield _left_out(instance, "its pixel data made the reading process end")
            return
        try:
            image = ct.CTObject(self._spool.path(instance.file))
        except ct.UnreadableSlice as exc:
            yield _left_out(instance, str(exc))
            return
        for index in range(len(image)):
            try:
                one = image.slice(index)
            except ct.UnreadableSlice as exc:
                yield _left_out(instance, str(exc), frame=exc.frame or 0)
            else:
                yield _Waiting(instance.id, one, preprocess.prepare(one, self._config.model.brace_removal))

    def _predict(self, waiting: Sequence[_Waiting]) -> list[SliceResult]:
        if not waiting:
            return []
        predictions = self._classifier.predict(np.stack([w.prepared.input for w in waiting]))
        return [
            SliceResult(
                instance_id=w.instance_id,
                frame=w.slice.frame or 0,
                instance_number=w.slice.instance_number,
                position_mm=w.slice.position_mm,
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
        with self._database.write() as connection:
            jobs.finish(connection, job, state, now=self._clock(), reason=reason)
        log.info("job_done %s", fields(job=job.id, series=job.series_id, run=job.run, state=state, reason=reason))

    def _give_back(self, job: Job, *, wait_s: float, reason: str | None) -> None:
        try:
            with self._database.write() as connection:
                jobs.give_back(connection, job, now=self._clock(), wait_s=wait_s, reason=reason)
        except (LeaseLost, StoreFull, StoreUnavailable) as exc:
            log.warning("not_given_back %s", fields(job=job.id, reason=exc))  # the lease runs out by itself


def _left_out(instance: Instance, reason: str, *, frame: int = 0) -> SliceResult:
    log.warning("slice_left_out %s", fields(instance=instance.id, frame=frame or None, reason=reason))
    facts = instance.facts
    return SliceResult(
        instance.id, frame, facts.instance_number, facts.position_mm, facts.thickness_mm, content=None, left_out=reason
    )
