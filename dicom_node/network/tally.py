"""Log lines about strangers, limited: the first of a kind in full, the rest of the same minute as one number.

A port scanner can knock ten thousand times a minute; its knocks must neither fill the disk nor hide what else happens.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from dicom_node.logs import fields

IN_FULL = 5  # of each kind per window: enough to see who and why
WINDOW_S = 60.0


class Tally:
    def __init__(self, log: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._begun = clock()
        self._counts: dict[tuple[int, str], int] = {}

    def warn(self, event: str, **values: object) -> None:
        self._note(logging.WARNING, event, values)

    def mention(self, event: str, **values: object) -> None:
        """For what is harmless, such as a load balancer that checks whether the port is open."""
        self._note(logging.DEBUG, event, values)

    def _note(self, level: int, event: str, values: dict[str, object]) -> None:
        self.flush()
        with self._lock:
            count = self._counts[level, event] = self._counts.get((level, event), 0) + 1
        if count <= IN_FULL:
            self._log.log(level, "%s %s", event, fields(**values))

    def flush(self) -> None:
        """Log how many there were beyond those logged in full, once the window is over; called now and then."""
        now = self._clock()
        with self._lock:
            since_s = now - self._begun
            if since_s < WINDOW_S:
                return
            counts, self._counts, self._begun = self._counts, {}, now
        for (level, event), count in counts.items():
            if count > IN_FULL:
                self._log.log(level, "%s %s", event, fields(more=count - IN_FULL, in_s=round(since_s)))
