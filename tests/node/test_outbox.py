"""The outbox between runs, and what happens to a delivery while its object is on the wire."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pydicom
import pytest
from made import NOW, FakeClassifier, Made, ct, made_node, peer, steps
from report_cases import context, findings, headers

from dicom_node.administering import forgetting
from dicom_node.administering.forgetting import Whom
from dicom_node.administering.withdrawing import withdraw
from dicom_node.delivering import otherclass
from dicom_node.delivering.built import Built
from dicom_node.delivering.sender import Sender
from dicom_node.network.stand_in import StandInPacs
from dicom_node.report import provenance, sr
from dicom_node.store import cancelling, destinations, outbox, purge, series, whereabouts
from dicom_node.store.database import Connection
from dicom_node.store.outbox import Delivery, MadeObject
from dicom_node.store.tables import deliveries, jobs, objects
from dicom_node.store.tables import series as series_table


@pytest.fixture
def node(tmp_path: Path) -> Made:
    """One series, of which nothing was made yet."""
    made = made_node(tmp_path, peers=[peer(104, withdraw_by="quality")])
    made.accept(ct(1))
    return made


def run(node: Made, number: int, *kinds: str, to: str = "PACS1", also: Sequence[str] = (), of_series: int = 1) -> None:
    """A run of the series that owes objects of these kinds."""
    job = {"series_id": of_series, "run": number, "state": "reported", "priority": 0, "not_before": NOW, "tries": 1}
    with node.database.write() as connection:
        job_id = connection.execute(jobs.insert().values(job | {"created_at": NOW}).returning(jobs.c.id)).scalar_one()
        cancelling.supersede(connection, of_series, number, now=NOW)
        for kind in kinds:
            content = f"{kind} of run {number}".encode()
            file, sha256 = node.spool.keep(content), hashlib.sha256(content).hexdigest()
            uid = f"2.25.{number}{len(node.files())}"
            outbox.put(
                connection,
                job_id,
                [MadeObject(kind, "1.2.3", uid, "2.25.9", file, len(content), sha256)],
                [to, *also],
                now=NOW,
            )
        connection.execute(series_table.update().values(state="complete", run=number))


def due(node: Made, to: str = "PACS1") -> list[Delivery]:
    with node.database.read() as connection:
        return outbox.due(connection, to, now=node.clock(), longest_wait_s=3600)


def due_kinds(node: Made) -> list[tuple[int, str]]:
    """Run and kind of what is due."""
    kinds = {one.id: (one.job_id, one.kind) for one in node.rows(objects)}
    return [kinds[one.object_id] for one in due(node)]


def states(node: Made) -> list[str]:
    return [row.state for row in node.rows(deliveries)]


def act(node: Made, what: Callable[..., Any], delivery: Delivery, *arguments: Any, **given: Any) -> Any:
    with node.database.write() as connection:
        return what(connection, delivery, *arguments, **given)


def later(node: Made, delivery: Delivery, status: int | None = None) -> None:
    act(node, outbox.postpone, delivery, until=NOW + 600, status=status, error="busy")


def test_four_times_as_much_that_waits_takes_four_times_as_long_to_look_through(node: Made) -> None:
    """A PACS that comes back finds thousands due at once: each was once compared with each."""
    took = []
    for number in range(1, 81):
        node.accept(ct(number, series=f"1.2.{number}", study=f"1.2.{number}.0"))
        run(node, 1, "report", of_series=number + 1)
        if number in (20, 80):
            took.append(steps(node, lambda it: outbox.due(it, "PACS1", now=node.clock(), longest_wait_s=3600)))
    assert took[1] < 6 * took[0]


def test_a_newer_report_waits_behind_an_earlier_one_and_behind_no_picture(node: Made) -> None:
    run(node, 1, "report", "picture")
    report, picture = due(node)
    act(node, outbox.delivered, report, 0, now=NOW)
    later(node, picture)
    run(node, 2, "report")
    assert due_kinds(node) == [(2, "report")]
    later(node, due(node)[0])
    run(node, 3, "report")
    assert due_kinds(node) == []


def test_a_newer_picture_waits_behind_an_earlier_report(node: Made) -> None:
    run(node, 1, "report")
    later(node, due(node)[0])
    run(node, 2, "report", "picture")
    assert due_kinds(node) == []


def test_reports_of_other_destinations_and_other_series_hold_up_nothing(node: Made) -> None:
    node.accept(ct(1, series="1.2.3.2", study="1.2.3"))
    run(node, 1, "report", to="PACS2")
    later(node, due(node, "PACS2")[0])
    run(node, 1, "report", of_series=2)
    later(node, due(node)[0])
    run(node, 2, "report")
    assert due_kinds(node) == [(3, "report")]


def test_a_picture_that_waits_is_not_sent_after_a_newer_result(node: Made) -> None:
    run(node, 1, "report", "picture", "withdrawal")
    with node.database.write() as connection:
        connection.execute(jobs.update().values(extras_due=True))
    run(node, 2, "report")
    assert states(node) == ["waiting", "cancelled", "waiting", "waiting"]
    assert not node.rows(jobs)[0].extras_due


def test_what_was_begun_without_a_word_may_be_there_and_what_was_refused_is_not(node: Made) -> None:
    def told() -> list[str]:
        with node.database.read() as connection:
            return [row.kind for row in whereabouts.taken_by(connection, 1, "PACS1")]

    run(node, 1, "report")
    (delivery,) = due(node)
    assert told() == []
    assert act(node, outbox.begin, delivery, now=NOW)
    assert told() == ["report"]
    later(node, delivery, status=0xA700)
    assert told() == []
    act(node, outbox.begin, delivery, now=NOW)
    later(node, delivery)  # the association broke
    assert told() == ["report"]
    node.clock.advance(600)
    (again,) = due(node)
    act(node, outbox.begin, again, now=node.clock())
    act(node, outbox.give_up, again, now=node.clock(), status=0x0111, error="a duplicate")
    assert told() == ["report"]  # it may be a duplicate of what was sent first


@pytest.mark.parametrize("unanswered", [False, True])
def test_what_is_replaced_as_its_class_was_refused_may_be_there_only_if_an_earlier_answer_was_lost(
    node: Made, unanswered: bool
) -> None:
    def in_other_class() -> MadeObject:
        return MadeObject("report", "1.2.4", "2.25.77", "2.25.9", "aa/x.dcm", 1, "0" * 64)

    run(node, 1, "report")
    if unanswered:
        act(node, outbox.begin, due(node)[0], now=NOW)
    (delivery,) = due(node)
    act(node, outbox.begin, delivery, now=NOW + 1)
    act(node, outbox.replace, delivery, "2.25.77", in_other_class, now=NOW + 1)
    assert [row.begun_at for row in node.rows(deliveries)] == [NOW if unanswered else None, None]


def test_a_report_that_was_refused_is_not_owed_once_a_newer_one_has_arrived(node: Made) -> None:
    """It would be retried in vain, be counted as refused for ever, and keep its patient's images from being deleted."""
    run(node, 1, "report", also=["PACS2"])
    for name in ("PACS1", "PACS2"):
        act(node, outbox.give_up, due(node, name)[0], now=NOW, status=0x0124, error="not authorized")
    run(node, 2, "report", "picture")
    report, picture = due(node)
    act(node, outbox.delivered, picture, 0, now=NOW)
    assert states(node) == ["failed", "failed", "waiting", "delivered"]
    act(node, outbox.delivered, report, 0, now=NOW)
    assert states(node) == ["cancelled", "failed", "delivered", "delivered"]
    run(node, 3, "report", to="PACS2")
    act(node, outbox.delivered, due(node, "PACS2")[0], 0, now=NOW)
    assert states(node) == ["cancelled", "cancelled", "delivered", "delivered", "delivered"]
    assert [job.state for job in node.rows(jobs)] == ["delivered"] * 3


def test_a_destination_that_is_gone_is_owed_nothing_and_the_others_are(node: Made) -> None:
    run(node, 1, "report", "picture", to="GONE")
    run(node, 2, "report")
    act(node, outbox.give_up, due(node, "GONE")[0], now=NOW, status=0x0124, error="not authorized")
    with node.database.write() as connection:
        assert whereabouts.owed(connection) == {"GONE": 1, "PACS1": 1}
        assert cancelling.cancel_for(connection, "GONE", now=NOW) == 1
        assert whereabouts.owed(connection) == {"PACS1": 1}
    assert node.rows(jobs)[0].state == "delivered"
    assert len(due(node)) == 1


def test_a_destination_that_is_gone_is_not_waited_for_to_confirm_what_it_has(node: Made) -> None:
    """Its series would never be deleted by age, and the disk fill up."""
    run(node, 1, "report", to="GONE")
    act(node, outbox.delivered, due(node, "GONE")[0], 0, now=NOW, commitment=True)
    later = NOW + 1e6
    with node.database.write() as connection:
        assert purge.deletable(connection, quiet_since=later) == []
        assert whereabouts.owed(connection) == {"GONE": 1}
        assert cancelling.cancel_for(connection, "GONE", now=NOW) == 1
        assert whereabouts.owed(connection) == {}
        assert len(purge.deletable(connection, quiet_since=later)) == 1


def test_what_is_not_owed_any_more_is_neither_begun_nor_replaced(node: Made) -> None:
    def store() -> MadeObject:
        raise AssertionError("nothing is to be written")

    run(node, 1, "report")
    (delivery,) = due(node)
    with node.database.write() as connection:
        assert cancelling.cancel(connection, 1, now=NOW) == 1
    assert node.rows(jobs)[0].state == "delivered"  # it owes nothing more
    assert not act(node, outbox.begin, delivery, now=NOW)
    assert not act(node, outbox.replace, delivery, "2.25.77", store, now=NOW)
    assert states(node) == ["cancelled"]
    forgetting.erase(node.database, node.spool, Whom("P-1"), now=NOW)
    assert not act(node, outbox.replace, delivery, "2.25.77", store, now=NOW)


# While it is on the wire


@pytest.fixture
def two_reported(tmp_path: Path) -> Made:
    """Two patients with a report each, owed to PACS1."""
    node = made_node(tmp_path, peers=[peer(104, withdraw_by="quality")])
    for number, patient in enumerate(("FIRST", "SECOND"), 1):
        node.accept(ct(1, study=f"1.2.{number}", series=f"1.2.{number}.1", PatientID=patient))
        run(node, 1, of_series=number)
        uids = {"sop_instance_uid": f"2.25.{number}", "series_instance_uid": f"2.25.{number}1"}
        made = provenance.to_bytes(sr.build(headers(PatientID=patient), findings("deep"), context(**uids)))
        built = Built("report", sr.SR_CLASSES[0], *uids.values(), content=made)
        with node.database.write() as connection:
            outbox.put(connection, number, [built.stored_in(node.spool)], ["PACS1"], now=NOW)
    said = {"findings": asdict(findings("deep")), "model_digest": "f" * 64, "preprocessing": "untrained-1"}
    with node.database.write() as connection:
        connection.execute(jobs.update().values(said))
    return node


def send(node: Made, folder: Path, while_on_the_wire: Callable[[], Any]) -> list[str]:
    """Send all that is due; while the first object arrives, something happens. SOP Instance UIDs that arrived."""
    pending = [while_on_the_wire]

    def answer(_: str) -> int:
        if pending:
            pending.pop()()
        return 0

    there = StandInPacs(folder / "pacs", answer=answer)
    there.start()
    try:
        to = peer(there.port, timeout_s=60.0)  # forgetting takes its time on a busy machine
        sender = Sender(node.database, node.spool, to, node.config.results, ae_title="NODE", clock=node.clock)
        while sender.tick():
            pass
    finally:
        there.stop()
    return [one.sop_instance_uid for one in there.stored]


def test_a_result_withdrawn_while_it_is_on_the_wire_is_taken_back_there(two_reported: Made, tmp_path: Path) -> None:
    node = two_reported
    first, second = (row.sop_instance_uid for row in node.rows(objects))

    def take_back() -> None:
        for number in (1, 2):
            with node.database.read() as connection:
                one = series.get(connection, number)
            assert one is not None
            given = {
                "why": "wrong patient",
                "checkpoint": FakeClassifier().checkpoint,
                "device_uid": "2.25.100",
                "now": node.clock(),
            }
            withdraw(node.database, node.spool, node.config, one, **given)

    arrived = send(node, tmp_path, take_back)
    rejection = node.rows(objects)[2]
    assert arrived == [first, rejection.sop_instance_uid]
    assert first in str(pydicom.dcmread(node.spool.path(rejection.file)).CurrentRequestedProcedureEvidenceSequence)
    assert states(node) == ["delivered", "cancelled", "delivered"]
    assert [row.state for row in node.rows(jobs)] == ["withdrawn", "withdrawn"]
    assert second not in arrived


def test_nothing_of_a_patient_forgotten_meanwhile_is_sent_after_it(two_reported: Made, tmp_path: Path) -> None:
    node = two_reported
    first = node.rows(objects)[0].sop_instance_uid
    held = []

    def forget() -> None:
        held.extend(
            forgetting.erase(node.database, node.spool, Whom(patient), now=node.clock()).held
            for patient in ("FIRST", "SECOND")
        )

    assert send(node, tmp_path, forget) == [first]
    assert [[(one.sop_instance_uid, one.certain) for one in each] for each in held] == [[(first, False)], []]
    assert node.files() == set()


def test_what_is_owed_since_a_patient_was_forgotten_is_not_taken_for_what_was_owed_of_that_patient(
    two_reported: Made,
) -> None:
    def in_other_class() -> MadeObject:
        return MadeObject("report", "1.2.4", "2.25.77", "2.25.9", "aa/x.dcm", 1, "0" * 64)

    node = two_reported
    first, second = due(node)
    forgetting.erase(node.database, node.spool, Whom("SECOND"), now=NOW)
    act(node, outbox.replace, first, "2.25.77", in_other_class, now=NOW)
    before = node.rows(deliveries)
    assert before[-1].id not in (first.id, second.id)
    assert not act(node, outbox.begin, second, now=NOW)
    assert not act(node, outbox.give_up, second, now=NOW, status=None, error="gone")
    assert not act(node, outbox.delivered, second, 0, now=NOW)
    assert node.rows(deliveries) == before


def test_a_report_is_not_built_in_another_class_for_a_patient_forgotten_meanwhile(
    two_reported: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = two_reported
    built = otherclass.in_other_class

    def forgets(*arguments: Any) -> Built:
        made = built(*arguments)
        forgetting.erase(node.database, node.spool, Whom("FIRST"), now=node.clock())
        return made

    monkeypatch.setattr(otherclass, "in_other_class", forgets)
    with node.database.write() as connection:
        destinations.remember_sr_class(connection, "PACS1", "1.2.840.10008.5.1.4.1.1.88.33", now=node.clock())
        connection.execute(deliveries.delete().where(deliveries.c.object_id == 2))
    sender = Sender(node.database, node.spool, peer(1), node.config.results, ae_title="NODE", clock=node.clock)
    assert sender.tick() == 1
    assert b"FIRST" not in b"".join(node.spool.read(name) for name in node.files())


def test_a_result_that_went_to_nobody_does_not_stand_whatever_went_of_other_series(node: Made) -> None:
    node.accept(ct(2, series="1.2.9", study="1.2.10"))
    for number in (1, 2):
        run(node, 1, "report", of_series=number)
    with node.database.write() as connection:
        connection.execute(deliveries.delete().where(deliveries.c.object_id == 2))
        assert [whereabouts.stands(connection, number) for number in (1, 2)] == [True, False]


def named(connection: Connection, run: int) -> list[str]:
    return [made.sop_instance_uid for of_run in whereabouts.predecessors(connection, 1, run) for made in of_run]


def test_a_report_supersedes_all_that_a_destination_may_have_since_one_that_it_surely_has(node: Made) -> None:
    """One whose answer was lost, and then one that was refused, both of which may never be stored there."""
    for number in (1, 2, 3, 4):
        run(node, number, "report", also=["PACS2"] if number == 2 else [])
    first, unanswered, refused = (row for row in node.rows(deliveries) if row.destination == "PACS1" and row.id < 5)
    with node.database.write() as connection:
        for one, state in ((first, "delivered"), (unanswered, "cancelled"), (refused, "failed")):
            values = {"state": state, "begun_at": None if state == "failed" else NOW}
            connection.execute(deliveries.update().where(deliveries.c.id == one.id).values(values))
        reports = [row.sop_instance_uid for row in connection.execute(objects.select().order_by(objects.c.id))]
        assert named(connection, 4) == [reports[2], reports[1], reports[0]]
        connection.execute(deliveries.update().where(deliveries.c.id == refused.id).values(state="delivered"))
        assert named(connection, 4) == [reports[2], reports[1]]  # which PACS2 is still to get


def test_a_report_supersedes_the_one_of_another_class_where_no_destination_has_that_built_first(node: Made) -> None:
    """By then the destination may take the first class again."""

    def in_other_class() -> MadeObject:
        return MadeObject("report", "1.2.4", "2.25.77", "2.25.9", "aa/x.dcm", 1, "0" * 64)

    run(node, 1, "report")
    act(node, outbox.replace, due(node)[0], "2.25.77", in_other_class, now=NOW)
    run(node, 2, "report")
    with node.database.write() as connection:
        assert named(connection, 2) == ["2.25.77"]
        outbox._owe(connection, 1, "PACS2", now=NOW)
        assert named(connection, 2) == ["2.25.12", "2.25.77"]


def test_a_result_stands_as_long_as_one_destination_has_heard_nothing_newer(node: Made) -> None:
    run(node, 1, "report", also=["PACS2"])
    run(node, 2, "report", also=["PACS2"])
    with node.database.write() as connection:
        connection.execute(deliveries.update().where(deliveries.c.id != 3).values(state="delivered"))
        connection.execute(deliveries.update().where(deliveries.c.id == 3).values(state="cancelled"))
        connection.execute(jobs.update().where(jobs.c.run == 2).values(outcome="not evaluated"))
        assert whereabouts.stands(connection, 1)  # at PACS1
        connection.execute(deliveries.update().where(deliveries.c.id == 3).values(state="delivered"))
        assert not whereabouts.stands(connection, 1)


def test_a_run_of_which_only_a_withdrawal_is_sent_is_no_predecessor(node: Made) -> None:
    """It took back what an earlier one had left under another patient; what stands is still the result before it."""
    run(node, 1, "report")
    act(node, outbox.delivered, due(node)[0], 0, now=NOW)
    run(node, 2, "report", "withdrawal")
    with node.database.write() as connection:
        cancelling.keep_back(connection, 1, now=NOW)
        assert named(connection, 3) == ["2.25.12"]
