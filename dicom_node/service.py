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
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from dicom_node import committing, housekeeping
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

log = logging.getLogger("dicom_node.service")

TICK_S = 0.25
DONE = b"!"  # among the worker's signs of life: it has done something, and there may be something to send
TIDY_S = 3600.0
ASK_S = 2.0  # what was delivered meanwhile goes into one question
WORKER_START_S = 180.0  # importing torch and loading a large model from a slow disk
WORKER_STOP_S = 30.0
LONGEST_RESTART_WAIT_S = 30.0


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
        node = self._config.node
        if database.url.get_backend_name() == "sqlite":  # then whatever is begun is of an earlier life of this node
            self._forget_earlier_life(database)
        receiver: Receiver | None = None
        arrivals = Arrivals(
            database,
            spool,
            waits=self._config.completion,
            rules=self._config.eligibility,
            backlog=self._config.backlog,
            version=self._version,
            clock=time.time,
            association_open=lambda aet: receiver is not None and receiver.has_open_association(aet),
        )
        reports = committing.Reports(database, self._config)
        keeper = committing.Keeper(database, spool, self._config) if self._config.commitment.accept else None
        receiver = Receiver(
            arrivals.accept,
            scp.rules_of(self._config, spool.has_room),
            bind=node.bind,
            port=node.port,
            services=[commitment.service(reports.take, keeper.asked if keeper else None)],
        )
        port = receiver.start()
        gc.freeze()  # what was imported stays: to look through it takes 0.1 s, in which nothing is received
        self._warn_of_gaps()
        log.info("ready %s", fields(ae_title=node.ae_title, port=port))
        worker = _WorkerProcess(self._config, self._config_path, database, self._stopping, self._done.give)
        self._loop("worker", worker.run)
        self._loop("arrivals", self._every(TICK_S, arrivals.tick))
        self._loop("heartbeat", self._every(heartbeats.EVERY_S, lambda: self._beat(database), first_s=0.0))
        self._loop("housekeeping", self._every(TIDY_S, lambda: self._tidy(database, spool)))
        if self._config.completion.count_from:
            counting = self._config.peer(self._config.completion.count_from)
            counts = Counts(
                database,
                lambda study, series: scu.count_instances(counting, node.ae_title, study, series),
                settle_s=self._config.completion.settle_s,
                clock=time.time,
            )
            self._loop("counts", self._every(TICK_S, counts.tick))
        for peer in self._config.destinations:
            sender = Sender(database, spool, peer, self._config.results, ae_title=node.ae_title)
            self._loop(f"sender-{peer.name}", self._every(TICK_S, sender.tick, hint=self._done))
            if peer.commitment:
                asker = committing.Asker(database, peer, self._config, reports)
                self._loop(f"commitment-{peer.name}", self._every(ASK_S, asker.tick))
        if keeper is not None:
            self._loop("commitment", self._every(ASK_S, keeper.tick))
        self._stopping.wait()
        log.info("stopping")
        self._done.give()
        receiver.stop()
        for thread in self._threads:
            thread.join(WORKER_STOP_S + 10.0)
        with contextlib.suppress(NodeError), database.write() as connection:
            heartbeats.end(connection, self._owner)
        log.info("stopped")

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


class _WorkerProcess:
    """Starts the worker, starts it again when it ends, and ends it when it gives no sign of life.

    `done` is called when it says that it did something.
    """

    def __init__(
        self,
        config: Config,
        config_path: Path,
        database: Database,
        stopping: threading.Event,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._config_path = config_path
        self._database = database
        self._stopping = stopping
        self._done = done
        self._last_sign = 0.0
        self._seen_alive = False

    def run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            begun = time.monotonic()
            owner = f"{os.getpid()}-{time.time_ns()}"
            code = self._run_once(owner)
            if self._stopping.is_set():
                break
            self._free(owner)
            lasted_s = time.monotonic() - begun
            failures = 0 if lasted_s > 60.0 else failures + 1
            wait_s = min(LONGEST_RESTART_WAIT_S, 0.5 * 2.0 ** min(failures, 10))
            log.error("worker_ended %s", fields(code=code, after_s=lasted_s, again_in_s=wait_s))
            self._stopping.wait(wait_s)

    def _free(self, owner: str) -> None:
        """Take its leases at once; where the database cannot be written to, they run out by themselves."""
        try:
            with self._database.write() as connection:
                jobs.free(connection, owner=owner, now=time.time())
        except (StoreFull, StoreUnavailable) as exc:
            log.error("waits %s", fields(part="worker", reason=exc))

    def _run_once(self, owner: str) -> int | str:
        """Until it ends; its exit status, or why it could not be started."""
        command = [sys.executable, "-m", "dicom_node", "worker", "--config", str(self._config_path), "--owner", owner]
        environment = os.environ | {
            "OMP_WAIT_POLICY": "passive"
        }  # on shared cores, spinning threads starve the receiver
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        except OSError as exc:  # no memory, no process, no file handle: may pass
            return f"not started: {exc}"
        self._last_sign, self._seen_alive = time.monotonic(), False
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        while process.poll() is None:
            if self._stopping.wait(0.1):
                return self._stop(process)
            silent_s = time.monotonic() - self._last_sign
            if silent_s > (self._config.results.lease_s if self._seen_alive else WORKER_START_S):
                log.error("worker_hangs %s", fields(silent_s=silent_s))
                process.kill()
                process.wait()
        return process.returncode

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        while sign := process.stdout.read(1):
            self._last_sign, self._seen_alive = time.monotonic(), True
            if sign == DONE:
                self._done()

    def _stop(self, process: subprocess.Popen[bytes]) -> int:
        assert process.stdin is not None
        process.stdin.close()  # the worker takes the end of its input as the word to stop, as when this process dies
        try:
            return process.wait(WORKER_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


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
    if database.url.get_backend_name() == "sqlite" and not lock.take():
        raise NodeError(f"another dicom-node serve is running on {config.node.data_folder}; stop it first")
    return lock
