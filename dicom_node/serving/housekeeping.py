"""Housekeeping: deletes what is past its retention and owed to nobody, files of that age that no row names, requests to
commit that are settled, and names for future files that a killed process left unused.

Nothing still in progress or undelivered is deleted, however old. A file without a row is what a crash leaves, or an
acknowledged image whose row went with the database: a lost file, an older backup, another URL.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from dicom_node.config import Config
from dicom_node.logs import fields
from dicom_node.store import commitment_given, purge
from dicom_node.store.database import Database
from dicom_node.store.spool import Spool

log = logging.getLogger("dicom_node.housekeeping")

DAY_S = 86400.0
COMMITTING_S = 3600.0  # a file without a row, or an empty one, may be one that is being received right now
LEAP_S = 3600.0  # no clock drifts so far between two checks
REST_S = 0.1  # after each series: as rarely as that SQLite tries again for a waiting writer


class Leaps:
    """Whether the clock was set forward within the last day: by a wrong clock everything would be old, and be deleted.

    A day gives a person time to notice. After that the clock counts as right, as where a machine starts without a
    battery.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steady = steady
        self._ahead_s = clock() - steady()
        self._until = steady()

    def lately(self) -> bool:
        """To be called again and again: a leap is seen between two calls."""
        ahead_s = self._clock() - self._steady()
        leap_s, self._ahead_s = ahead_s - self._ahead_s, ahead_s
        if leap_s > LEAP_S:
            self._until = self._steady() + DAY_S
            log.warning("clock_put_forward %s", fields(by_s=leap_s, nothing_deleted_for_s=DAY_S))
        return self._steady() < self._until


def tidy(
    database: Database,
    spool: Spool,
    config: Config,
    *,
    clock: Callable[[], float] = time.time,
    rest: Callable[[float], bool] = lambda _: False,
) -> tuple[int, int]:
    """Returns how many series were deleted, and how many orphaned files.

    `rest` waits so many seconds, so that deleting thousands of series keeps nobody from writing, and says whether to
    leave the others to the next time.
    """
    now, keep_days = clock(), config.retention.keep_days
    unasked = {peer.name for peer in config.destinations if not peer.commitment}  # now; they may have been asked before
    quiet_since = now - keep_days * DAY_S
    series = 0
    _forget_requests(database, config, quiet_since)
    with database.read() as connection:
        old = purge.deletable(connection, quiet_since=quiet_since, unasked=unasked)
        if held := purge.kept(connection, quiet_since=quiet_since, unasked=unasked):
            log.info("kept_past_retention %s", fields(**held))
    for series_id in old:
        with database.write() as connection:
            files = purge.delete(connection, series_id, quiet_since=quiet_since, unasked=unasked)
        if files is None:
            continue  # something arrived for it in the meantime
        for name in files:  # only now: a file without a row is found later, a row without a file would be a loss
            spool.remove(name)
        series += 1
        if rest(REST_S):
            return series, 0
    spool.clear_unused(older_than_s=COMMITTING_S)
    orphans, kept = _remove_orphans(database, spool, now, quiet_since)
    if kept:
        hint = "if the database was restored or replaced, send the spool folder to this node again: dicom-node send"
        log.warning("files_without_rows %s", fields(files=kept, deleted_after_days=keep_days, hint=hint))
    if series or orphans:
        log.info("tidied %s", fields(series=series, orphaned_files=orphans))
    return series, orphans


def _forget_requests(database: Database, config: Config, quiet_since: float) -> None:
    """Requests to commit to images: those that are answered, or never will be."""
    answerable = {peer.ae_title for peer in config.peers} if config.commitment.accept else set()
    with database.write() as connection:
        lost = commitment_given.forget_requests(connection, answerable=answerable, before=quiet_since)
    for calling_aet, requests in lost.items():
        reason = "no peer has this AE title any longer" if config.commitment.accept else "commitment.accept is off"
        log.warning("not_answered %s", fields(calling=calling_aet, requests=requests, reason=reason))


def _remove_orphans(database: Database, spool: Spool, now: float, quiet_since: float) -> tuple[int, int]:
    """Returns how many files without a row were removed, and how many are kept until their retention ends."""
    removed = kept = 0
    for name in purge.without_rows(database, spool.stored()):
        written_at = spool.modified_at(name)
        if written_at is None or now - written_at <= COMMITTING_S:
            continue
        if written_at < quiet_since:
            spool.remove(name)
            removed += 1
        else:
            kept += 1
    return removed, kept
