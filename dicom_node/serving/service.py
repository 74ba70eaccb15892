"""`dicom-node serve`: one process that receives, decides and sends, and a worker process beside it that it keeps alive.

Everything important is in the database and the spool, so that either process may be killed at any moment; this module
only starts the parts, keeps them running, and stops them cleanly.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from dicom_node.config import Config
from dicom_node.configfile import to_line
from dicom_node.delivering import committing, keeping
from dicom_node.delivering.sender import Sender
from dicom_node.errors import NodeError, StoreFull, StoreUnavailable
from dicom_node.logs import fields
from dicom_node.network import commitment, scp, scu
from dicom_node.network.scp import Receiver
from dicom_node.receiving.accepting import Acceptor
from dicom_node.receiving.arrivals import Arrivals
from dicom_node.receiving.counts import Counts
from dicom_node.serving import housekeeping
from dicom_node.serving.threads import Hint, Threads
from dicom_node.store import heartbeats, jobs, whereabouts
from dicom_node.store.database import Database
from dicom_node.store.opening import made_folder, missing_database, open_store
from dicom_node.store.results import Version
from dicom_node.store.spool import Spool
from dicom_node.working import supervisor
from dicom_node.working.supervisor import Supervisor

log = logging.getLogger("dicom_node.service")

TICK_S = 0.25
TIDY_S = 3600.0
ASK_S = 2.0  # what was delivered meanwhile goes into one request


class Service:
    def __init__(self, config: Config, version: Version) -> None:
        self._config = config
        self._version = version
        self._stopping = threading.Event()
        self._done = Hint()
        self._threads = Threads(self._stopping)
        self._leaps = housekeeping.Leaps()
        self._started_at = time.time()
        self._owner = f"{os.getpid()}-{time.time_ns()}"

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or SIGHUP (a closed terminal). Raises NodeError if it cannot start."""
        ending = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as it is under nohup
            ending.append(signal.SIGHUP)
        for name in ending:
            signal.signal(name, lambda *_: self._stopping.set())
        is_new = missing_database(self._config) is not None
        lock = _only_one(self._config)
        try:
            database, spool = open_store(self._config)
            if is_new:
                hint = "if there was one before, stop this and check that its disk is mounted"
                log.warning("new_node %s", fields(data_folder=self._config.node.data_folder, hint=hint))
            try:
                self._serve(database, spool)
            finally:
                spool.close()
                database.close()
        finally:
            lock.close()

    def _serve(self, database: Database, spool: Spool) -> None:
        if not database.is_shared:  # then whatever is in progress is from an earlier run of this node
            self._forget_earlier_life(database)
        reports = committing.Reports(database, self._config)
        keeper = keeping.Keeper(database, spool, self._config) if self._config.commitment.accept else None
        receiver, arrivals = self._receiving(database, spool, reports, keeper)
        port = receiver.start()
        gc.freeze()  # what was imported stays: scanning it takes 0.1 s, in which nothing is received
        self._warn_of_gaps(database)
        log.info("ready %s", fields(ae_title=self._config.node.ae_title, port=port))
        self._threads.begin("worker", self._supervisor(database).run)
        self._threads.every(TICK_S, "arrivals", arrivals.tick)
        self._threads.every(heartbeats.EVERY_S, "heartbeat", lambda: self._beat(database), first_s=0.0)
        self._threads.every(TIDY_S, "housekeeping", lambda: self._tidy(database, spool))
        self._talk_to_peers(database, spool, reports)
        self._stopping.wait()
        log.info("stopping")
        self._done.give()
        receiver.stop()
        self._threads.join(supervisor.STOP_S + 10.0)
        with contextlib.suppress(NodeError), database.write() as connection:
            heartbeats.end(connection, self._owner)
        log.info("stopped")

    def _receiving(
        self, database: Database, spool: Spool, reports: committing.Reports, keeper: keeping.Keeper | None
    ) -> tuple[Receiver, Arrivals]:
        """The receiver, which has each object accepted, and arrivals, which ask it who may still be sending."""
        acceptor = Acceptor(
            database,
            spool,
            rules=self._config.eligibility,
            backlog=self._config.backlog,
            reopen_wait_s=self._config.completion.reopen_wait_s,
            clock=time.time,
        )
        receiver = Receiver(
            acceptor.accept,
            scp.rules_of(self._config, spool.has_room),
            bind=self._config.node.bind,
            port=self._config.node.port,
            services=[commitment.service(reports.take, keeper.asked if keeper else None)],
        )
        arrivals = Arrivals(
            database,
            spool,
            waits=self._config.completion,
            rules=self._config.eligibility,
            version=self._version,
            clock=time.time,
            association_open=receiver.has_open_association,
        )
        return receiver, arrivals

    def _supervisor(self, database: Database) -> Supervisor:
        return Supervisor(
            database,
            lambda owner: [sys.executable, "-m", "dicom_node", "worker", "--owner", owner],
            settings=to_line(self._config),
            lease_s=self._config.results.lease_s,
            stopping=self._stopping,
            done=self._done.give,
        )

    def _talk_to_peers(self, database: Database, spool: Spool, reports: committing.Reports) -> None:
        """One thread each: a slow peer holds up no other."""
        ae_title = self._config.node.ae_title
        if self._config.completion.count_from:
            counting = self._config.peer(self._config.completion.count_from)
            counts = Counts(
                database,
                lambda study, series: scu.count_instances(counting, ae_title, study, series),
                settle_s=self._config.completion.settle_s,
                clock=time.time,
            )
            self._threads.every(TICK_S, "counts", counts.tick)
        for peer in self._config.destinations:
            sender = Sender(database, spool, peer, self._config.results, ae_title=ae_title)
            self._threads.every(TICK_S, f"sender-{peer.name}", sender.tick, hint=self._done)
            if peer.commitment:
                asker = committing.Asker(database, peer, self._config, reports)
                self._threads.every(ASK_S, f"commitment-{peer.name}", asker.tick)
        if self._config.commitment.accept:
            for answerer in keeping.answerers(database, spool, self._config):
                self._threads.every(ASK_S, f"answers-{answerer.peer.name}", answerer.tick)

    def _forget_earlier_life(self, database: Database) -> None:
        """Free its leases at once. On a full disk they expire by themselves: the node must start, to refuse images."""
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
        if not self._leaps.lately():
            housekeeping.tidy(database, spool, self._config, rest=self._stopping.wait)

    def _warn_of_gaps(self, database: Database) -> None:
        for sentence in self._config.gaps():
            log.warning("gap %s", fields(what=sentence))
        with contextlib.suppress(StoreFull, StoreUnavailable), database.read() as connection:
            for name, count in whereabouts.owed(connection).items():
                if name not in {peer.name for peer in self._config.destinations}:
                    hint = f"add it to config.toml again; if it is gone for good, dicom-node cancel {name}"
                    log.warning("no_such_destination %s", fields(to=name, owed=count, hint=hint))


def _only_one(config: Config) -> contextlib.ExitStack:
    """One `serve` per data folder and one per SQLite database, until what is returned is closed.

    Two would take each other's jobs for a dead one's and each other's files for nobody's, and a newer one would upgrade
    the schema under the first. The kernel holds the locks while this process lives; a crash leaves none. PostgreSQL is
    shared by many.
    """
    held = contextlib.ExitStack()
    database = Database.file(config.database_url)
    if database is None:
        return held
    with made_folder(config) as folder:
        _take(held, folder / "serve.lock", config.node.data_folder)
    with contextlib.suppress(OSError):  # opening it will report that
        database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = database.resolve()
        _take(held, beside.with_name(f"{beside.name}-lock"), database)
    return held


def _take(held: contextlib.ExitStack, path: Path, used: Path) -> None:
    path.touch(mode=0o600)
    lock = held.enter_context(path.open("a"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        held.close()
        raise NodeError(f"another dicom-node serve is running on {used}; stop it first") from exc
