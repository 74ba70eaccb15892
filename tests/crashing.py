"""A node that is killed again and again while scanners send to it and its PACS misbehaves, and what must hold then.

Real processes (`dicom-node serve` and its worker), real associations, SIGKILL. Whatever was acknowledged is in database
and spool, byte for byte, at every moment; in the end each study has exactly one current report at the PACS, made of all
of its images, and nothing waits. The model is a stand-in, because its start would take most of the time.

What this cannot show: SIGKILL leaves what was written to the kernel, a power cut does not. That the order of write,
fsync, rename and commit is the right one is for tests/test_spool.py and tests/test_database.py to say.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dying.dying_steps import RECEIVER, STEPS
from made import head_series
from running import NODE, SENDER, RunningNode
from untrained import untrained_checkpoint

from dicom_node import scanner, uids
from dicom_node.errors import PeerError
from dicom_node.network import scu
from dicom_node.network.stand_in import StandInPacs, free_port
from dicom_node.report import sr
from dicom_node.status import StoreStatus
from dtvit.preprocess import preprocessing

HERE = Path(__file__).resolve().parent
SR_CLASSES = {str(sop_class) for sop_class in sr.SR_CLASSES}
MOODS = ("up", "up", "up", "down", "slow", "busy", "rejecting", "dropping")
CLOCKS_S = (0.0, -7200.0, 0.0, -86400.0)
CONFIG = """
[node]
ae_title = "{node}"
bind = "127.0.0.1"
port = {port}
allowed_senders = ["{sender}"]
data_folder = "{data}"
min_free_mib = 0
[[peers]]
name = "PACS1"
host = "127.0.0.1"
port = {pacs}
ae_title = "PACS"
timeout_s = 5
objects = ["report", "picture"]
[completion]
settle_s = 1
silence_s = 3
reopen_wait_s = 0
[model]
checkpoint = "model.safetensors"
[results]
retry_first_s = 0.2
retry_longest_s = 2
lease_s = 60
tries = 10
"""


class AwkwardPacs(StandInPacs):
    """Stores what it is sent, in the mood for it."""

    mood = "up"

    def feel(self, mood: str) -> None:
        if mood == "down" and self.mood != "down":
            self.stop()
        elif mood != "down" and self.mood == "down":
            self.start()
        self._ae.require_calling_aet = ["NOBODY"] if mood == "rejecting" else []
        self.mood = mood

    def _on_store(self, event: Any) -> int:
        if self.mood == "slow":
            threading.Event().wait(0.7)
        if self.mood == "busy":
            return int(StoreStatus.OUT_OF_RESOURCES)
        if self.mood == "dropping":
            if random.random() < 0.5:
                super()._on_store(event)  # it has the object, and its answer is lost
            event.assoc.abort()
            return int(StoreStatus.PROCESSING_FAILURE)
        return super()._on_store(event)


@dataclass
class Study:
    """What a scanner has of one patient, and what of it was acknowledged."""

    uid: str
    items: list[scu.Outgoing]
    sha256: dict[str, str]
    """SOP Instance UID -> digest of the data set as it was sent."""
    acknowledged: set[str] = field(default_factory=set)

    @property
    def missing(self) -> list[scu.Outgoing]:
        return [item for item in self.items if item.sop_instance_uid not in self.acknowledged]


def data_set_sha256(file: Path) -> str:
    """Of a Part 10 file without preamble and File Meta Information, whose length stands at byte 140 (PS3.10 7.1)."""
    content = file.read_bytes()
    return hashlib.sha256(content[144 + int.from_bytes(content[140:144], "little") :]).hexdigest()


class KillableNode(RunningNode):
    """`dicom-node serve` whose processes obey orders to die, see tests/dying."""

    @property
    def order(self) -> Path:
        return self.folder / "order"

    @property
    def clock(self) -> Path:
        return self.folder / "clock"

    def launch(self) -> int:
        """Start, and do not wait; returns the length of the log before."""
        wishes = {
            "PYTHONPATH": os.pathsep.join([str(HERE / "dying"), str(HERE.parent)]),
            "DICOM_NODE_DIE_BY": str(self.order),
            "DICOM_NODE_CLOCK": str(self.clock),
            "DICOM_NODE_STAND_IN": "0.01",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(self.folder / "config.toml")]
        before = self._log_size()
        with (self.folder / "node.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | wishes)
        return before

    def start(self) -> None:
        """Start, and again if it is killed before it listens."""
        for _ in range(5):
            ready = self.launch()
            assert self.process is not None
            while self.process.poll() is None:
                if " ready ae_title=" in self.log[ready:]:
                    return
                time.sleep(0.02)
            assert self.process.returncode == -signal.SIGKILL, f"it ended by itself:\n{self.log[ready:]}"
        raise AssertionError("it does not come up")

    def _log_size(self) -> int:
        return len(self.log) if (self.folder / "node.log").exists() else 0

    def give_order(self, step: str, count: int) -> None:
        new = self.order.with_suffix(".new")
        new.write_text(f"{count} {step}\n{time.monotonic_ns()}")
        new.rename(self.order)

    def take_order_back(self) -> bool:
        """Whether nobody had obeyed it."""
        try:
            self.order.unlink()
        except FileNotFoundError:
            return False
        return True

    def put_clock(self, seconds: float) -> None:
        new = self.clock.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self.clock)

    def workers(self) -> list[int]:
        """Process IDs of what `serve` has started and not outlived."""
        assert self.process is not None
        found: list[int] = []
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, task.read_text().split())
        return found

    @property
    def is_dead(self) -> bool:
        return self.process is None or self.process.poll() is not None


class Soak:
    def __init__(self, folder: Path, *, seed: int = 0, data: Path | None = None) -> None:
        """`data`: the node's data folder, where it is to lie on a file system of its own, to be filled."""
        folder.mkdir(parents=True, exist_ok=True)
        self.pacs = AwkwardPacs(folder / "pacs")
        self.pacs.start()
        self.node = KillableNode(folder / "node", free_port())
        self.node.folder.mkdir()
        self.data = data or self.node.folder / "data"
        self.filled = data is not None
        versions = (preprocessing("paper"), preprocessing("robust"))
        untrained_checkpoint(self.node.folder / "model.safetensors", preprocessing=versions)
        text = CONFIG.format(node=NODE, sender=SENDER, port=self.node.port, pacs=self.pacs.port, data=self.data)
        (self.node.folder / "config.toml").write_text(text)
        self.studies: list[Study] = []
        self.kills: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.moods: Counter[str] = Counter()
        self.clocks = 0
        self.disks_filled = 0
        self.most_deaths_at_start = 0
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
            {item.sop_instance_uid: data_set_sha256(path) for item, path in zip(items, paths, strict=True)},
        )
        self.studies.append(study)
        for half in (items[::2], items[1::2]):
            sender = threading.Thread(target=self._send, args=(study, half), daemon=True)
            sender.start()
            self._senders.append(sender)
        return study

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

    # What must hold

    def check_kept(self) -> int:
        """Every acknowledged image is there and whole; returns how many that are."""
        acknowledged = {uid: study.sha256[uid] for study in self.studies for uid in list(study.acknowledged)}
        with sqlite3.connect(self.data / "node.sqlite", timeout=30) as connection:
            rows = connection.execute("SELECT sop_instance_uid, file, sha256, current FROM instances").fetchall()
            connection.execute("PRAGMA query_only = 1")
        known = {uid: (file, sha256) for uid, file, sha256, current in rows if current}
        assert len(known) == len(rows), "an image was filed twice"
        for uid, sha256 in acknowledged.items():
            assert uid in known, f"{uid} was acknowledged and has no row"
            file, noted = known[uid]
            assert noted == sha256, f"{uid}: the row has another digest than what was sent"
            assert data_set_sha256(self.data / "spool" / file) == sha256, f"{uid}: the file is not what was sent"
        return len(acknowledged)

    def check_reports(self) -> None:
        """Exactly one current report a study at the PACS, on all its images; the same object always the same bytes."""
        reports: dict[str, dict[str, Any]] = {study.uid: {} for study in self.studies}
        for stored in list(self.pacs.stored):
            if stored.sop_class_uid in SR_CLASSES:
                parsed = sr.parse(stored.path)
                seen = reports[parsed.study_instance_uid].setdefault(stored.sop_instance_uid, parsed)
                assert seen == parsed, "the same object was sent with other content"
        for study in self.studies:
            of_study = reports[study.uid]
            superseded = {report.predecessor for report in of_study.values()}
            current = [report for uid, report in of_study.items() if uid not in superseded]
            assert len(current) == 1, f"{len(current)} current reports of {len(of_study)} of one study"
            assert current[0].images_received == len(study.items)

    def drain(self, timeout_s: float = 600.0) -> None:
        """Let everything come right, without kills; fails if it does not."""
        self.node.take_order_back()
        self.pacs.feel("up")
        self.until(lambda: all(not study.missing for study in self.studies), "all images are acknowledged", timeout_s)
        self.until(self._is_drained, "everything is reported and delivered", timeout_s)
        self.check_kept()
        self.check_reports()

    def _is_drained(self) -> bool:
        with sqlite3.connect(self.data / "node.sqlite", timeout=30) as connection:
            open_series = connection.execute("SELECT count(*) FROM series WHERE state != 'complete'").fetchone()[0]
            open_jobs = connection.execute(
                "SELECT count(*) FROM jobs JOIN series ON series.id = series_id AND series.run = jobs.run "
                "WHERE jobs.state != 'delivered'"
            ).fetchone()[0]
            known = connection.execute("SELECT count(*) FROM series").fetchone()[0]
        return open_series == open_jobs == 0 and known == len(self.studies)

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.node.is_dead:
                self.revive()
            assert time.monotonic() < deadline, f"not in {timeout_s:.0f} s: {what}\n{self.state()}"
            time.sleep(0.1)

    def state(self) -> str:
        shown = self.node.command("status", "--json")
        return shown.stdout + shown.stderr + "\n" + "\n".join(self.node.log.splitlines()[-60:])

    # What goes wrong

    def kill(self, which: str) -> None:
        """SIGKILL now: of `receiver`, `worker` or `tree`."""
        victims = self.node.workers() if which != "receiver" else []
        assert self.node.process is not None
        if which != "worker":
            self.node.process.kill()
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if which != "worker":
            self.node.process.wait(120)
        self.kills[which] += 1
        self.revive()

    def kill_at(self, step: str, count: int = 1, *, timeout_s: float = 30.0) -> bool:
        """Let the process that comes to the step for the `count`-th time die there; False if none came."""
        self._spare_patience()
        worker_ends = self._worker_ends()
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
        if STEPS[step].process == "receiver":
            self.node.process.wait(120)
        else:
            self.until(lambda: self._worker_ends() > worker_ends, "the worker's end is noticed", 120)
        self.revive()
        return True

    def _worker_ends(self) -> int:
        return self.node.log.count("worker_ended")

    def _spare_patience(self) -> None:
        """`serve` waits longer each time before it starts a worker that ends at once; a new `serve` knows of none."""
        if self._worker_ends() - self._ends_before >= 2:
            self.kill("tree")

    def revive(self) -> None:
        """Look at what a dead `serve` left, and start it again."""
        if self.node.is_dead:
            self.check_kept()
            for _ in range(self._random.randint(0, self.most_deaths_at_start)):
                self.node.launch()
                self._stopping.wait(self._random.uniform(0.0, 3.0))
                assert self.node.process is not None
                self.node.process.kill()
                self.node.process.wait()
                self.kills["while starting"] += 1
                self.check_kept()
            self.node.start()
            self._ends_before = self._worker_ends()

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

    def run(self, kills: int, *, drain_every: int = 10, say: Callable[[str], None] = print) -> None:
        """Kill that often, at random moments and at random steps, with studies under way all the time."""
        self.most_deaths_at_start = 3
        self.node.start()
        choose = self._random
        begun, drained = time.monotonic(), 0
        while self.kills.total() < kills:
            while self._in_flight() < 2:
                self.send_study()
            if choose.random() < 0.3:
                self.change_something()
            if choose.random() < 0.6:
                step = choose.choice(list(STEPS))
                often = STEPS[step].process == RECEIVER and "deliver" not in step and "completion" not in step
                self.kill_at(step, choose.randint(1, 20) if often else 1, timeout_s=12.0)
            else:
                self._stopping.wait(choose.uniform(0.0, 3.0))
                self.kill(choose.choice(("receiver", "worker", "tree")))
            if self.kills.total() >= drained + drain_every:
                drained = self.kills.total()
                self.drain()
                say(f"{time.monotonic() - begun:.0f} s: {json.dumps(self.figures())}")
        self.drain()

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

    def _in_flight(self) -> int:
        """Studies not reported at the PACS yet."""
        reported = set()
        for stored in list(self.pacs.stored):
            if stored.sop_class_uid in SR_CLASSES:
                reported.add(self._study_of(stored.path))
        return sum(study.uid not in reported for study in self.studies)

    def _study_of(self, path: Path) -> str:
        if path not in self._study_uids:
            self._study_uids[path] = str(sr.parse(path).study_instance_uid)
        return self._study_uids[path]

    def figures(self) -> dict[str, Any]:
        return {
            "kills": self.kills.total(),
            "by kind": dict(self.kills),
            "steps met": f"{len(self.steps)} of {len(STEPS)}",
            "studies": len(self.studies),
            "images acknowledged": sum(len(study.acknowledged) for study in self.studies),
            "objects at the PACS": len({stored.sop_instance_uid for stored in self.pacs.stored}),
            "sent again": len(self.pacs.stored) - len({stored.sop_instance_uid for stored in self.pacs.stored}),
            "PACS moods": dict(self.moods),
            "clock moved": self.clocks,
            "disk filled": self.disks_filled,
        }

    def close(self) -> None:
        self._stopping.set()
        if not self.node.is_dead:
            for pid in self.node.workers():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert self.node.process is not None
            self.node.process.kill()
            self.node.process.wait()
        for sender in self._senders:
            sender.join(15)
        self.pacs.feel("up")
        self.pacs.stop()
