"""Housekeeping: deletes what is older than its retention and owed to nobody, and files that no row names.

Nothing still in work or undelivered is deleted, however old (promise 6).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from dicom_node.config import Retention
from dicom_node.logs import fields
from dicom_node.store import purge
from dicom_node.store.database import Database
from dicom_node.store.spool import Spool

log = logging.getLogger("dicom_node.housekeeping")

DAY_S = 86400.0
ORPHAN_AGE_S = 3600.0  # a file without a row may be one whose row is being committed right now


def tidy(
    database: Database, spool: Spool, retention: Retention, *, clock: Callable[[], float] = time.time
) -> tuple[int, int]:
    """Returns how many series were deleted, and how many orphaned files."""
    now = clock()
    series = 0
    with database.read() as connection:
        old = purge.deletable(connection, quiet_since=now - retention.keep_days * DAY_S)
    for series_id in old:
        with database.write() as connection:
            files = purge.delete(connection, series_id)
        for name in files:  # only now: a file without a row is found later, a row without a file would be a loss
            spool.remove(name)
        series += 1
    orphans = _remove_orphans(database, spool, now)
    if series or orphans:
        log.info("tidied %s", fields(series=series, orphaned_files=orphans))
    return series, orphans


def _remove_orphans(database: Database, spool: Spool, now: float) -> int:
    removed = 0
    old = [name for name in spool.stored() if now - spool.modified_at(name) > ORPHAN_AGE_S]
    with database.read() as connection:
        named = purge.named_files(connection, old)
    for name in old:
        if name not in named:
            spool.remove(name)
            removed += 1
    return removed
