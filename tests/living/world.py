"""A node without network and processes, and what may happen to it: all that is done to it, it does itself.

Its own `accept`, `tick`, `Worker.step`, `Sender.tick`, storage commitment, housekeeping and commands, on SQLite, under
a clock that stands still. Anything may happen *between two transactions* of something else (a `Meanwhile`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
import sqlalchemy as sa
from living.images import STUDIES, Image, StandIn, sent
from living.truth import Pacs, Said, Truth, said
from made import CT, NOW, Clock

from dicom_node.administering import retrying, withdrawing
from dicom_node.administering.forgetting import Whom, erase
from dicom_node.config import Commitment, Completion, Config, Eligibility, Model, NodeSection, Peer, Results
from dicom_node.delivering import committing, keeping, sender
from dicom_node.errors import NotFound, NotPossible, PeerRefused, PeerUnreachable
from dicom_node.network import scu
from dicom_node.network.commitment import Report
from dicom_node.receiving.accepting import Acceptor
from dicom_node.receiving.arrivals import Arrivals
from dicom_node.report import sr
from dicom_node.serving import housekeeping
from dicom_node.status import StoreStatus, is_stored
from dicom_node.store import cancelling, jobs, series, tables
from dicom_node.store.database import Connection, Database
from dicom_node.store.results import Version
from dicom_node.store.spool import Spool
from dicom_node.working.worker import Node, Worker
from dtvit import preprocess

DAY_S = 86400.0
KEEP_DAYS = 30.0
LEASE_S = 150.0  # so long that a late image may make another run before it is over
MOODS = ("up", "up", "down", "busy", "refuses", "warns", "hangs up before", "hangs up after")
VICTIM, WITH_A_FILE = "dies", "dies with a file"


class Died(BaseException):
    """As by SIGKILL: no handler of the node may see it."""


@dataclass(frozen=True)
class Meanwhile:
    """At the `moment`-th pause between two transactions of what is going on, something else happens."""

    moment: int
    deed: str
    """One that `World.do` knows, or that a process dies."""
    image: Image
    """The one that arrives; of its series or patient is what else is done."""
    number: int = 0


class _Database(Database):
    """Calls `pause` before and after each transaction, and never within one."""

    pause: Callable[[], None] = staticmethod(lambda: None)
    _depth = 0
    _compiled: dict[Any, Any] = {}  # noqa: RUF012 - shared, as each new database would compile all statements anew
    _dialects: list[sa.Dialect] = []  # noqa: RUF012 - the first one: statements are compiled for one

    def _open(self) -> sa.Engine:
        engine = super()._open()
        self._dialects[1:] = []
        self._dialects.append(engine.dialect)
        engine.dialect = self._dialects[0]
        return engine.execution_options(compiled_cache=self._compiled)

    @contextmanager
    def _apart(self, transaction: Any) -> Iterator[Connection]:
        if not self._depth:
            self.pause()
        self._depth += 1
        try:
            with transaction as connection:
                yield connection
        finally:
            self._depth -= 1
        if not self._depth:
            self.pause()

    def write(self) -> Any:
        return self._apart(super().write())

    def write_alone(self) -> Any:
        return self._apart(super().write_alone())

    def read(self) -> Any:
        return self._apart(super().read())


class _Spool(Spool):
    """Dates its files by the world's clock; may be where a process dies, with the file written and no row yet."""

    kept: Callable[[], None] = staticmethod(lambda: None)
    now: Clock

    def _keep(self, chunks: Sequence[Any]) -> str:
        name = super()._keep(chunks)
        os.utime(self.path(name), (self.now(), self.now()))
        self.kept()
        return name


class World:
    """A node and its surroundings."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder = folder
        self.clock = Clock(NOW)
        self.steady = Clock(0.0)
        """Time that passes, however the clock is set."""
        self.leapt_s = 0.0
        """By how much the clock was ever set forward."""
        self.truth = Truth()
        self.pacs = {name: Pacs() for name in ("PACS1", "PACS2")}
        self.destinations = ["PACS1"]
        self.model = "a" * 64
        self.meanwhile: list[Meanwhile] = []
        self.forgotten: set[str] = set()
        """Series of which a person had images erased."""
        self.went_by_age: set[str] = set()
        """Studies of which a series was deleted by its age: what was passed over for it had its result."""
        self.erased: list[str] = []
        """Patients whom a person had forgotten, in order."""
        self.workers = 0
        self.kept_copy: tuple[Path, Any] | None = None
        self.questions = 0
        self.done: Counter[str] = Counter()
        (folder / "data").mkdir(parents=True)
        shutil.copyfile(template, folder / "data" / "node.sqlite")
        self.start()

    # --- processes

    def start(self) -> None:
        """As `serve` wires its parts at its start."""
        peers = [
            Peer(
                name=name,
                host="127.0.0.1",
                port=1,
                ae_title=name,
                objects=("report", "key_objects") if name == "PACS1" else ("report",),
                commitment=name == "PACS1",
                withdraw_by="quality" if name == "PACS1" else "nothing",
            )
            for name in self.destinations
        ]
        scanner = Peer(name="CT", host="127.0.0.1", port=1, ae_title="CT1", results=False)
        self.config = Config(
            node=NodeSection(data_folder=self.folder / "data", min_free_mib=0),
            peers=(*peers, scanner),
            completion=Completion(min_cover_mm=60.0, reopen_wait_s=5.0),
            results=Results(lease_s=LEASE_S),
            eligibility=Eligibility(min_slices=3, max_thickness_mm=25.0),
            model=Model(brace_removal="paper"),
            commitment=Commitment(accept=True),
        )
        self.database = _Database(self.config.database_url)
        self.database.pause = self.pause  # type: ignore[method-assign]
        self.spool = _Spool(self.folder / "data" / "spool")
        self.spool.now, self.spool.kept = self.clock, self._file_kept  # type: ignore[method-assign]
        self.spool.prepare()
        with Database.write(self.database) as connection:
            jobs.free(connection, now=self.clock())
        classifier = StandIn(self.model)
        self.version = Version(classifier.checkpoint.digest, preprocess.preprocessing("paper"))
        self.acceptor = Acceptor(
            self.database,
            self.spool,
            rules=self.config.eligibility,
            backlog=self.config.backlog,
            reopen_wait_s=self.config.completion.reopen_wait_s,
            clock=self.clock,
        )
        self.arrivals = Arrivals(
            self.database,
            self.spool,
            waits=self.config.completion,
            rules=self.config.eligibility,
            version=self.version,
            clock=self.clock,
            association_open=lambda _: False,
        )
        given: dict[str, Any] = {"clock": self.clock, "jitter": lambda: 0.0}
        self.reports = committing.Reports(self.database, self.config, **given)
        self.senders = {
            peer.name: sender.Sender(
                self.database, self.spool, peer, self.config.results, ae_title="DICOM_NODE", **given
            )
            for peer in self.config.destinations
        }
        self.askers = [
            committing.Asker(self.database, peer, self.config, self.reports, **given, linger_s=0.0)
            for peer in self.config.destinations
            if peer.commitment
        ]
        self.keeper = keeping.Keeper(self.database, self.spool, self.config, clock=self.clock)
        self.answerers = keeping.answerers(self.database, self.spool, self.config, **given)
        self.leaps = housekeeping.Leaps(clock=self.clock, steady=self.steady)
        self.worker, self.owner = self.new_worker(), f"worker-{self.workers}"

    def new_worker(self) -> Worker:
        self.workers += 1
        return Worker(
            self.database,
            self.spool,
            StandIn(self.model),
            self.config,
            node=Node("2.25.100", "DICOM_NODE"),
            owner=f"worker-{self.workers}",
            clock=self.clock,
        )

    def restart(self) -> None:
        """The whole tree is killed, and started again; what no database or file holds is gone."""
        self._pausing = False
        self.meanwhile = []
        self.database.close()
        self.start()

    # --- what happens between two transactions

    _pausing = False
    _moment = 0
    _arriving = False

    def pause(self) -> None:
        if not self._pausing or not self.meanwhile or self.meanwhile[0].deed == WITH_A_FILE:
            return
        self._moment += 1
        if self._moment < self.meanwhile[0].moment:
            return
        one = self.meanwhile.pop(0)
        self._pausing = False
        if one.deed == VICTIM:
            self.done["died between transactions"] += 1
            raise Died
        self.do(one.deed, one.image, one.number)
        self._pausing = True

    def _file_kept(self) -> None:
        if self._pausing and self.meanwhile and self.meanwhile[0].deed == WITH_A_FILE:
            self.meanwhile.pop(0)
            self.done["died with a file"] += 1
            raise Died

    @contextmanager
    def interrupted(self, meanwhile: Meanwhile | None) -> Iterator[None]:
        """For the block: what happens in its pauses."""
        self.meanwhile, self._moment, self._pausing = [meanwhile] if meanwhile else [], 0, meanwhile is not None
        try:
            yield
        finally:
            self.meanwhile, self._pausing = [], False

    def do(self, deed: str, image: Image, number: int = 0) -> None:
        """One thing, whole, by name: what may happen in a pause of another."""
        self.done[f"meanwhile {deed}"] += 1
        match deed:
            case "arrives":
                if not self._arriving:  # it would wait until the other is filed, for ever in this one thread
                    self.arrive(image)
            case "tick":
                self.arrivals.tick()
            case "other worker":
                self.pass_time(LEASE_S + 1.0)
                self.new_worker().step()
            case "sends":
                self.deliver("PACS1")
            case "asks":
                self.ask_for_commitment()
            case "withdraw":
                self.withdraw(image.series)
            case "retry":
                self.retry(image.series, again=number % 2 == 1, keep=(None, "first", "last")[number % 3])
            case "clock back":
                self.set_clock(-7200.0)
            case "time":
                self.pass_time(61.0)
            case "forget":
                self.forget(image.patient)
            case _:
                raise AssertionError(deed)

    # --- time

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.steady.advance(seconds)

    def set_clock(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.leapt_s += max(0.0, seconds)

    # --- scanners

    def arrive(self, image: Image) -> None:
        """A scanner sends it until it is acknowledged."""
        self.done["images"] += 1
        self._arriving = True
        status, before = None, len(self.erased)
        while status != StoreStatus.SUCCESS:
            try:
                status = self.acceptor.accept(sent(image))
            except Died:
                self.restart()
            # A700: erased in this very moment, as its patient was forgotten
            assert status in (None, StoreStatus.SUCCESS, StoreStatus.OUT_OF_RESOURCES), status
        self._arriving = False
        self.truth.arrived(image, self.steady())
        is_filed = tables.instances.c.digest == sent(image).digest
        if image.patient in self.erased[before:] and not self.rows(sa.select(tables.instances.c.id).where(is_filed)):
            self._is_erased(image.patient, {image.series})  # between its row and its answer

    def promise(self, series_uid: str) -> None:
        """A scanner asks for commitment to what counts of a series."""
        images = sorted(one.uid for one in self.truth.of_series(series_uid))
        if not images:
            return
        self.questions += 1
        transaction = f"1.3.{self.questions}"
        self.keeper.asked("CT1", transaction, [(CT, uid) for uid in images])

    # --- the node's own threads

    def tick(self) -> None:
        try:
            self.arrivals.tick()
        except Died:
            self.restart()

    def work(self, *, noticed: bool = True) -> bool:
        """One step of the worker; if it dies, `serve` starts another, having freed what it held, or not yet."""
        try:
            return self.worker.step()
        except Died:
            self._pausing = False
            if noticed:
                with self.database.write() as connection:
                    jobs.free(connection, owner=self.owner, now=self.clock())
            self.worker, self.owner = self.new_worker(), f"worker-{self.workers}"
            return True

    def deliver(self, name: str) -> int:
        if name not in self.senders:
            return 0
        try:
            return self.senders[name].tick()
        except Died:
            self.restart()
            return 1

    def ask_for_commitment(self) -> int:
        try:
            return sum(asker.tick() for asker in self.askers)
        except Died:
            self.restart()
            return 1

    def answer_commitment(self) -> None:
        try:
            for answerer in self.answerers:
                answerer.tick()
        except Died:
            self.restart()

    def tidy(self) -> None:
        """As the service does every hour."""
        if self.leaps.lately():
            return
        before = self.rows(sa.select(tables.series.c.id, tables.series.c.series_uid))
        try:
            housekeeping.tidy(self.database, self.spool, self.config, clock=self.clock)
        except Died:
            self.restart()
        left = {row.id for row in self.rows(sa.select(tables.series.c.id))}
        for row in before:
            if row.id not in left:
                self._may_go(row.series_uid)

    def _may_go(self, series_uid: str) -> None:
        self.done["series deleted by age"] += 1
        self.kept_copy = None
        since = self.steady() + self.leapt_s - KEEP_DAYS * DAY_S
        for one in [one for versions in self.truth.versions.values() for one in versions if one.series == series_uid]:
            assert self.truth.last_at[one] <= since, f"{one.uid} was deleted before its retention ended"
            assert one not in self.truth.promised, f"{one.uid} was deleted although promised"
        self.truth.spoil(series_uid)
        self.truth.drop(lambda one: one.series == series_uid)
        self.went_by_age.add(self.truth.study_of.pop(series_uid))
        self.excuse(lambda one: series_uid in one.series)

    def go_on(self) -> None:
        """Every thread and the worker do all there is to do."""
        self.tick()
        for act in (self.work, *(partial(self.deliver, name) for name in list(self.senders))):
            rounds = 0
            while act():
                rounds += 1
                assert rounds < 200, "it never comes to an end"
        self.ask_for_commitment()
        self.answer_commitment()

    # --- persons

    def command(self, act: Callable[[], None]) -> bool:
        """False where the node says that it is not possible."""
        try:
            act()
        except (NotPossible, NotFound):
            return False
        except Died:
            self.restart()
        return True

    def one(self, series_uid: str) -> Any:
        with Database.read(self.database) as connection:
            found = [one for one in series.find(connection, series_uid) if one.series_uid == series_uid]
        return found[0] if found else None

    def withdraw(self, series_uid: str) -> None:
        one = self.one(series_uid)
        if one is None:
            return

        def act() -> None:
            withdrawing.withdraw(
                self.database,
                self.spool,
                self.config,
                one,
                why="wrong patient",
                checkpoint=StandIn(self.model).checkpoint,
                device_uid="2.25.100",
                now=self.clock(),
            )
            self.done["withdrawn"] += 1

        held = {
            name: [u for u, c in pacs.holds.items() if series_uid in said(c).series] for name, pacs in self.pacs.items()
        }
        if self.command(act):
            self.truth.spoil(series_uid)
            for name, uids in held.items():
                if name != "PACS1" or name not in self.destinations:
                    self.pacs[name].excused |= set(uids)  # the answer says so

    def retry(self, series_uid: str, *, again: bool, keep: str | None) -> None:
        one = self.one(series_uid)
        if one is None:
            return

        def act() -> None:
            with self.database.write() as connection:
                retrying.retry(connection, one, self.config.eligibility, again=again, keep=keep, now=self.clock())
            self.done["retried"] += 1

        if self.command(act):
            self.truth.spoil(series_uid)
            if keep is not None:
                self.truth.decide(series_uid, keep)

    def forget(self, patient: str) -> None:
        def act() -> None:
            erase(self.database, self.spool, Whom(patient_id=patient), now=self.clock())
            self.done["forgotten"] += 1

        self.kept_copy = None  # backups are out of reach, and would name files that are gone
        touched = {
            one.series for versions in self.truth.versions.values() for one in versions if one.patient == patient
        }
        self.command(act)
        self._is_erased(patient, touched)

    def _is_erased(self, patient: str, touched: set[str]) -> None:
        self.erased.append(patient)
        self.truth.spoil(*touched)
        self.forgotten |= touched
        self.excuse(lambda one: one.patient == patient or bool(one.series & touched))
        kept = {row.digest for row in self.rows(sa.select(tables.instances.c.digest))}
        self.truth.drop(lambda one: sent(one).digest not in kept)
        known = {row.series_uid for row in self.rows(sa.select(tables.series.c.series_uid))}
        self.truth.study_of = {uid: study for uid, study in self.truth.study_of.items() if uid in known}
        assert not [one for versions in self.truth.versions.values() for one in versions if one.patient == patient]
        for name in self.spool.stored():
            ds = pydicom.dcmread(self.spool.path(name), stop_before_pixels=True)
            assert ds.PatientID != patient, "a file of a forgotten patient is left"

    def excuse(self, which: Callable[[Said], bool]) -> None:
        """What PACS have of this is for a person to remove there."""
        for pacs in self.pacs.values():
            pacs.excused |= {uid for uid, content in pacs.holds.items() if which(said(content))}

    def change_destinations(self, names: Sequence[str], *, cancels: bool) -> None:
        """config.toml is changed and `serve` started again; what is owed to one that is gone is cancelled, or waits."""
        gone = [name for name in self.destinations if name not in names]
        for name in gone:  # nobody keeps it up to date any longer
            self.pacs[name].excused |= set(self.pacs[name].holds)
        self.destinations = list(names)
        self.restart()
        for name in gone:
            if cancels:
                with self.database.write() as connection:
                    cancelling.cancel_for(connection, name, now=self.clock())

    # --- backups

    def back_up(self) -> None:
        copy = self.folder / "backup.sqlite"
        copy.unlink(missing_ok=True)
        with Database.read(self.database) as connection:
            driver: Any = connection.connection.driver_connection
            driver.commit()
            driver.execute(f"VACUUM INTO '{copy}'")
        self.kept_copy = copy, deepcopy((self.truth, self.forgotten))

    def restore(self, *, sends_spool: bool) -> None:
        """Put the backup back as docs/running.md says: with what it does not know removed from PACS by a person, and
        what is in the spool sent again, or not."""
        if self.kept_copy is None:
            return
        copy, known = self.kept_copy
        later = [one for versions in self.truth.versions.values() for one in versions]
        self.database.close()
        data = self.folder / "data"
        for suffix in ("-wal", "-shm"):
            (data / f"node.sqlite{suffix}").unlink(missing_ok=True)
        shutil.copyfile(copy, data / "node.sqlite")
        self.truth, self.forgotten = deepcopy(known)
        self.truth.plain = dict.fromkeys(STUDIES, False)
        self.restart()
        sent_by_then = (
            sa.select(tables.objects.c.sop_instance_uid)
            .join(tables.deliveries)
            .where(sa.or_(tables.deliveries.c.state == "delivered", tables.deliveries.c.begun_at.is_not(None)))
        )
        known_there = {row.sop_instance_uid for row in self.rows(sent_by_then)}
        for pacs in self.pacs.values():
            pacs.holds = {uid: content for uid, content in pacs.holds.items() if uid in known_there}
        self.done["restored"] += 1
        for image in later if sends_spool else ():
            self.arrive(image)

    # --- PACS

    def send(self, peer: Peer, _: str, items: Sequence[scu.Outgoing], *, still: Any) -> Iterator[scu.Sent]:
        """In place of `scu.send`, with the same contract."""
        pacs = self.pacs[peer.name]
        if items and pacs.mood == "down":
            raise PeerUnreachable("down")
        for item in items:
            if not still(item):
                continue
            try:
                content = item.path.read_bytes()
            except FileNotFoundError:  # forgotten in this very moment
                yield scu.Sent(item, None, PeerRefused("gone"))
                continue
            self._is_true_now(said(content), peer.name)
            self.pause()
            mood = pacs.mood
            if mood == "hangs up before":
                raise scu.AssociationBroken("hung up", item)
            status = {"busy": 0xA700, "refuses": 0xA900, "warns": 0xB000}.get(mood, 0)
            if not pacs.takes_3d and item.sop_class_uid == sr.SR_CLASSES[0]:
                status = StoreStatus.SOP_CLASS_NOT_SUPPORTED
            if is_stored(status):
                self._stored(peer.name, item.sop_instance_uid, content)
            self.pause()
            if mood == "hangs up after":
                raise scu.AssociationBroken("hung up", item)
            kind = PeerUnreachable if status == 0xA700 else PeerRefused
            yield scu.Sent(item, status, None if is_stored(status) else kind("no", status))

    def _stored(self, name: str, uid: str, content: bytes) -> None:
        pacs, digest = self.pacs[name], hashlib.sha256(content).hexdigest()
        assert pacs.ever.setdefault(uid, digest) == digest, f"{uid} was sent with two contents"
        one = said(content)
        newer = [each for each in map(said, pacs.holds.values()) if one.uid in each.replaces and each.is_report]
        assert uid in pacs.holds or not newer, f"{name} got a report after the one that supersedes it"
        pacs.holds[uid] = content
        self.done["objects stored"] += 1

    def _is_true_now(self, one: Said, name: str) -> None:
        """At the moment of sending, the images still belong to the patient whom the object names."""
        if one.is_rejection:
            return
        for uid in one.images:
            owners = self.truth.patients_of(uid)
            assert not owners or one.patient in owners, f"{name} is sent {one.patient}'s object about {uid} of {owners}"

    def ask(self, peer: Peer, _: str, transaction: str, references: Any, on_report: Any, **__: Any) -> None:
        """In place of storage commitment's `ask`: a PACS that is down cannot be asked, a busy one never answers, and
        one that refuses has lost what it is asked about."""
        pacs = self.pacs[peer.name]
        if pacs.mood == "down":
            raise PeerUnreachable("down")
        if pacs.mood == "refuses":
            for _, uid in references:
                pacs.holds.pop(uid, None)
        if pacs.mood == "busy":
            return
        uids = {uid for _, uid in references}
        on_report(
            Report(transaction, frozenset(uids & pacs.holds.keys()), dict.fromkeys(uids - pacs.holds.keys(), 274))
        )

    def report_commitment(self, _: Peer, __: str, ___: str, answers: Sequence[tuple[str, str, int | None]]) -> None:
        """In place of storage commitment's `report`."""
        for _, uid, reason in answers:
            held = self.truth.counts.get(uid, set())
            if reason is None and (held or not self.done["forgotten"]):  # unless it was forgotten in this very moment
                assert held, f"the node commits to {uid}, which it does not hold"
                self.truth.promised |= held

    # --- the world's own view

    def rows(self, query: Any) -> list[Any]:
        with Database.read(self.database) as connection:
            return list(connection.execute(query))
