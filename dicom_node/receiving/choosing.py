"""One result per scan: whether a complete series gives it, waits for a better one, or is left to another.

What was chosen is kept, and asked again, by `store.choices`; by what a choice is made: `headers.eligibility`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from dicom_node.config import Eligibility
from dicom_node.headers import eligibility
from dicom_node.logs import fields
from dicom_node.store import choices, series
from dicom_node.store.database import Connection
from dicom_node.store.series import Series
from dicom_node.store.tables import SeriesState

log = logging.getLogger("dicom_node.arrivals")


def holders(
    connection: Connection, one: Series, members: Sequence[series.Instance], *, or_nothing: bool = False
) -> list[int]:
    """Ids of the series that give the result for this one's scan. `or_nothing`: NOT EVALUATED is a result."""
    return [
        holder
        for holder in choices.of_study_with_result(connection, one.study_uid, or_nothing=or_nothing)
        if not eligibility.is_another_scan(series.instances_of(connection, holder), members)
    ]


def is_best(
    connection: Connection,
    one: Series,
    members: Sequence[series.Instance],
    rules: Eligibility,
    *,
    silence_s: float,
    now: float,
) -> bool:
    """Whether no other series of the scan that is still arriving would be the better choice.

    A rival that is not complete yet is waited for only while it may still become eligible; silence ends the wait.
    """
    candidates = [eligibility.candidate(one.id, members)]
    for rival in series.of_study(connection, one.study_uid):
        if rival.id == one.id or rival.state is not SeriesState.RECEIVING:
            continue
        theirs = series.instances_of(connection, rival.id)
        if eligibility.is_another_scan(theirs, members):
            continue
        may_grow = now - rival.last_at < silence_s
        may_be_eligible = any(m.ruled_out is None for m in theirs)
        if may_be_eligible and (may_grow or eligibility.judge(theirs, rules) is None):
            candidates.append(eligibility.candidate(rival.id, theirs))
    return eligibility.choose(candidates, rules).series_id == one.id


def pass_over(connection: Connection, one: Series, chosen: int, *, now: float, besides: str = "") -> Callable[[], None]:
    """Leave the scan's result to the series `chosen`; returns a function that logs it."""
    choices.not_chosen(connection, one.id, chosen, now=now, besides=besides)
    return lambda: log.info("not_chosen %s", fields(series=one.id, chosen=chosen))


def choose_anew(connection: Connection, one: Series, *, now: float) -> Callable[[], None]:
    """The series that was chosen in place of this one gives the scan's result no longer, or gives it again; returns a
    function that logs what follows.
    """
    was_tried = choices.was_left_to_another(connection, one.id)
    members = series.instances_of(connection, one.id)
    if giving := holders(connection, one, members, or_nothing=was_tried):
        return pass_over(connection, one, giving[0], now=now, besides=choices.NOTHING_EVALUATED if was_tried else "")
    chosen = series.of_job(connection, one.passed_over_for)
    if chosen is not None and (chosen.id == one.id or choices.is_still_in(connection, chosen, one.study_uid)):
        chosen = None  # no correction took it away
    of_study = series.of_study(connection, one.study_uid)
    if (chosen or was_tried) and any(each.state is SeriesState.RECEIVING for each in of_study):
        return lambda: None  # that may be the one that gives it
    if chosen is not None:
        choices.leave_without_result(connection, one, chosen, now=now)
        return lambda: log.error("failed %s", fields(series=one.id, reason="the chosen series was corrected away"))
    why = "the series chosen in its place gives its scan's result no longer"
    series.receive_again(connection, one.id, now=now, why=why)
    return lambda: log.info("chosen_anew %s", fields(series=one.id))
