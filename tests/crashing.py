"""A node that is killed again and again while scanners send to it and its PACS misbehaves, and what must hold then.

Real processes (`dicom-node serve` and its worker), real associations, SIGKILL. Whatever was acknowledged is in database
and spool, byte for byte, at every moment; in the end each study has exactly one current report at the PACS, made of all
of its images, all that was asked for storage commitment is committed to, and nothing waits. The model is a stand-in,
and processes are forked from one that has imported the node, as starts would take most of the time otherwise.

What this cannot show: SIGKILL leaves what was written to the kernel, a power cut does not. That the order of name,
write, fsync and commit is the right one is for tests/node/test_spool.py and tests/node/test_database.py to say.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from awkward import MOODS, AwkwardPacs, CommittingScanner
from dying.dying_steps import RECEIVER, STEPS
from dying.nursery import Nursery
from killable import KillableNode
from made import head_series
from running import NODE, SENDER
from untrained import untrained_checkpoint

from dicom_node import digests, scanner, uids
from dicom_node.errors import PeerError, StoreUnavailable
from dicom_node.network import commitment, scu
from dicom_node.network.stand_in import free_port
from dicom_node.report import readback, sr
from dicom_node.store.database import Database
from dicom_node.store.tables import commitments, deliveries, instances, jobs, series
from dtvit.preprocess import preprocessing

SR_CLASSES = {str(sop_class) for sop_class in sr.SR_CLASSES}
CLOCKS_S = (0.0, -7200.0, 0.0, -86400.0)
CONFIG = """
[node]
ae_title = "{node}"
bind = "127.0.0.1"
port = {port}
allowed_senders = ["{sender}"]
data_folder = "{data}"
database_url = "{database}"
min_free_mib = 0
[[peers]]
name = "PACS1"
host = "127.0.0.1"
port = {pacs}
ae_title = "PACS"
timeout_s = 5
objects = ["report", "picture"]
commitment = true
[[peers]]
name = "CT1"
host = "127.0.0.1"
port = {scanner}
ae_title = "{sender}"
timeout_s = 5
results = false
[completion]
settle_s = 0.5
silence_s = 3
reopen_wait_s = 0
[model]
checkpoint = "model.safetensors"
readers = 1
[results]
retry_first_s = 0.2
retry_longest_s = 2
commitment_wait_s = 4
lease_s = {lease}
tries = 10
[commitment]
accept = true
"""


@dataclass
class Study:
    """What a scanner has of one patient, and what of it was acknowledged."""

    uid: str
    items: list[scu.Outgoing]
    digests: dict[str, str]
    """SOP Instance UID -> digest of the data set as it was sent."""
    acknowledged: set[str] = field(default_factory=set)
    transaction: str = ""
    """Transaction UID of the question for storage commitment, once the node has taken it."""

    @property
    def missing(self) -> list[scu.Outgoing]:
        return [item for item in self.items if item.sop_instance_uid not in self.acknowledged]


def data_set_digest(file: Path) -> str:
    """Of a Part 10 file without preamble and File Meta Information, whose length stands at byte 140 (PS3.10 7.1)."""
    content = file.read_bytes()
    return digests.of(content[144 + int.from_bytes(content[140:144], "little") :])


def _end(processes: Sequence[int]) -> bool:
    """SIGKILL; whether there was any to be killed."""
    ended = False
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            ended = True
    return ended


class Soak:
    def __init__(
        self, folder: Path, *, seed: int = 0, data: Path | None = None, database: str = "", full_starts: bool = False
    ) -> None:
        """`data`: the node's data folder, where it is to lie on a file system of its own, to be filled.

        `database`: URL of one on PostgreSQL; `full_starts`: processes start by `python -m dicom_node`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.node = KillableNode(folder / "node", free_port())
        self.node.folder.mkdir()
        self.pacs = AwkwardPacs(folder / "pacs", lambda: self.node.peer)
        self.pacs.start()
        self.scanner = CommittingScanner(SENDER)
        self.data = data or self.node.folder / "data"
        self.filled = data is not None
        versions = (preprocessing("paper"), preprocessing("robust"))
        untrained_checkpoint(self.node.folder / "model.safetensors", preprocessing=versions)
        lease_s = 15 if database else 60  # on PostgreSQL nobody may take the lease of a dead node before it runs out
        ports = {"port": self.node.port, "pacs": self.pacs.port, "scanner": self.scanner.port}
        given = {"data": self.data, "database": database, "lease": lease_s}
        (self.node.folder / "config.toml").write_text(CONFIG.format(node=NODE, sender=SENDER, **ports, **given))
        if not full_starts:
            self.node.nursery = Nursery(self.node.environment)
        self.database = Database(database or f"sqlite:///{self.data / 'node.sqlite'}")
        self.on_postgresql = bool(database)
        self.pace = 1.0 if full_starts else 0.3
        """Of chance waits, so that what is met by a kill in a start is the same."""
        self.studies: list[Study] = []
        self.kills: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.moods: Counter[str] = Counter()
        self.clocks = 0
        self.disks_filled = 0
        self.dies_at_start = False
        self.stopped = threading.Event()
        """Ends `run` after the kill that is under way."""
        self._ends_before = 0
        self._study_uids: dict[Path, str] = {}
        self._numbers = itertools.count(1)
        self._folder = folder
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self._senders: list[threading.Thread] = []

    # What scanners do

    def send_study(self, *, patient: str = "SOAK", images: int = 22) -> Study:
        """A new study, sent over two associations at once until all of it is acknowledged; returns at once."""
        number = next(self._numbers)
        made = head_series(study=uids.fresh(), series=uids.fresh(), PatientID=f"{patient}-{number}")[:images]
        paths = scanner.write(made, self._folder / "ct" / str(number))
        items = [scu.outgoing(path) for path in paths]
        study = Study(
            str(made[0].StudyInstanceUID),
            items,
            {item.sop_instance_uid: data_set_digest(path) for item, path in zip(items, paths, strict=True)},
        )
        self.studies.append(study)
        for half in (items[::2], items[1::2]):
            self._begin(self._send, study, half)
        self._begin(self._ask_to_commit, study)
        return study

    def _begin(self, act: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=act, args=arguments, daemon=True)
        thread.start()
        self._senders.append(thread)

    def _send(self, study: Study, items: Sequence[scu.Outgoing]) -> None:
        while not self._stopping.is_set():
            missing = [item for item in items if item.sop_instance_uid not in study.acknowledged]
            if not missing:
                return
            try:
                for sent in scu.send(self.node.peer, SENDER, missing):
                    if sent.error is None:
                        study.acknowledged.add(sent.item.sop_instance_uid)
            except PeerError:
                pass
            self._stopping.wait(0.1)

    def _ask_to_commit(self, study: Study) -> None:
        """Ask the node to commit to all images of the study, once it has acknowledged them, until it takes that."""
        transaction = uids.fresh()
        references = [(item.sop_class_uid, item.sop_instance_uid) for item in study.items]
        while not self._stopping.wait(0.1):
            if study.missing:
                continue
            with suppress(PeerError):
                commitment.ask(self.node.peer, SENDER, transaction, references, lambda _: None, linger_s=0.0)
                study.transaction = transaction
                return

    # What must hold

    def rows(self, query: sa.Select[Any]) -> list[Any]:
        """Of the node's database, as soon as it can be read: PostgreSQL may be coming up again."""
        deadline = time.monotonic() + 60
        while True:
            try:
                with self.database.read() as connection:
                    return list(connection.execute(query))
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def check_kept(self) -> int:
        """Every acknowledged image is there and whole; returns how many that are."""
        acknowledged = {uid: study.digests[uid] for study in self.studies for uid in list(study.acknowledged)}
        columns = instances.c
        rows = self.rows(sa.select(columns.sop_instance_uid, columns.file, columns.digest, columns.current))
        known = {uid: (file, digest) for uid, file, digest, current in rows if current}
        assert len(known) == len(rows), "an image was filed twice"
        for uid, digest in acknowledged.items():
            assert uid in known, f"{uid} was acknowledged and has no row"
            file, noted = known[uid]
            assert noted == digest, f"{uid}: the row has another digest than what was sent"
            assert data_set_digest(self.data / "spool" / file) == digest, f"{uid}: the file is not what was sent"
        return len(acknowledged)

    def check_reports(self) -> None:
        """Exactly one current report a study at the PACS, on all its images; the same object always the same bytes."""
        reports: dict[str, dict[str, Any]] = {study.uid: {} for study in self.studies}
        for stored in list(self.pacs.stored):
            if stored.sop_class_uid in SR_CLASSES:
                parsed = readback.parse(stored.path)
                seen = reports[parsed.study_instance_uid].setdefault(stored.sop_instance_uid, parsed)
                assert seen == parsed, "the same object was sent with other content"
        for study in self.studies:
            of_study = reports[study.uid]
            superseded = {report.predecessor for report in of_study.values()}
            current = [report for uid, report in of_study.items() if uid not in superseded]
            assert len(current) == 1, f"{len(current)} current reports of {len(of_study)} of one study"
            assert current[0].images_received == len(study.items)

    def check_committed(self) -> None:
        """The node has committed to all images of every study, and holds them."""
        for study in self.studies:
            told = self.scanner.told[study.transaction]
            assert told == (len(study.items), 0), f"the node committed to {told[0]} images and not to {told[1]}"
        held = self.rows(sa.select(sa.func.count()).where(instances.c.committed_at.is_not(None)))[0][0]
        assert held == sum(len(study.items) for study in self.studies), "an image that was committed to is not held"

    def drain(self, timeout_s: float = 600.0) -> None:
        """Let everything come right, without kills; fails if it does not."""
        self.node.take_order_back()
        self.pacs.feel("up")
        self.until(lambda: all(not study.missing for study in self.studies), "all images are acknowledged", timeout_s)
        self.until(self._is_drained, "everything is reported, delivered and committed to", timeout_s)
        self.check_kept()
        self.check_reports()
        self.check_committed()

    def _is_drained(self) -> bool:
        if not all(study.transaction in self.scanner.told for study in self.studies):
            return False
        states = [state for (state,) in self.rows(sa.select(series.c.state))]
        of_last_run = sa.and_(series.c.id == jobs.c.series_id, series.c.run == jobs.c.run)
        open_jobs = sa.select(jobs.c.id).join(series, of_last_run).where(jobs.c.state != "delivered")
        open_commitments = sa.select(deliveries.c.id).where(deliveries.c.commitment.in_(("owed", "asked")))
        unanswered = sa.select(commitments.c.id).where(commitments.c.state == "waiting")
        done = len(states) == len(self.studies) and set(states) <= {"complete"}
        return done and not any(self.rows(query.limit(1)) for query in (open_jobs, open_commitments, unanswered))

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.node.is_dead:
                self.revive()
            assert time.monotonic() < deadline, f"not in {timeout_s:.0f} s: {what}\n{self.state()}"
            time.sleep(0.2)

    def state(self) -> str:
        shown = self.node.command("status", "--json")
        return shown.stdout + shown.stderr + "\n" + "\n".join(self.node.log.splitlines()[-60:])

    # What goes wrong

    def kill(self, which: str) -> None:
        """SIGKILL now: of `receiver`, `worker`, `tree`, a `reader`, or a process of the `database` server's."""
        if which in ("database", "reader"):
            if _end(self._database_processes() if which == "database" else self.node.readers()[:1]):
                self.kills[which] += 1
                self.check_kept()
            return
        assert self.node.process is not None
        victims = self.node.workers() if which != "receiver" else []
        if which != "worker":
            self.node.process.kill()
        if _end(victims) or which != "worker":
            self.kills[which] += 1
        if which != "worker":
            self.node.process.wait(120)
        self.revive()

    def _database_processes(self) -> list[int]:
        """One that serves the node; PostgreSQL ends all others itself then, and recovers from its log."""
        serving = sa.text(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
        )
        victims = [pid for (pid,) in self.rows(serving)]  # type: ignore[arg-type]
        return self._random.sample(victims, min(1, len(victims)))

    def kill_at(self, step: str, count: int = 1, *, timeout_s: float = 30.0) -> bool:
        """Let the process that comes to the step for the `count`-th time die there; False if none came."""
        self._spare_patience()
        self.node.give_order(step, count)
        deadline = time.monotonic() + timeout_s
        while self.node.order.exists() and time.monotonic() < deadline:
            assert not self.node.is_dead or not self.node.order.exists(), self.state()
            time.sleep(0.01)
        if self.node.take_order_back():
            return False
        self.steps[step] += 1
        self.kills["step"] += 1
        assert self.node.process is not None
        if STEPS[step].process == RECEIVER:
            self.node.process.wait(120)
        self.revive()
        return True

    def _spare_patience(self) -> None:
        """`serve` waits longer each time before it starts a worker that ends at once; a new `serve` knows of none."""
        if self.node.worker_ends - self._ends_before >= 2:
            self.kill("tree")

    def revive(self) -> None:
        """Look at what a dead `serve` left, and start it again."""
        if self.node.is_dead:
            self.check_kept()
            again = self._random.random() < 0.3
            for _ in range(self._random.randint(1, 3) if self.dies_at_start and again else 0):
                self.node.launch()
                self._stopping.wait(self._random.uniform(0.0, 3.0 * self.pace))
                assert self.node.process is not None
                self.node.process.kill()
                self.node.process.wait()
                self.kills["while starting"] += 1
                self.check_kept()
            self.node.start()
            self._ends_before = self.node.worker_ends

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """No room; only where the data folder has a file system of its own."""
        ballast = self.data.parent / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
        try:
            yield
        finally:
            ballast.unlink()
        self.disks_filled += 1

    def run(self, kills: int, *, drain_every: int = 10, checked: Callable[[dict[str, Any]], None]) -> None:
        """Kill that often, at random moments and at random steps, with studies under way all the time.

        `checked` gets the figures each time everything has come right.
        """
        self.dies_at_start = True
        self.node.start()
        drained = 0
        while self.kills.total() < kills and not self.stopped.is_set():
            while self.in_flight() < 2:
                self.send_study()
            if self._random.random() < 0.5:
                self.change_something()
            self._kill_somehow()
            if self.kills.total() >= drained + drain_every:
                drained = self.kills.total()
                self.drain()
                checked(self.figures())
        self.drain()
        checked(self.figures())

    def _kill_somehow(self) -> None:
        choose = self._random
        if choose.random() < 0.6:
            step = choose.choice(sorted(STEPS, key=lambda name: (self.steps[name], choose.random()))[:10])
            often = STEPS[step].function.startswith(
                ("dicom_node.receiving.accepting", "dicom_node.store.filing", "os:", "pathlib:")
            )
            often = often and STEPS[step].process == RECEIVER
            self.kill_at(step, choose.randint(1, 20) if often else 1, timeout_s=12.0 * self.pace)
        else:
            self._stopping.wait(choose.uniform(0.0, 3.0 * self.pace))
            self.kill(choose.choice(("receiver", "worker", "tree", "reader", *["database"] * self.on_postgresql)))

    def change_something(self) -> None:
        kinds = ["mood", "mood", "clock", "disk"] if self.filled else ["mood", "mood", "clock"]
        kind = self._random.choice(kinds)
        if kind == "disk":
            with self.full_disk():
                self._stopping.wait(1.0)
                if self._random.random() < 0.5:
                    self.kill("tree")
        elif kind == "clock":
            self.node.put_clock(self._random.choice(CLOCKS_S))
            self.clocks += 1
        else:
            mood = self._random.choice(MOODS)
            self.pacs.feel(mood)
            self.moods[mood] += 1

    def in_flight(self) -> int:
        """Studies not reported at the PACS yet."""
        reported = set()
        for stored in list(self.pacs.stored):
            if stored.sop_class_uid in SR_CLASSES:
                reported.add(self._study_of(stored.path))
        return sum(study.uid not in reported for study in self.studies)

    def _study_of(self, path: Path) -> str:
        if path not in self._study_uids:
            self._study_uids[path] = str(readback.parse(path).study_instance_uid)
        return self._study_uids[path]

    def figures(self) -> dict[str, Any]:
        return {
            "kills": self.kills.total(),
            "by kind": dict(self.kills),
            "steps": dict(self.steps),
            "studies": len(self.studies),
            "images acknowledged": sum(len(study.acknowledged) for study in self.studies),
            "objects at the PACS": len({stored.sop_instance_uid for stored in self.pacs.stored}),
            "sent again": len(self.pacs.stored) - len({stored.sop_instance_uid for stored in self.pacs.stored}),
            "lost by the PACS": self.pacs.lost,
            "committed for scanners": len(self.scanner.told),
            "PACS moods": dict(self.moods),
            "clock moved": self.clocks,
            "disk filled": self.disks_filled,
        }

    def close(self) -> None:
        self._stopping.set()
        if not self.node.is_dead:
            _end(self.node.workers())
            assert self.node.process is not None
            self.node.process.kill()
            self.node.process.wait()
        if self.node.nursery is not None:
            self.node.nursery.close()
        for sender in self._senders:
            sender.join(15)
        self.database.close()
        self.scanner.close()
        self.pacs.feel("up")
        self.pacs.stop()
