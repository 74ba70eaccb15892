"""`dicom-node serve`: one process that receives, decides and sends, and a worker process beside it that it keeps alive.

Everything of importance stands in the database and the spool, so that either process may be killed at any moment; what
is here only starts the parts, keeps them going, and ends them in order.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from dicom_node import committing, housekeeping, supervisor
from dicom_node.arrivals import Arrivals
from dicom_node.config import Config
from dicom_node.counts import Counts
from dicom_node.errors import NodeError, StoreFull, StoreUnavailable
from dicom_node.logs import fields, trace
from dicom_node.network import commitment, scp, scu
from dicom_node.network.scp import Receiver
from dicom_node.sender import Sender
from dicom_node.store import heartbeats, jobs
from dicom_node.store.database import Database
from dicom_node.store.opening import open_store
from dicom_node.store.results import Version
from dicom_node.store.spool import Spool
from dicom_node.supervisor import Supervisor

log = logging.getLogger("dicom_node.service")

TICK_S = 0.25
TIDY_S = 3600.0
ASK_S = 2.0  # what was delivered meanwhile goes into one question


class Service:
    def __init__(self, config: Config, config_path: Path, version: Version) -> None:
        self._config = config
        self._config_path = config_path
        self._version = version
        self._stopping = threading.Event()
        self._done = Hint()
        self._threads: list[threading.Thread] = []
        self._started_at = time.time()
        self._owner = f"{os.getpid()}-{time.time_ns()}"

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises NodeError if it cannot start."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: self._stopping.set())
        database, spool = open_store(self._config)
        lock = _only_one(self._config, database)
        try:
            self._serve(database, spool)
        finally:
            spool.close()
            database.close()
            lock.close()

    def _serve(self, database: Database, spool: Spool) -> None:
        if not database.is_shared:  # then whatever is begun is of an earlier life of this node
            self._forget_earlier_life(database)
        reports = committing.Reports(database, self._config)
        keeper = committing.Keeper(database, spool, self._config) if self._config.commitment.accept else None
        arrivals, receiver = self._receiving(database, spool, reports, keeper)
        port = receiver.start()
        gc.freeze()  # what was imported stays: to look through it takes 0.1 s, in which nothing is received
        self._warn_of_gaps()
        log.info("ready %s", fields(ae_title=self._config.node.ae_title, port=port))
        self._loop("worker", self._supervisor(database).run)
        self._loop("arrivals", self._every(TICK_S, arrivals.tick))
        self._loop("heartbeat", self._every(heartbeats.EVERY_S, lambda: self._beat(database), first_s=0.0))
        self._loop("housekeeping", self._every(TIDY_S, lambda: self._tidy(database, spool)))
        self._talk_to_peers(database, spool, reports)
        if keeper is not None:
            self._loop("commitment", self._every(ASK_S, keeper.tick))
        self._stopping.wait()
        log.info("stopping")
        self._done.give()
        receiver.stop()
        for thread in self._threads:
            thread.join(supervisor.STOP_S + 10.0)
        with contextlib.suppress(NodeError), database.write() as connection:
            heartbeats.end(connection, self._owner)
        log.info("stopped")

    def _receiving(
        self, database: Database, spool: Spool, reports: committing.Reports, keeper: committing.Keeper | None
    ) -> tuple[Arrivals, Receiver]:
        """Each asks the other: the one what becomes of an object, the other who may still be sending."""
        arrivals = Arrivals(
            database,
            spool,
            waits=self._config.completion,
            rules=self._config.eligibility,
            backlog=self._config.backlog,
            version=self._version,
            clock=time.time,
            association_open=lambda calling_aet: receiver.has_open_association(calling_aet),
        )
        receiver = Receiver(
            arrivals.accept,
            scp.rules_of(self._config, spool.has_room),
            bind=self._config.node.bind,
            port=self._config.node.port,
            services=[commitment.service(reports.take, keeper.asked if keeper else None)],
        )
        return arrivals, receiver

    def _supervisor(self, database: Database) -> Supervisor:
        program = [sys.executable, "-m", "dicom_node", "worker", "--config", str(self._config_path)]
        return Supervisor(
            database,
            lambda owner: [*program, "--owner", owner],
            lease_s=self._config.results.lease_s,
            stopping=self._stopping,
            done=self._done.give,
        )

    def _talk_to_peers(self, database: Database, spool: Spool, reports: committing.Reports) -> None:
        """A thread for each: what is slow at one peer holds up no other."""
        ae_title = self._config.node.ae_title
        if self._config.completion.count_from:
            counting = self._config.peer(self._config.completion.count_from)
            counts = Counts(
                database,
                lambda study, series: scu.count_instances(counting, ae_title, study, series),
                settle_s=self._config.completion.settle_s,
                clock=time.time,
            )
            self._loop("counts", self._every(TICK_S, counts.tick))
        for peer in self._config.destinations:
            sender = Sender(database, spool, peer, self._config.results, ae_title=ae_title)
            self._loop(f"sender-{peer.name}", self._every(TICK_S, sender.tick, hint=self._done))
            if peer.commitment:
                asker = committing.Asker(database, peer, self._config, reports)
                self._loop(f"commitment-{peer.name}", self._every(ASK_S, asker.tick))

    def _forget_earlier_life(self, database: Database) -> None:
        """Free its leases at once. On a full disk they run out by themselves: to refuse images it must come up."""
        try:
            with database.write() as connection:
                jobs.free(connection, now=time.time())
                heartbeats.end(connection)
        except (StoreFull, StoreUnavailable) as exc:
            log.error("waits %s", fields(part="start", reason=exc))

    def _beat(self, database: Database) -> None:
        with database.write() as connection:
            heartbeats.beat(connection, self._owner, started_at=self._started_at, now=time.time())

    def _tidy(self, database: Database, spool: Spool) -> None:
        housekeeping.tidy(database, spool, self._config.retention)

    def _loop(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _every(
        self, pause_s: float, act: Callable[[], object], *, first_s: float | None = None, hint: Hint | None = None
    ) -> Callable[[], None]:
        """A loop that a fault does not end: what it works on stands in the database and is met again.

        A `hint` shortens the wait, and nothing depends on it.
        """

        def stopped(wait_s: float) -> bool:
            if hint is None:
                return self._stopping.wait(wait_s)
            if not self._stopping.is_set():
                hint.wait(wait_s)
            return self._stopping.is_set()

        def loop() -> None:
            wait_s = pause_s if first_s is None else first_s
            while not stopped(wait_s):
                wait_s = pause_s
                try:
                    act()
                except (StoreFull, StoreUnavailable) as exc:
                    log.error("waits %s", fields(part=threading.current_thread().name, reason=exc))
                    wait_s = 5.0
                except Exception as exc:  # noqa: BLE001 - outermost line of the thread
                    log.error("fault %s", fields(part=threading.current_thread().name, error=trace(exc)))
                    wait_s = 5.0

        return loop

    def _warn_of_gaps(self) -> None:
        if not self._config.destinations:
            log.warning("no peer is configured with results = true: reports are made, and sent to nobody")
        for peer in self._config.destinations:
            if peer.only_positive:
                log.warning("%s gets positive results only: silence there means absent, or not looked at", peer.name)
        if not self._config.node.allowed_senders and not self._config.peers:
            log.warning("node.allowed_senders is empty and there are no peers: every sender is rejected")


class Hint:
    """Wakes those who wait for it, so that what was done is taken up at once and not at their next look."""

    def __init__(self) -> None:
        self._given = threading.Condition()

    def give(self) -> None:
        with self._given:
            self._given.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Whether it was given before the time was over. One given while nobody waits is lost."""
        with self._given:
            return self._given.wait(timeout_s)


class _Lock:
    """Held by the kernel for as long as this process lives; a crash leaves nothing behind."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def take(self) -> bool:
        try:
            import fcntl
        except ImportError:  # not on Windows; there the port alone tells that two services run
            return True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._file.close()


def _only_one(config: Config, database: Database) -> _Lock:
    """One `serve` a data folder with SQLite: two would take each other's jobs for those of a dead one."""
    lock = _Lock(config.node.data_folder / "serve.lock")
    if not database.is_shared and not lock.take():
        raise NodeError(f"another dicom-node serve is running on {config.node.data_folder}; stop it first")
    return lock
