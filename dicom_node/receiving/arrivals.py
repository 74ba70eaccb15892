"""The series being received: from a quiet one to a job or a refusal. No SQL here, no DIMSE.

`tick` is called several times a second; all that it relies on is in the database, so that a restart changes nothing.
How their images come in: `accepting`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from dicom_node import anatomy
from dicom_node.config import Completion, Eligibility
from dicom_node.errors import InvalidObject, NodeError, StoreUnavailable
from dicom_node.headers import eligibility, header
from dicom_node.logs import fields, trace
from dicom_node.received import data_set_in
from dicom_node.receiving import choosing, completion
from dicom_node.store import choices, results, series, whereabouts
from dicom_node.store.database import Connection, Database
from dicom_node.store.series import Series
from dicom_node.store.spool import Spool
from dicom_node.store.tables import SeriesState
from dtvit.findings import Coverage

log = logging.getLogger("dicom_node.arrivals")

TOLD_APART = 4  # images that are read to say in what they differ
CHOICES_S = 5.0  # between two looks at what was not chosen: twenty thousand such series take 50 ms
CLOCK_SLACK_S = 1.0  # filing while `tick` reads, or by a receiver whose clock differs a little, is not a leap


class Arrivals:
    def __init__(
        self,
        database: Database,
        spool: Spool,
        *,
        waits: Completion,
        rules: Eligibility,
        version: results.Version,
        clock: Callable[[], float],
        association_open: Callable[[str], bool],
    ) -> None:
        self._database = database
        self._spool = spool
        self._waits = waits
        self._rules = rules
        self._version = version
        self._clock = clock
        self._association_open = association_open
        self._choices_seen_at = -CHOICES_S
        self._undecided: dict[int, tuple[object, ...]] = {}
        """Series -> what was seen of it when nothing could be decided yet."""

    def tick(self) -> None:
        """Find the series that are complete; judge them; make jobs."""
        now = self._clock()
        with self._database.read() as connection:
            open_series = series.receiving(connection)
            due = not 0.0 <= now - self._choices_seen_at < CHOICES_S
            passed_over = choices.judged_too_soon(connection) if due else []
        self._choices_seen_at = now if due else self._choices_seen_at
        self._undecided = {one.id: seen for one in open_series if (seen := self._undecided.get(one.id)) is not None}
        for one in open_series:
            if one.last_at > now + CLOCK_SLACK_S:
                self._clock_was_put_back(one, now)
            elif now - one.last_at >= self._waits.settle_s or one.expected is not None:
                with self._judging(one.id, now):
                    self._look_at(one, now)
        for series_id in passed_over:
            with self._judging(series_id, now):
                self._choose_anew(series_id, now)

    @contextmanager
    def _judging(self, series_id: int, now: float) -> Iterator[None]:
        try:
            yield
        except NodeError:
            raise
        except Exception as exc:  # noqa: BLE001 - outermost line of one series: the others continue
            log.error("judging_failed %s", fields(series=series_id, error=trace(exc)))
            said = f"it could not be judged: fault of this program ({trace(exc)}); then: dicom-node retry {series_id}"
            with self._database.write() as connection:
                series.fail(connection, series_id, said, now=now)

    def _look_at(self, one: Series, now: float) -> None:
        # One further ahead than any that is ever set is from before the clock was put back.
        if one.not_before is not None and now < one.not_before <= now + self._waits.reopen_wait_s + CLOCK_SLACK_S:
            return
        association_open = self._association_open(one.calling_aet)
        with self._database.read() as connection:
            # Reading all of a series of thousands, four times a second, would take half a processor until it is silent.
            seen = (one, association_open, results.state_of(connection, one.id, self._version))
            if self._undecided.get(one.id) == seen and 0.0 <= now - one.last_at < self._waits.silence_s:
                return
            members = series.instances_of(connection, one.id)
            found = results.of_series(connection, one.id, self._version)
        decision = completion.decide(
            now=now,
            last_at=one.last_at,
            received=len(members),
            expected=one.expected,
            association_open=association_open,
            coverage=_coverage(members, found),
            waits=self._waits,
        )
        hopeless = eligibility.judge(members, self._rules)
        if decision is None and not (hopeless and all(m.ruled_out for m in members)):
            self._undecided[one.id] = seen
            return
        with self._database.write() as connection:
            if self._changed_meanwhile(connection, one, members):
                return
            tell = self._decide(connection, one, members, decision, hopeless, now)
        tell()  # only now: the log must not say that something is done before it is committed

    def _decide(
        self,
        connection: Connection,
        one: Series,
        members: Sequence[series.Instance],
        decision: completion.Decision | None,
        hopeless: str | None,
        now: float,
    ) -> Callable[[], None]:
        """Decide about a series from which nothing more is expected; returns a function that logs the decision."""
        if len({m.identity for m in members}) > 1:
            reason = (
                f"the instances disagree about the patient or the study{self._about(members)}; no report is made, as "
                "it could go to the wrong patient. Correct them at the sender and send them again"
            )
            series.fail(connection, one.id, reason, now=now)
            return lambda: log.error(
                "failed %s", fields(series=one.id, reason="instances disagree about patient or study")
            )
        if not hopeless and not one.forced and series.patients_of_study(connection, one.study_uid) > 1:
            if 0.0 <= now - series.last_of_study(connection, one.study_uid) < self._waits.silence_s:
                return lambda: None  # a correction comes series by series: until the last, the others have the old data
            reason = (
                "images of two patients arrived under one Study Instance UID; no report is made, as a PACS could file "
                f"it under the wrong one. Correct them at the sender; if this is right: dicom-node retry {one.id}"
            )
            series.fail(connection, one.id, reason, now=now)
            return lambda: log.error("failed %s", fields(series=one.id, reason="two patients under one study"))
        if hopeless and whereabouts.stands(connection, one.id):  # a run that ends in a refusal supersedes it
            return (lambda: None) if decision is None else self._complete(connection, one, members, decision, now)
        if hopeless:
            series.refuse(connection, one.id, hopeless, now=now)
            return lambda: log.info("refused %s", fields(series=one.id, instances=len(members), reason=hopeless))
        assert decision is not None
        return self._choose(connection, one, members, decision, now)

    def _about(self, members: Sequence[series.Instance]) -> str:
        """In which attributes, as far as the files tell: a missing accession number is another fault than a patient."""
        different = list({m.identity: m for m in members}.values())[:TOLD_APART]
        try:
            read = [(data_set_in(self._spool.read(m.file)), m.transfer_syntax_uid) for m in different]
            about = header.disagreement(read)
        except (FileNotFoundError, StoreUnavailable, InvalidObject):
            return ""
        return f" ({', '.join(about)})" if about else ""

    def _choose(
        self,
        connection: Connection,
        one: Series,
        members: Sequence[series.Instance],
        decision: completion.Decision,
        now: float,
    ) -> Callable[[], None]:
        """One result per scan: make the job, or leave it to another series; returns a function that logs the choice."""
        if not one.forced:
            holders = choosing.holders(connection, one, members)
            if holders and one.id not in holders:
                return choosing.pass_over(connection, one, holders[0], now=now)
            rules, silence_s = self._rules, self._waits.silence_s
            if not holders and not choosing.is_best(connection, one, members, rules, silence_s=silence_s, now=now):
                return lambda: None
        return self._complete(connection, one, members, decision, now)

    def _choose_anew(self, series_id: int, now: float) -> None:
        with self._database.write() as connection:
            one = series.get(connection, series_id, lock=True)
            if one is None or series_id not in choices.judged_too_soon(connection):
                return
            tell = choosing.choose_anew(connection, one, now=now)
        tell()

    def _complete(
        self,
        connection: Connection,
        one: Series,
        members: Sequence[series.Instance],
        decision: completion.Decision,
        now: float,
    ) -> Callable[[], None]:
        job_id = series.complete(
            connection, one.id, rule=decision.rule, whole=decision.whole, now=now, priority=one.priority
        )
        return lambda: log.info(
            "complete %s", fields(series=one.id, job=job_id, instances=len(members), rule=decision.rule)
        )

    def _changed_meanwhile(self, connection: Connection, one: Series, members: Sequence[series.Instance]) -> bool:
        """Whether something arrived between reading and deciding; then the next tick looks again."""
        fresh = series.get(connection, one.id, lock=True)
        if fresh is None or fresh.state is not SeriesState.RECEIVING or fresh.last_at != one.last_at:
            return True
        return series.ids_of(connection, one.id) != [m.id for m in members]

    def _clock_was_put_back(self, one: Series, now: float) -> None:
        with self._database.write() as connection:
            series.restart_wait(connection, one.id, now=now, reopen_wait_s=self._waits.reopen_wait_s)
        log.warning("clock_put_back %s", fields(series=one.id, by_s=one.last_at - now))


def _coverage(members: Sequence[series.Instance], found: Sequence[results.SliceResult]) -> Coverage | None:
    """How much of the brain the usable slices show; None until each of them has been looked at."""
    usable = {m.id for m in members if m.ruled_out is None}
    if not usable or usable - {r.instance_id for r in found}:
        return None
    return anatomy.coverage([r for r in found if r.instance_id in usable], members)
