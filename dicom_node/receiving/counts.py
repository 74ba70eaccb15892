"""How many images does a series have? A PACS that knows is asked (C-FIND), which spares the series its silent wait.

Asked only about quiet series, and again after each further image: the PACS may still be receiving, and its count
grows. A PACS that does not answer changes nothing; the other completion rules decide. No SQL here, no DIMSE.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from dicom_node.errors import PeerError
from dicom_node.logs import fields
from dicom_node.store import series
from dicom_node.store.database import Database

log = logging.getLogger("dicom_node.counts")

AGAIN_S = 5.0
"""Time between two questions about the same quiet series."""

Ask = Callable[[str, str], int | None]
"""Study and Series Instance UID -> Number of Series Related Instances, None where the PACS does not know the series."""


class Counts:
    def __init__(self, database: Database, ask: Ask, *, settle_s: float, clock: Callable[[], float]) -> None:
        self._database = database
        self._ask = ask
        self._settle_s = settle_s
        self._clock = clock
        self._asked: dict[int, tuple[float, float]] = {}  # series -> its last image, when it was asked about
        self._answers = True

    def tick(self) -> None:
        """Ask about each quiet series whose turn it is."""
        with self._database.read() as connection:
            open_series = series.receiving(connection)
        self._asked = {one.id: self._asked[one.id] for one in open_series if one.id in self._asked}
        for one in open_series:
            now = self._clock()
            last_image, asked_at = self._asked.get(one.id, (None, 0.0))
            waits = last_image == one.last_at and 0.0 <= now - asked_at < AGAIN_S
            if now - one.last_at >= self._settle_s and not waits:
                self._asked[one.id] = one.last_at, now
                self._ask_about(one)

    def _ask_about(self, one: series.Series) -> None:
        try:
            count = self._ask(one.study_uid, one.series_uid)
        except PeerError as exc:
            if self._answers:  # once, not every five seconds of a night for each series
                log.warning("not_counted %s", fields(series=one.id, reason=exc))
            self._answers = False
            return
        self._answers = True
        if count:
            with self._database.write() as connection:
                series.expect(connection, one, count)
