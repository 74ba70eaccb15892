"""The service's side of the worker process: starts it, restarts it when it ends, kills it when it seems dead.

The first line of the worker's standard input holds the settings that `serve` was started with, so that a restarted
worker uses them too, whatever config.toml says by then; they may hold a password, which no command line should.
After that the two talk in single bytes. On its standard output the worker gives signs of life, ALIVE or DONE; the end
of its standard input tells it to stop, which also happens when this process dies.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from dicom_node.errors import StoreFull, StoreUnavailable
from dicom_node.logs import fields
from dicom_node.store import jobs
from dicom_node.store.database import Database

log = logging.getLogger("dicom_node.service")

ALIVE = b"."
DONE = b"!"  # alive, and has done something: there may be something to send
START_S = 180.0  # for importing torch and loading a large model from a slow disk
STOP_S = 30.0
LONGEST_RESTART_WAIT_S = 30.0
STEADY_S = 60.0  # a worker that lived this long did not fail at its start: the waits begin anew


class Supervisor:
    def __init__(
        self,
        database: Database,
        command: Callable[[str], Sequence[str]],
        *,
        settings: bytes,
        lease_s: float,
        stopping: threading.Event,
        done: Callable[[], None],
    ) -> None:
        """`command`: the worker's, given the name under which it leases jobs; `settings`: the line that it reads first;
        `done`: called at each DONE.

        A worker silent for `lease_s` has lost its job anyway, and is killed.
        """
        self._database = database
        self._command = command
        self._settings = settings
        self._lease_s = lease_s
        self._stopping = stopping
        self._done = done
        self._last_sign = 0.0
        self._seen_alive = False

    def run(self) -> None:
        """One worker after another until `stopping`; the wait between two grows while they die young."""
        failures = 0
        while not self._stopping.is_set():
            begun = time.monotonic()
            owner = f"{os.getpid()}-{time.time_ns()}"
            code = self._run_once(owner)
            if self._stopping.is_set():
                break
            self._free(owner)
            lasted_s = time.monotonic() - begun
            failures = 0 if lasted_s > STEADY_S else failures + 1
            wait_s = min(LONGEST_RESTART_WAIT_S, 0.5 * 2.0 ** min(failures, 10))
            log.error("worker_ended %s", fields(code=code, after_s=lasted_s, again_in_s=wait_s))
            self._stopping.wait(wait_s)

    def _free(self, owner: str) -> None:
        """Free its leases at once; where the database cannot be written to, they expire by themselves."""
        try:
            with self._database.write() as connection:
                jobs.free(connection, owner=owner, now=time.time())
        except (StoreFull, StoreUnavailable) as exc:
            log.error("waits %s", fields(part="worker", reason=exc))

    def _run_once(self, owner: str) -> int | str:
        """Run it until it ends; returns its exit status, or why it could not be started."""
        # On shared cores, threads that spin while waiting would starve the receiver.
        environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
        try:
            process = subprocess.Popen(
                self._command(owner), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
        except OSError as exc:  # no memory, no process, no file handle: may pass
            return f"not started: {exc}"
        self._last_sign, self._seen_alive = time.monotonic(), False
        try:
            self._hand_over(process)
            threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        except (OSError, RuntimeError) as exc:  # no thread, no file handle: may pass too
            process.kill()
            process.wait()
            return f"not listened to: {exc}"
        while process.poll() is None:
            if self._stopping.wait(0.1):
                return self._stop(process)
            silent_s = time.monotonic() - self._last_sign
            if silent_s > (self._lease_s if self._seen_alive else START_S):
                log.error("worker_hangs %s", fields(silent_s=silent_s))
                process.kill()
                process.wait()
        return process.returncode

    def _hand_over(self, process: subprocess.Popen[bytes]) -> None:
        """The settings, in a thread of their own: what does not fit the pipe waits for a worker that may never read."""
        assert process.stdin is not None
        line = os.fdopen(os.dup(process.stdin.fileno()), "wb")  # so that the original can be closed meanwhile

        def write() -> None:
            with suppress(OSError), line:  # the worker is gone already
                line.write(self._settings)

        threading.Thread(target=write, daemon=True).start()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        while sign := process.stdout.read(1):
            self._last_sign, self._seen_alive = time.monotonic(), True
            if sign == DONE:
                self._done()

    def _stop(self, process: subprocess.Popen[bytes]) -> int:
        assert process.stdin is not None
        process.stdin.close()
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
