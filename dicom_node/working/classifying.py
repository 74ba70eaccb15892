"""What is classified next, and what is noted about it: slices without a result, of one job or of series still arriving.

Before a slice is read, a try is counted: if reading it ends the process, the next one knows, reads that slice alone
and, the second time, leaves it out. Live goes before backlog, of which only a few slices are done at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from dicom_node.store import jobs, results, series
from dicom_node.store.database import Connection, Database
from dicom_node.store.results import Version
from dicom_node.store.series import Instance
from dicom_node.working.slices import SliceReader

BACKLOG_BATCH = 4  # slices, a second or so without a GPU: how long a live series waits for backlog in progress


class Classifying:
    def __init__(
        self,
        database: Database,
        reader: SliceReader,
        version: Version,
        *,
        lease_s: float,
        clock: Callable[[], float],
        stopping: Callable[[], bool],
    ) -> None:
        self._database = database
        self._reader = reader
        self._version = version
        self._lease_s = lease_s
        self._clock = clock
        self._stopping = stopping

    def next_slices(self, series_id: int | None, alive: Callable[[], None], *, at_most: int) -> bool:
        """Read and classify the next slices without a result; False if there are none that urgent.

        `series_id`: a series that has a job; None: all series still arriving. `alive` is called often. Raises
        ModelFailed, StoreFull, StoreUnavailable.
        """
        left: set[int] = set()
        windows = self._windows(series_id, at_most, left)
        first = next(windows, None)
        if first is None:
            return False
        at_once = BACKLOG_BATCH if at_most > jobs.LIVE else None
        try:
            for found in self._reader.read(chain([first], windows), alive, at_once=at_once):
                with self._database.write() as connection:
                    results.keep(connection, found, self._version, now=self._clock())
                left -= {r.instance_id for r in found}
                if left and self._makes_way(series_id, at_most):
                    break
        except Exception:
            self._not_read(left)
            raise
        self._not_read(left)
        return True

    def _windows(self, series_id: int | None, at_most: int, left: set[int]) -> Iterator[list[Instance]]:
        """What to read, a window at a time while full ones are left. A try is counted for each instance, which is then
        added to `left`."""
        window, first = self._reader.window, True
        while first or not self._makes_way(series_id, at_most):
            with self._database.read() as connection:
                if not first and series_id is None and self._is_whole_one_due(connection, at_most):
                    return  # it goes before slices of a series still arriving
                unread = self._unread(connection, series_id, limit=window, at_most=at_most, begun=first)
            suspects = [i for i in unread if i.tries > 0]
            batch = suspects[:1] or unread  # a slice that was being read when a process died is read alone
            if not batch:
                return
            with self._database.write() as connection:
                begun = series.begin_reading(connection, [i.id for i in batch], tries=batch[0].tries)
            left |= begun
            yield [i for i in batch if i.id in begun]
            if len(batch) < window:
                return
            first = False

    def is_something_live(self) -> bool:
        """Whether any job, extras of a job, or slice of a series still arriving is not backlog."""
        with self._database.read() as connection:
            if self._is_whole_one_due(connection, jobs.LIVE):
                return True
            return bool(self._unread(connection, None, limit=1, at_most=jobs.LIVE))

    def _is_whole_one_due(self, connection: Connection, at_most: int) -> bool:
        """Whether there is a job, or extras of a job, at least as urgent as `at_most`."""
        now, lease_s = self._clock(), self._lease_s
        if jobs.is_due(connection, now=now, lease_s=lease_s, at_most=at_most):
            return True
        return jobs.next_with_extras(connection, now=now, lease_s=lease_s, at_most=at_most) is not None

    def _unread(
        self, connection: Connection, series_id: int | None, *, limit: int, at_most: int, begun: bool = True
    ) -> list[Instance]:
        """What to read next; `begun`: also what a process began to read, if this one is reading nothing.

        Of series still arriving, nothing that another worker may be reading at this moment: a slice tried by several
        living workers in turn would look like one that ends its reader. Where there are other workers, what one of them
        left unread waits for the job, which belongs to one worker.
        """
        begun = begun and (series_id is not None or not self._database.is_shared)
        return results.unread(connection, self._version, limit=limit, series_id=series_id, at_most=at_most, begun=begun)

    def _not_read(self, left: set[int]) -> None:
        """This process is alive, so the try counted for these slices is taken back, unless their reader ended."""
        spared = left - self._reader.ended
        if spared:
            with self._database.write() as connection:
                series.end_reading(connection, sorted(spared))

    def _makes_way(self, series_id: int | None, at_most: int) -> bool:
        """Whether slices of a job (or, without one, of arriving series) must wait: to stop, or for what is urgent."""
        if self._stopping() or at_most > jobs.LIVE:
            return self._stopping() or self.is_something_live()
        if series_id is not None:
            return False
        with self._database.read() as connection:
            return jobs.is_due(connection, now=self._clock(), lease_s=self._lease_s, at_most=jobs.LIVE)
