"""Delivery to real Storage SCPs: the same bytes until they are taken, in order, and whatever the peer does."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
import sqlalchemy as sa
from made import Made, peer
from pydicom import uid
from pynetdicom.transport import AssociationSocket
from report_cases import context, findings, headers
from rich.console import Console

from dicom_node.administering import present
from dicom_node.config import Peer
from dicom_node.delivering.sender import Sender
from dicom_node.network import syntaxes
from dicom_node.network.stand_in import StandInPacs, free_port
from dicom_node.report import provenance, readback, sr
from dicom_node.report.context import Reference
from dicom_node.status import StoreStatus, in_words
from dicom_node.store import outbox, overview, series, whereabouts
from dicom_node.store.tables import deliveries, destinations, jobs, objects
from dicom_node.store.tables import series as series_table

SR_88_34, SR_88_33, SR_88_22 = (str(c) for c in sr.SR_CLASSES)


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Callable[..., StandInPacs]]:
    """Starts a stand-in PACS of the given kind."""
    started: list[StandInPacs] = []

    def start(**kind: Any) -> StandInPacs:
        started.append(StandInPacs(tmp_path / f"pacs-{len(started)}", **kind))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.stop()


def owe(
    node: Made,
    number: int = 1,
    *,
    run: int = 1,
    to: str = "PACS1",
    of_series: int | None = None,
    replaces: tuple[Reference, ...] = (),
) -> bytes:
    """A report in the outbox; returns its bytes."""
    instance_uid, series_uid = f"2.25.{number}00{run}", f"2.25.{number}01{run}"
    about = context(sop_instance_uid=instance_uid, series_instance_uid=series_uid, predecessors=replaces)
    made = sr.build(headers(), findings("deep"), about)
    content = provenance.to_bytes(made)
    now = node.clock()
    with node.database.write() as connection:
        if of_series is None:
            values = {"series_uid": f"1.2.{number}", "study_uid": "1.2", "calling_aet": "CT1", "state": "complete"}
            values |= {"run": run, "forced": False, "first_at": now, "last_at": now}
            of_series = connection.execute(
                series_table.insert().values(values).returning(series_table.c.id)
            ).scalar_one()
        job = {"series_id": of_series, "run": run, "state": "reported", "priority": 0, "not_before": now, "tries": 1}
        job_id = connection.execute(jobs.insert().values(job | {"created_at": now}).returning(jobs.c.id)).scalar_one()
        item = outbox.MadeObject(
            "report", SR_88_34, instance_uid, series_uid, node.spool.keep(content), len(content), _sha256(content)
        )
        outbox.put(connection, job_id, [item], [to], now=now)
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sender(node: Made, to: Peer) -> Sender:
    return Sender(
        node.database, node.spool, to, node.config.results, ae_title="NODE", clock=node.clock, jitter=lambda: 0
    )


def states(node: Made) -> list[str]:
    return [row.state for row in node.rows(deliveries)]


def test_a_report_arrives_byte_for_byte_and_its_job_is_delivered(node: Made, pacs: Callable[..., StandInPacs]) -> None:
    content, there = owe(node), pacs()
    sender(node, peer(there.port)).tick()
    arrived = there.stored[0].path.read_bytes()
    meta_ends = 144 + int.from_bytes(content[140:144], "little")
    assert content[meta_ends:] == arrived[144 + int.from_bytes(arrived[140:144], "little") :]
    assert states(node) == ["delivered"]
    assert node.rows(jobs)[0].state == "delivered"
    assert node.rows(deliveries)[0].last_status == 0


def test_what_is_delivered_is_not_sent_again(node: Made, pacs: Callable[..., StandInPacs]) -> None:
    owe(node)
    there = pacs()
    to = sender(node, peer(there.port))
    assert [to.tick(), to.tick()] == [1, 0]
    assert len(there.stored) == 1


def test_a_pacs_that_is_down_gets_the_report_when_it_is_back(node: Made, pacs: Callable[..., StandInPacs]) -> None:
    owe(node)
    port = free_port()
    to = sender(node, peer(port, timeout_s=1.0))
    waits = []
    for _ in range(4):
        to.tick()
        waits.append(node.rows(deliveries)[0].next_at - node.clock())
        node.clock.advance(waits[-1])
    assert waits == [10, 20, 40, 80]
    assert states(node) == ["waiting"]
    there = StandInPacs(node.spool.folder.parent / "pacs")
    there.start(port)
    try:
        to.tick()
    finally:
        there.stop()
    assert states(node) == ["delivered"]


def test_the_wait_never_exceeds_the_longest(node: Made) -> None:
    owe(node)
    with node.database.write() as connection:
        connection.execute(deliveries.update().values(tries=100_000))
    sender(node, peer(free_port(), timeout_s=1.0)).tick()
    assert node.rows(deliveries)[0].next_at - node.clock() == node.config.results.retry_longest_s


def test_when_a_pacs_is_back_all_that_waited_for_it_goes_at_once(node: Made, pacs: Callable[..., StandInPacs]) -> None:
    owe(node, 1)
    sender(node, peer(free_port(), timeout_s=1.0)).tick()
    owe(node, 2)
    there = pacs()
    to = sender(node, peer(there.port))
    assert [to.tick(), to.tick()] == [1, 1]
    assert states(node) == ["delivered", "delivered"]


def test_a_refusal_for_good_waits_for_a_person(node: Made, pacs: Callable[..., StandInPacs]) -> None:
    owe(node)
    there = pacs(answer=lambda _: 0xA900)
    to = sender(node, peer(there.port))
    to.tick()
    node.clock.advance(1e6)
    assert to.tick() == 0
    row = node.rows(deliveries)[0]
    assert (row.state, row.last_status) == ("failed", 0xA900)
    assert "A900" in row.last_error
    with node.database.write() as connection:
        assert outbox.try_again(connection, 1, now=node.clock()) == 1
    there._answer = lambda _: StoreStatus.SUCCESS
    to.tick()
    assert states(node) == ["delivered"]


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0x0110])
def test_trouble_that_passes_is_tried_again(node: Made, pacs: Callable[..., StandInPacs], status: int) -> None:
    owe(node)
    to = sender(node, peer(pacs(answer=lambda _: status).port))
    to.tick()
    row = node.rows(deliveries)[0]
    assert (row.state, row.last_status, row.tries) == ("waiting", status, 1)
    assert row.next_at == node.clock() + 10


@pytest.mark.parametrize("status", [0x0001, 0x0107, 0x0116, 0xB000, 0xB006, 0xB007, 0xB00A])
def test_a_warning_counts_as_stored_and_is_told(
    node: Made, pacs: Callable[..., StandInPacs], caplog: pytest.LogCaptureFixture, status: int
) -> None:
    owe(node)
    with caplog.at_level("WARNING"):
        sender(node, peer(pacs(answer=lambda _: status).port)).tick()
    assert states(node) == ["delivered"]
    assert f"{status:04X}" in caplog.text
    with node.database.read() as connection:
        known = overview.history(connection, 1)
    with (shown := Console(width=300)).capture() as said:
        present.history(shown, known)
    assert f"with the warning {in_words(status)}" in said.get()
    assert f"status={in_words(status)}" in said.get()


def test_success_is_no_warning(node: Made, pacs: Callable[..., StandInPacs], caplog: pytest.LogCaptureFixture) -> None:
    owe(node)
    with caplog.at_level("WARNING"):
        sender(node, peer(pacs().port)).tick()
    assert states(node) == ["delivered"]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("status", "state"),
    [(StoreStatus.DUPLICATE_SOP_INSTANCE, "delivered"), (StoreStatus.OUT_OF_RESOURCES, "waiting")],
)
def test_an_object_whose_answer_was_lost_is_stored_where_the_pacs_says_that_it_has_it_and_nowhere_else(
    node: Made, pacs: Callable[..., StandInPacs], status: StoreStatus, state: str
) -> None:
    owe(node)
    to = sender(node, peer(pacs(answer=lambda _: status).port))
    with node.database.write() as connection:
        now = node.clock()
        outbox.begin(connection, outbox.due(connection, "PACS1", now=now, longest_wait_s=3600)[0], now=now)
    to.tick()
    assert states(node) == [state]


def test_an_object_that_a_pacs_says_to_have_though_it_was_never_sent_is_refused(
    node: Made, pacs: Callable[..., StandInPacs]
) -> None:
    owe(node)
    sender(node, peer(pacs(answer=lambda _: StoreStatus.DUPLICATE_SOP_INSTANCE).port)).tick()
    row = node.rows(deliveries)[0]
    assert (row.state, row.last_status) == ("failed", StoreStatus.DUPLICATE_SOP_INSTANCE)
    assert "0111 (it already has an object with this UID)" in row.last_error


def test_the_log_of_a_delivery_names_the_series_that_commands_take(
    node: Made, pacs: Callable[..., StandInPacs], caplog: pytest.LogCaptureFixture
) -> None:
    owe(node)
    owe(node, 2, run=2, of_series=1)
    to = sender(node, peer(pacs(answer=lambda _: 0x0124).port))
    with caplog.at_level("INFO"):
        to.tick()
        to.tick()
    assert "series=1 job=2 to=PACS1" in caplog.text
    assert "0124 (not authorized)" in caplog.text
    assert "dicom-node retry 1" in caplog.text


@pytest.mark.parametrize("taken", [SR_88_33, SR_88_22])
@pytest.mark.parametrize("also", [(), (syntaxes.STORAGE_CLASSES[0],)])
def test_a_pacs_that_takes_another_sr_class_gets_the_report_in_that_one(
    node: Made, pacs: Callable[..., StandInPacs], taken: str, also: tuple[str, ...]
) -> None:
    owe(node)
    there = pacs(storage_classes=[taken, *also])
    to = sender(node, peer(there.port))
    while to.tick():
        pass
    assert [s.sop_class_uid for s in there.stored] == [taken]
    arrived = pydicom.dcmread(there.stored[0].path)
    original = pydicom.dcmread(node.spool.path(node.rows(objects)[0].file))
    assert arrived.SOPInstanceUID != original.SOPInstanceUID
    assert arrived.SeriesInstanceUID != original.SeriesInstanceUID
    assert readback.parse(arrived).outcome == readback.parse(original).outcome
    assert node.rows(jobs)[0].state == "delivered"
    assert [d.sr_class_uid for d in node.rows(destinations)] == [taken]


def test_a_pacs_that_says_only_when_it_is_sent_one_that_it_takes_no_such_class_gets_the_next(
    node: Made, pacs: Callable[..., StandInPacs]
) -> None:
    owe(node)
    there = pacs(answer=lambda sop_class: 0 if sop_class == SR_88_33 else StoreStatus.SOP_CLASS_NOT_SUPPORTED)
    to = sender(node, peer(there.port))
    while to.tick():
        pass
    assert [s.sop_class_uid for s in there.stored] == [SR_88_33]
    assert node.rows(jobs)[0].state == "delivered"
    with node.database.read() as connection:  # what was refused is not there
        assert [made.sop_class_uid for made in whereabouts.taken_by(connection, 1, "PACS1")] == [SR_88_33]


def test_the_class_that_was_taken_is_offered_first_the_next_time(node: Made, pacs: Callable[..., StandInPacs]) -> None:
    owe(node, 1)
    asked: list[str] = []
    there = pacs(storage_classes=[SR_88_22], answer=lambda c: asked.append(c) or 0)
    to = sender(node, peer(there.port))
    while to.tick():
        pass
    owe(node, 2)
    ticks = 0
    while to.tick():
        ticks += 1
    assert asked == [SR_88_22, SR_88_22]
    assert ticks == 2
    assert len(node.rows(objects)) == 3 + 2  # 88.34, 88.33 and 88.22 once; then straight to 88.22


@pytest.mark.parametrize(("takes", "gets"), [((SR_88_34, SR_88_33, SR_88_22), SR_88_33), ((SR_88_22,), SR_88_22)])
def test_a_destination_may_be_given_a_plainer_class_than_it_takes(
    node: Made, pacs: Callable[..., StandInPacs], takes: tuple[str, ...], gets: str
) -> None:
    """A PACS may store what its viewers cannot show."""
    there = pacs(storage_classes=takes)
    to = sender(node, peer(there.port, sr_class="comprehensive"))
    for number in (1, 2):
        owe(node, number)
        while to.tick():
            pass
    assert [s.sop_class_uid for s in there.stored] == [gets, gets]


def test_each_destination_keeps_its_own_class(node: Made, pacs: Callable[..., StandInPacs]) -> None:
    owe(node, 1, to="OLD")
    owe(node, 2, to="NEW")
    old, new = pacs(storage_classes=[SR_88_33]), pacs()
    for name, there in (("OLD", old), ("NEW", new)):
        to = sender(node, peer(there.port, name=name))
        while to.tick():
            pass
    assert [s.sop_class_uid for s in (*old.stored, *new.stored)] == [SR_88_33, SR_88_34]


def test_in_whatever_class_a_report_is_sent_it_replaces_the_one_that_is_there(
    node: Made, pacs: Callable[..., StandInPacs]
) -> None:
    owe(node, 1, run=1)
    owe(node, 1, run=2, of_series=1, replaces=(Reference("1.2", "2.25.1011", SR_88_34, "2.25.1001"),))
    there = pacs(storage_classes=[SR_88_22])  # the first finds that out class by class, the second is built in it
    to = sender(node, peer(there.port))
    while to.tick():
        pass
    first, second = (pydicom.dcmread(stored.path) for stored in there.stored)
    series = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    named = series.ReferencedSOPSequence[0]
    assert (named.ReferencedSOPClassUID, named.ReferencedSOPInstanceUID) == (SR_88_22, first.SOPInstanceUID)
    assert series.SeriesInstanceUID == first.SeriesInstanceUID


def replaced_by(second: pydicom.Dataset) -> list[tuple[str, str, str]]:
    """Series, class and UID of the reports that this one names as replaced."""
    return [
        (str(of.SeriesInstanceUID), str(of.ReferencedSOPSequence[0].ReferencedSOPClassUID), str(one))
        for study in second.PredecessorDocumentsSequence
        for of in study.ReferencedSeriesSequence
        for one in [of.ReferencedSOPSequence[0].ReferencedSOPInstanceUID]
    ]


def test_a_report_in_another_class_than_the_one_it_replaces_names_that_one_as_it_is_there(
    node: Made, pacs: Callable[..., StandInPacs]
) -> None:
    """The viewers of one could not show the first, and `sr_class` was set since; the other never took that class."""
    capable, plain = pacs(), pacs(storage_classes=[SR_88_33])
    owe(node, 1, run=1)
    with node.database.write() as connection:
        outbox._owe(connection, 1, "PACS2", now=node.clock())
    old, new = ({}, {"sr_class": "comprehensive"})
    for given in (old, new):
        if given is new:
            replaces = (Reference("1.2", "2.25.1011", SR_88_34, "2.25.1001"),)
            second = owe(node, 1, run=2, of_series=1, replaces=replaces)
            with node.database.write() as connection:
                uid = str(pydicom.dcmread(io.BytesIO(second)).SOPInstanceUID)
                made = connection.scalar(sa.select(objects.c.id).where(objects.c.sop_instance_uid == uid))
                outbox._owe(connection, made, "PACS2", now=node.clock())
        for name, there in (("PACS1", capable), ("PACS2", plain)):
            to = sender(node, peer(there.port, name=name, **given))
            while to.tick():
                pass
    for there, of_first in ((capable, SR_88_34), (plain, SR_88_33)):
        first, second = (pydicom.dcmread(stored.path) for stored in there.stored)
        assert (first.SOPClassUID, second.SOPClassUID) == (of_first, SR_88_33)
        assert replaced_by(second) == [(first.SeriesInstanceUID, of_first, first.SOPInstanceUID)]
    assert len({stored.sop_instance_uid for there in (capable, plain) for stored in there.stored}) == 4


def test_a_report_in_another_class_names_first_what_is_there_and_then_what_may_be(
    node: Made, pacs: Callable[..., StandInPacs]
) -> None:
    """Of the first one the answer was lost; meanwhile the destination was set to get a plainer class."""
    owe(node, 1, run=1)
    with node.database.write() as connection:
        outbox.begin(connection, outbox.due(connection, "PACS1", now=node.clock(), longest_wait_s=60)[0], now=0.0)
    there = pacs()
    to = sender(node, peer(there.port, sr_class="comprehensive"))
    while to.tick():
        pass
    owe(node, 1, run=2, of_series=1, replaces=(Reference("1.2", "2.25.1011", SR_88_34, "2.25.1001"),))
    while to.tick():
        pass
    first, second = (pydicom.dcmread(stored.path) for stored in there.stored)
    surely = (first.SeriesInstanceUID, SR_88_33, first.SOPInstanceUID)
    assert replaced_by(second) == [surely, ("2.25.1011", SR_88_34, "2.25.1001")]


def test_a_report_in_another_class_for_a_destination_that_had_no_earlier_one_names_that_of_the_others(
    node: Made, pacs: Callable[..., StandInPacs]
) -> None:
    owe(node, 1, run=1, to="PACS2")
    owe(node, 1, run=2, of_series=1, replaces=(Reference("1.2", "2.25.1011", SR_88_34, "2.25.1001"),))
    there = pacs()
    to = sender(node, peer(there.port, sr_class="comprehensive"))
    while to.tick():
        pass
    assert replaced_by(pydicom.dcmread(there.stored[0].path)) == [("2.25.1011", SR_88_34, "2.25.1001")]


def test_a_pacs_that_takes_no_sr_class_is_a_failure_that_names_the_class(
    node: Made, pacs: Callable[..., StandInPacs]
) -> None:
    owe(node)
    to = sender(node, peer(pacs(storage_classes=[str(uid.CTImageStorage)]).port))
    while to.tick():
        pass
    last = node.rows(deliveries)[-1]
    assert last.state == "failed"
    assert SR_88_22 in last.last_error
    assert "enable" in last.last_error


def test_a_pacs_that_takes_no_pictures_is_a_failure_of_the_picture_alone(
    node: Made, pacs: Callable[..., StandInPacs]
) -> None:
    """No SR class stands in for it."""
    owe(node)
    with node.database.write() as connection:
        connection.execute(objects.update().values(kind="picture", sop_class_uid=str(uid.SecondaryCaptureImageStorage)))
    owe(node, 2)
    to = sender(node, peer(pacs(storage_classes=sr.SR_CLASSES).port))
    while to.tick():
        pass
    assert states(node) == ["failed", "delivered"]


def test_a_pacs_that_rejects_us_is_tried_again_as_its_configuration_may_be_mended(
    node: Made, pacs: Callable[..., StandInPacs]
) -> None:
    owe(node)
    sender(node, peer(pacs().port, ae_title="SOMEBODY")).tick()
    row = node.rows(deliveries)[0]
    assert row.state == "waiting"
    assert "rejected" in row.last_error


def test_a_rejection_is_told_even_where_it_comes_before_anyone_looks_for_a_connection(
    node: Made, pacs: Callable[..., StandInPacs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closes the connection, and the library then takes the peer for one that cannot be reached."""

    class Late(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            super().wait(timeout)
            gone.wait(10)
            return True

    gone, close, begin = threading.Event(), AssociationSocket.close, AssociationSocket.__init__

    def closed(self: AssociationSocket) -> None:
        close(self)
        if self._assoc.is_requestor:
            gone.set()

    def begun(self: AssociationSocket, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        if self._assoc.is_requestor:
            self._ready = Late()

    port = pacs().port
    monkeypatch.setattr(AssociationSocket, "close", closed)
    monkeypatch.setattr(AssociationSocket, "__init__", begun)
    owe(node)
    sender(node, peer(port, ae_title="SOMEBODY")).tick()
    assert gone.is_set()
    assert "rejected" in node.rows(deliveries)[0].last_error


def test_a_lost_or_damaged_file_holds_up_nothing_else(node: Made, pacs: Callable[..., StandInPacs]) -> None:
    for number in (1, 2, 3):
        owe(node, number)
    lost, damaged, _ = (node.spool.path(row.file) for row in node.rows(objects))
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-40])
    there = pacs()
    sender(node, peer(there.port)).tick()
    assert states(node) == ["failed", "failed", "delivered"]
    assert "missing or damaged" in node.rows(deliveries)[0].last_error


@pytest.mark.parametrize("left", [b"", b"no report any more"])
def test_a_report_whose_first_form_is_damaged_holds_up_nothing_else(
    node: Made, pacs: Callable[..., StandInPacs], left: bytes
) -> None:
    """Of that one those in other SR classes are made."""
    owe(node, 1)
    there = pacs(answer=lambda sop_class: 0 if sop_class == SR_88_22 else StoreStatus.SOP_CLASS_NOT_SUPPORTED)
    to = sender(node, peer(there.port))
    to.tick()
    node.spool.path(node.rows(objects)[0].file).write_bytes(left)
    owe(node, 2)
    while to.tick():
        pass
    assert [s.sop_class_uid for s in there.stored] == [SR_88_22]
    assert [(row.state, row.last_error) for row in node.rows(deliveries) if row.state == "failed"] == [
        ("failed", "the stored object is missing or damaged; nothing was sent")
    ]


def test_one_object_that_makes_the_peer_abort_does_not_delay_the_others(
    node: Made, pacs: Callable[..., StandInPacs]
) -> None:
    for number in (1, 2, 3):
        owe(node, number)
    poison = node.rows(objects)[0].sop_instance_uid
    there = pacs()
    there._on_store = _aborting(there, poison)  # type: ignore[method-assign]
    there.stop()
    there.start()
    to = sender(node, peer(there.port))
    for _ in range(4):
        to.tick()
    assert states(node) == ["waiting", "delivered", "delivered"]
    assert [row.tries for row in node.rows(deliveries)] == [2, 1, 1]  # once more when the others had got through


def test_what_a_pacs_breaks_on_is_tried_less_and_less_often_whatever_else_gets_through(
    node: Made, pacs: Callable[..., StandInPacs]
) -> None:
    """It is the oldest, and each try may cost as long as an answer is waited for: others must not pay that for ever."""
    owe(node, 1)
    there = pacs()
    there._on_store = _aborting(there, node.rows(objects)[0].sop_instance_uid)  # type: ignore[method-assign]
    there.stop()
    there.start()
    to = sender(node, peer(there.port))
    tries = []
    for number in range(2, 12):
        owe(node, number)
        for _ in range(3):
            to.tick()
        tries.append(node.rows(deliveries)[0].tries)
        node.clock.advance(10)
    assert states(node) == ["waiting", *["delivered"] * 10]
    assert tries == [2, 2, 3, 3, 3, 3, 4, 4, 4, 4]  # once more when the first had got through, then after 20, 40, 80 s


def test_what_was_on_the_wire_when_a_pacs_went_down_goes_at_once_when_it_is_back(
    node: Made, pacs: Callable[..., StandInPacs]
) -> None:
    down = [False]
    there = pacs()
    store = there._on_store

    def answer(event: Any) -> int:
        if down[0]:
            event.assoc.abort()
        return store(event) if not down[0] else 0x0110

    there._on_store = answer  # type: ignore[method-assign]
    there.stop()
    there.start()
    to = sender(node, peer(there.port))
    owe(node, 1)
    assert [to.tick(), to.tick()] == [1, 0]
    node.clock.advance(60)
    owe(node, 2)
    down[0] = True
    for _ in range(8):
        to.tick()
        node.clock.advance(node.rows(deliveries)[1].next_at - node.clock())
    to.tick()
    assert node.rows(deliveries)[1].next_at > node.clock() + 300
    down[0] = False
    owe(node, 3)
    while to.tick():
        pass
    assert states(node) == ["delivered"] * 3


def _aborting(there: StandInPacs, poison: str) -> Callable[[Any], int]:
    store = there._on_store

    def answer(event: Any) -> int:
        if event.request.AffectedSOPInstanceUID == poison:
            event.assoc.abort()
            return 0x0110
        return store(event)

    return answer


def test_a_report_never_overtakes_the_one_it_supersedes(node: Made, pacs: Callable[..., StandInPacs]) -> None:
    owe(node, 1, run=1)
    sender(node, peer(free_port(), timeout_s=1.0)).tick()
    owe(node, 1, run=2, of_series=1)
    there = pacs()
    to = sender(node, peer(there.port, timeout_s=60.0))
    assert to.tick() == 0
    node.clock.advance(10)
    assert [to.tick(), to.tick()] == [1, 1]
    assert [s.sop_instance_uid for s in there.stored] == ["2.25.1001", "2.25.1002"]


def test_a_clock_put_back_delays_no_delivery(node: Made, pacs: Callable[..., StandInPacs]) -> None:
    owe(node)
    node.clock.advance(-86400)
    sender(node, peer(pacs().port)).tick()
    assert states(node) == ["delivered"]


def test_a_job_is_delivered_only_when_every_destination_has_it(node: Made, pacs: Callable[..., StandInPacs]) -> None:
    owe(node, to="A")
    with node.database.write() as connection:
        outbox._owe(connection, 1, "B", now=node.clock())
    sender(node, peer(pacs().port, name="A")).tick()
    assert node.rows(jobs)[0].state == "reported"
    sender(node, peer(pacs().port, name="B")).tick()
    assert node.rows(jobs)[0].state == "delivered"


def test_what_a_pacs_routes_back_of_our_own_making_is_acknowledged_and_left_alone(node: Made) -> None:
    from made import received

    content = owe(node)
    meta_ends = 144 + int.from_bytes(content[140:144], "little")
    before = node.files()
    back = received(
        pydicom.dcmread(node.spool.path(node.rows(objects)[0].file)), data_set=content[meta_ends:], calling="PACS1"
    )
    assert node.acceptor.accept(back) == StoreStatus.SUCCESS
    assert node.files() == before
    with node.database.read() as connection:
        assert len(series.receiving(connection)) == 0
