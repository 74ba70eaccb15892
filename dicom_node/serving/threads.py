"""What the service does over and over, each task in its own thread.

Nothing is lost if one ends half-way: what it works on is in the database and comes up again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from dicom_node.errors import StoreFull, StoreUnavailable
from dicom_node.logs import fields, trace

log = logging.getLogger("dicom_node.service")

AFTER_A_FAULT_S = 5.0  # a full disk, a database that is down: trying at every tick would fill the log


class Hint:
    """Wakes those who wait for it, so that new work is taken up at once and not at their next look."""

    def __init__(self) -> None:
        self._given = threading.Condition()

    def give(self) -> None:
        with self._given:
            self._given.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Whether it was given before the time was up. One given while nobody waits is lost."""
        with self._given:
            return self._given.wait(timeout_s)


class Threads:
    def __init__(self, stopping: threading.Event) -> None:
        """`stopping`: once it is set, each thread ends when its current step is done."""
        self._stopping = stopping
        self._begun: list[threading.Thread] = []

    def begin(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._begun.append(thread)

    def every(
        self,
        pause_s: float,
        name: str,
        act: Callable[[], object],
        *,
        first_s: float | None = None,
        hint: Hint | None = None,
    ) -> None:
        """Do it again and again, whatever comes of it. A `hint` shortens the pause, but nothing depends on it."""

        def loop() -> None:
            wait_s = pause_s if first_s is None else first_s
            while not self._stopped_within(wait_s, hint):
                wait_s = pause_s if _done(name, act) else AFTER_A_FAULT_S

        self.begin(name, loop)

    def join(self, timeout_s: float) -> None:
        """Wait for each thread at most this long."""
        for thread in self._begun:
            thread.join(timeout_s)

    def _stopped_within(self, wait_s: float, hint: Hint | None) -> bool:
        if hint is None:
            return self._stopping.wait(wait_s)
        if not self._stopping.is_set():
            hint.wait(wait_s)
        return self._stopping.is_set()


def _done(name: str, act: Callable[[], object]) -> bool:
    try:
        act()
    except (StoreFull, StoreUnavailable) as exc:
        log.error("waits %s", fields(part=name, reason=exc))
        return False
    except Exception as exc:  # noqa: BLE001 - outermost line of the thread
        log.error("fault %s", fields(part=name, error=trace(exc)))
        return False
    return True
