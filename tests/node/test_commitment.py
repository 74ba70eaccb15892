"""Storage commitment, both ways, with a pynetdicom node and with Orthanc as the other side."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from made import NOW, Made, ct, made_node, part10, peer
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt

from dicom_node import uids
from dicom_node.administering import forgetting
from dicom_node.administering.forgetting import Whom
from dicom_node.config import Commitment, Config, NodeSection, Peer
from dicom_node.delivering import keeping
from dicom_node.delivering.committing import Asker, Reports
from dicom_node.errors import StoreUnavailable
from dicom_node.network import commitment as network
from dicom_node.network import library_loop, scp
from dicom_node.network.commitment import SOP_CLASS, SOP_INSTANCE, Report
from dicom_node.network.memory import NO_OBJECT
from dicom_node.network.stand_in import free_port
from dicom_node.network.syntaxes import VERIFICATION
from dicom_node.serving import service
from dicom_node.serving.housekeeping import tidy
from dicom_node.status import CommitmentStatus
from dicom_node.store import cancelling, commitment, outbox, purge
from dicom_node.store.database import Connection
from dicom_node.store.results import Version
from dicom_node.store.tables import commitments, deliveries, instances, jobs, objects, series

CONTEXTS = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]


class Other:
    """Another node: takes N-ACTION and N-EVENT-REPORT, remembers them, and may answer on the same association."""

    def __init__(
        self, *, status: int = 0, answers_at_once: Callable[[Dataset], Dataset | None] = lambda _: None
    ) -> None:
        self.asked: list[Dataset] = []
        self.told: list[tuple[int, Dataset]] = []
        self.heard = threading.Event()
        self.status = status
        self._answers_at_once = answers_at_once
        ae = AE("PACS")
        ae.add_supported_context(SOP_CLASS, CONTEXTS, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_N_ACTION, self._on_action), (evt.EVT_N_EVENT_REPORT, self._on_report)]
        self.server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.server_address[1]

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        self.asked.append(event.action_information)
        answer = self._answers_at_once(event.action_information)
        if answer is not None and self.status == 0:
            kind = 2 if "FailedSOPSequence" in answer else 1
            arguments = (answer, kind, SOP_CLASS, SOP_INSTANCE)
            threading.Thread(target=event.assoc.send_n_event_report, args=arguments).start()
        return self.status, None

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        self.told.append((event.event_type, event.event_information))
        self.heard.set()
        return self.status, None

    def close(self) -> None:
        self.server.shutdown()


@pytest.fixture
def other() -> Iterator[Callable[..., Other]]:
    made: list[Other] = []

    def make(**given: Any) -> Other:
        made.append(Other(**given))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def receiver() -> Iterator[Callable[..., int]]:
    """A receiver that offers storage commitment; its port."""
    started: list[scp.Receiver] = []

    def start(on_report: Callable[[Report], None], on_request: Any = None, port: int = 0) -> int:
        config = Config(node=NodeSection(ae_title="NODE", allowed_senders=("PACS", "ORTHANC")))
        offered = [network.service(on_report, on_request)]
        one = scp.Receiver(lambda _: 0, scp.rules_of(config), bind="127.0.0.1", port=port, services=offered)  # type: ignore[arg-type, return-value]
        started.append(one)
        return one.start()

    yield start
    for one in started:
        one.stop()


def node_with(folder: Path, *peers: Peer) -> Made:
    return made_node(folder, peers=peers, commitment=Commitment(accept=True))


def stored(node: Made, count: int = 1) -> list[str]:
    """Objects that PACS1 has stored; their SOP Instance UIDs."""
    node.accept(ct(1))
    uids = [f"2.25.{number}" for number in range(1, count + 1)]
    with node.database.write() as connection:
        values = {"series_id": 1, "run": 1, "state": "reported", "priority": 0, "not_before": NOW, "tries": 1}
        connection.execute(jobs.insert().values(values | {"created_at": NOW}))
        connection.execute(series.update().values(state="complete", run=1))
        made = [outbox.MadeObject("report", "1.2.3", uid, "2.25.9", f"aa/{uid}.dcm", 1, "0" * 64) for uid in uids]
        outbox.put(connection, 1, made, ["PACS1"], now=NOW)
        for due in outbox.due(connection, "PACS1", now=NOW, longest_wait_s=60):
            outbox.delivered(connection, due, 0, now=NOW, commitment=True)
    return uids


def asker(node: Made, to: Peer, *, linger_s: float = 0.05) -> Asker:
    reports = Reports(node.database, node.config, clock=node.clock)
    return Asker(node.database, to, node.config, reports, clock=node.clock, jitter=lambda: 0.0, linger_s=linger_s)


def answer_to(asked: Dataset, *, failed: tuple[str, ...] = ()) -> Dataset:
    told = Dataset()
    told.TransactionUID = asked.TransactionUID
    items = list(asked.ReferencedSOPSequence)
    told.ReferencedSOPSequence = [item for item in items if item.ReferencedSOPInstanceUID not in failed]
    if failed:
        told.FailedSOPSequence = [item for item in items if item.ReferencedSOPInstanceUID in failed]
        for item in told.FailedSOPSequence:
            item.FailureReason = 0x0112
    return told


def take(node: Made, told: Dataset) -> None:
    Reports(node.database, node.config, clock=node.clock).take(
        Report(
            told.TransactionUID,
            frozenset(item.ReferencedSOPInstanceUID for item in told.ReferencedSOPSequence),
            {item.ReferencedSOPInstanceUID: item.FailureReason for item in told.get("FailedSOPSequence", ())},
        )
    )


def lose(node: Made, uid: str, *, chance: float = 0.0) -> None:
    """PACS1 is asked about all that it has stored, and has failed to keep this one."""
    transaction = f"2.25.9{node.clock():.0f}"
    with node.database.write() as connection:
        owed = commitment.due(connection, "PACS1", now=node.clock(), longest_wait_s=3600, limit=10)
        commitment.ask(connection, owed, transaction, again_at=node.clock() + 3600)
    reports = Reports(node.database, node.config, clock=node.clock, jitter=lambda: chance)
    reports.take(Report(transaction, frozenset(), {uid: 0x0112}))


def newer_run(node: Made, state: str) -> None:
    """A second run of series 1, with a report whose delivery to PACS1 is in this state."""
    with node.database.write() as connection:
        values = {"series_id": 1, "run": 2, "state": "reported", "priority": 0, "not_before": NOW, "tries": 1}
        connection.execute(jobs.insert().values(values | {"created_at": NOW}))
        made = outbox.MadeObject("report", "1.2.3", "2.25.99", "2.25.9", "aa/99.dcm", 1, "0" * 64)
        outbox.put(connection, 2, [made], ["PACS1"], now=NOW)
        connection.execute(deliveries.update().where(deliveries.c.object_id == 2).values(state=state))


# What we ask


def test_what_was_delivered_is_asked_for_once_and_the_answer_settles_it(
    tmp_path: Path, other: Callable[..., Other]
) -> None:
    node, there = node_with(tmp_path), other()
    uids = stored(node, 3)
    ask = asker(node, peer(there.port))
    assert [ask.tick(), ask.tick()] == [3, 0]
    (asked,) = there.asked
    assert [item.ReferencedSOPInstanceUID for item in asked.ReferencedSOPSequence] == uids
    assert {row.commitment for row in node.rows(deliveries)} == {"asked"}
    take(node, answer_to(asked))
    assert {row.commitment for row in node.rows(deliveries)} == {"committed"}
    assert node.rows(jobs)[0].state == "delivered"


def just_before_asking(monkeypatch: pytest.MonkeyPatch, act: Callable[[Connection], None], node: Made) -> None:
    """Has this happen once it is known what a destination is to be asked about, and nothing of that is noted yet."""
    fresh = uids.fresh

    def acts_first() -> str:
        with node.database.write() as connection:
            act(connection)
        return fresh()

    monkeypatch.setattr(uids, "fresh", acts_first)


def test_what_is_kept_back_just_before_the_question_is_not_asked_for(
    tmp_path: Path, other: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the destination then said to have lost would be sent again, to a patient who is no longer its own."""
    node, there = node_with(tmp_path), other()
    stored(node)
    just_before_asking(monkeypatch, lambda connection: cancelling.keep_back(connection, 1, now=NOW), node)
    assert asker(node, peer(there.port)).tick() == 0
    assert there.asked == []
    assert [row.commitment for row in node.rows(deliveries)] == [None]


def test_a_question_about_what_was_just_forgotten_is_not_put_about_what_came_since(
    tmp_path: Path, other: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, there = node_with(tmp_path), other()
    stored(node)

    def forgets(connection: Connection) -> None:
        purge.delete_objects(connection, objects.c.id == 1)
        made = outbox.MadeObject("report", "1.2.3", "2.25.2", "2.25.9", "aa/2.dcm", 1, "0" * 64)
        outbox.put(connection, 1, [made], ["PACS1"], now=NOW)

    just_before_asking(monkeypatch, forgets, node)
    assert asker(node, peer(there.port)).tick() == 0
    assert there.asked == []
    assert [(row.state, row.commitment) for row in node.rows(deliveries)] == [("waiting", None)]


def test_an_answer_on_the_same_association_is_taken(tmp_path: Path, other: Callable[..., Other]) -> None:
    node, there = node_with(tmp_path), other(answers_at_once=answer_to)
    stored(node, 2)
    asker(node, peer(there.port), linger_s=10.0).tick()
    assert {row.commitment for row in node.rows(deliveries)} == {"committed"}


def test_an_answer_on_an_association_of_the_peers_is_taken(
    tmp_path: Path, other: Callable[..., Other], receiver: Callable[..., int]
) -> None:
    node, there = node_with(tmp_path), other()
    stored(node)
    asker(node, peer(there.port)).tick()
    port = receiver(Reports(node.database, node.config, clock=node.clock).take)
    ae = AE("PACS")
    ae.add_requested_context(SOP_CLASS, CONTEXTS)
    association = ae.associate("127.0.0.1", port, ae_title="NODE", ext_neg=[build_role(SOP_CLASS, scp_role=True)])
    status, _ = association.send_n_event_report(answer_to(there.asked[0]), 1, SOP_CLASS, SOP_INSTANCE)
    association.release()
    assert status.Status == 0
    assert node.rows(deliveries)[0].commitment == "committed"


def test_what_the_destination_has_lost_is_sent_again(tmp_path: Path, other: Callable[..., Other]) -> None:
    node, there = node_with(tmp_path), other()
    _, second = stored(node, 2)
    asker(node, peer(there.port)).tick()
    take(node, answer_to(there.asked[0], failed=(second,)))
    assert [(row.state, row.commitment) for row in node.rows(deliveries)] == [
        ("delivered", "committed"),
        ("waiting", None),
    ]
    assert node.rows(jobs)[0].state == "reported"
    node.clock.advance(10)
    with node.database.write() as connection:
        (due,) = outbox.due(connection, "PACS1", now=node.clock(), longest_wait_s=60)
        assert due.sop_instance_uid == second
        assert outbox.delivered(connection, due, 0, now=node.clock(), commitment=True)
    assert asker(node, peer(there.port)).tick() == 1


def test_the_log_names_the_destination_that_answered_and_no_answer_that_settled_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = node_with(tmp_path)
    first, second = stored(node, 2)
    caplog.set_level("INFO", logger="dicom_node.commitment")
    with node.database.write() as connection:
        owed = commitment.due(connection, "PACS1", now=node.clock(), longest_wait_s=3600, limit=10)
        commitment.ask(connection, owed, "2.25.9", again_at=node.clock() + 3600)
    reports = Reports(node.database, node.config, clock=node.clock)
    for transaction in ("2.25.8", "2.25.9", "2.25.9"):
        reports.take(Report(transaction, frozenset({first}), {second: 0x0112}))
    ignored = "answer_ignored named=2"
    assert caplog.messages == [ignored, "not_committed by=PACS1 committed=1 failed=1", ignored]


@pytest.mark.parametrize(
    ("successor", "then"), [("waiting", "cancelled"), ("delivered", "cancelled"), ("cancelled", "waiting")]
)
def test_a_superseded_result_that_the_destination_has_lost_never_arrives_after_its_successor(
    tmp_path: Path, successor: str, then: str
) -> None:
    node = node_with(tmp_path)
    (lost,) = stored(node)
    newer_run(node, successor)
    lose(node, lost)
    assert [row.state for row in node.rows(deliveries)] == [then, successor]
    assert node.rows(jobs)[0].state == ("reported" if then == "waiting" else "delivered")


def test_what_a_destination_loses_again_and_again_is_sent_less_and_less_often(tmp_path: Path) -> None:
    node = node_with(tmp_path)
    (lost,) = stored(node)
    waits = []
    for chance in (0.0, 0.0, 0.0, 1.0):
        lose(node, lost, chance=chance)
        waits.append(node.rows(deliveries)[0].next_at - node.clock())
        node.clock.advance(waits[-1])
        with node.database.write() as connection:
            (due,) = outbox.due(connection, "PACS1", now=node.clock(), longest_wait_s=3600)
            outbox.delivered(connection, due, 0, now=node.clock(), commitment=True)
    assert waits == [10, 20, 40, 60]


def test_a_withdrawal_that_the_destination_has_lost_is_sent_again(tmp_path: Path) -> None:
    node = node_with(tmp_path)
    (lost,) = stored(node)
    with node.database.write() as connection:
        connection.execute(jobs.update().values(state="withdrawn"))
        connection.execute(objects.update().values(kind="withdrawal"))
    lose(node, lost)
    assert node.rows(deliveries)[0].state == "waiting"


def test_a_withdrawn_result_that_the_destination_has_lost_is_not_sent_again(
    tmp_path: Path, other: Callable[..., Other]
) -> None:
    node, there = node_with(tmp_path), other()
    (lost,) = stored(node)
    asker(node, peer(there.port)).tick()
    with node.database.write() as connection:
        connection.execute(jobs.update().values(state="withdrawn"))
    take(node, answer_to(there.asked[0], failed=(lost,)))
    assert node.rows(deliveries)[0].state == "cancelled"
    assert node.rows(jobs)[0].state == "withdrawn"


def test_a_destination_that_gives_no_word_is_asked_again(tmp_path: Path, other: Callable[..., Other]) -> None:
    node, there = node_with(tmp_path), other()
    stored(node)
    ask = asker(node, peer(there.port))
    ask.tick()
    node.clock.advance(3599)
    assert ask.tick() == 0
    node.clock.advance(1)
    assert ask.tick() == 1
    first, second = there.asked
    assert first.TransactionUID != second.TransactionUID
    take(node, answer_to(first))  # late, to a question that was put anew
    assert node.rows(deliveries)[0].commitment == "asked"
    take(node, answer_to(second))
    assert node.rows(deliveries)[0].commitment == "committed"


def test_a_destination_that_answers_at_night_is_in_time_at_last(tmp_path: Path, other: Callable[..., Other]) -> None:
    """It answers each question after ten hours."""
    node, there = node_with(tmp_path), other()
    stored(node)
    ask = asker(node, peer(there.port))
    began, answered = node.clock(), 0
    asked_at: list[float] = []
    while node.rows(deliveries)[0].commitment != "committed":
        asked_at += [node.clock()] * ask.tick()
        while answered < len(asked_at) and node.clock() - asked_at[answered] >= 10 * 3600:
            take(node, answer_to(there.asked[answered]))
            answered += 1
        node.clock.advance(1800)
        assert node.clock() - began < 2 * 86400
    assert len(asked_at) == 5  # after 1, 2, 4 and 8 hours


@pytest.mark.parametrize("wait_s", [4.0, 3600.0])
def test_the_longest_wait_is_a_day_for_a_wait_of_an_hour_and_in_proportion(
    tmp_path: Path, other: Callable[..., Other], wait_s: float
) -> None:
    node, there = node_with(tmp_path), other()
    results = node.config.results.model_copy(update={"commitment_wait_s": wait_s})
    node.config = node.config.model_copy(update={"results": results})
    stored(node)
    with node.database.write() as connection:
        connection.execute(deliveries.update().values(commitment_tries=40))
    assert asker(node, peer(there.port)).tick() == 1
    assert node.rows(deliveries)[0].commitment_at - NOW == 24 * wait_s


def test_questions_that_wait_for_different_times_are_put_one_by_one(
    tmp_path: Path, other: Callable[..., Other]
) -> None:
    node, there = node_with(tmp_path), other()
    stored(node, 3)
    with node.database.write() as connection:
        connection.execute(deliveries.update().where(deliveries.c.id == 2).values(commitment_tries=2))
    ask = asker(node, peer(there.port))
    assert [ask.tick(), ask.tick(), ask.tick()] == [2, 1, 0]
    assert [row.commitment_at - NOW for row in node.rows(deliveries)] == [3600, 4 * 3600, 3600]


@pytest.mark.parametrize("status", [None, 0x0110, 0x0213])
def test_a_destination_that_is_down_or_refuses_is_asked_again_later_each_time(
    tmp_path: Path, other: Callable[..., Other], status: int | None
) -> None:
    node = node_with(tmp_path)
    stored(node)
    to = peer(free_port() if status is None else other(status=status).port, timeout_s=2.0)
    ask, waits = asker(node, to), []
    for _ in range(3):
        assert ask.tick() == 1
        waits.append(node.rows(deliveries)[0].commitment_at - node.clock())
        node.clock.advance(waits[-1])
    assert waits == [10, 20, 40]


def test_a_question_that_could_not_be_asked_makes_no_later_answer_waited_for_longer(
    tmp_path: Path, other: Callable[..., Other]
) -> None:
    node = node_with(tmp_path)
    stored(node)
    there = other(status=0x0110)
    ask = asker(node, peer(there.port))
    for _ in range(5):
        assert ask.tick() == 1
        node.clock.advance(3600)
    there.status = 0
    assert ask.tick() == 1
    (row,) = node.rows(deliveries)
    assert row.commitment_at - node.clock() == node.config.results.commitment_wait_s
    assert row.commitment_tries == 1


def test_a_clock_put_back_delays_no_question(tmp_path: Path, other: Callable[..., Other]) -> None:
    node = node_with(tmp_path)
    stored(node)
    node.clock.advance(-86400)
    assert asker(node, peer(other().port)).tick() == 1


def test_what_no_destination_has_confirmed_is_not_deleted_by_age(tmp_path: Path) -> None:
    node = node_with(tmp_path)
    stored(node)
    late = lambda: NOW + 90 * 86400.0  # noqa: E731
    assert tidy(node.database, node.spool, node.config, clock=late)[0] == 0
    with node.database.write() as connection:
        connection.execute(deliveries.update().values(commitment="committed"))
    assert tidy(node.database, node.spool, node.config, clock=late)[0] == 1


def test_what_a_destination_is_asked_for_no_more_is_not_kept_for_its_word(tmp_path: Path) -> None:
    """It has not answered, and peers.commitment was switched off: nobody would ever ask it again."""
    node = node_with(tmp_path, peer(104, commitment=True))
    stored(node)
    late = lambda: NOW + 90 * 86400.0  # noqa: E731
    assert tidy(node.database, node.spool, node.config, clock=late)[0] == 0
    switched_off = node.config.model_copy(update={"peers": (peer(104, commitment=False),)})
    assert tidy(node.database, node.spool, switched_off, clock=late)[0] == 1
    assert node.rows(deliveries) == []


# What we are asked


def ask_us(port: int, references: list[tuple[str, str]], *, transaction: str = "2.25.77", calling: str = "PACS") -> int:
    ae = AE(calling)
    ae.add_requested_context(SOP_CLASS, CONTEXTS)
    association = ae.associate("127.0.0.1", port, ae_title="NODE")
    asked = Dataset()
    asked.TransactionUID = transaction
    asked.ReferencedSOPSequence = [network._item(*reference) for reference in references]
    status, _ = association.send_n_action(asked, 1, SOP_CLASS, SOP_INSTANCE)
    association.release()
    return int(status.Status)


def test_a_message_that_comes_in_a_context_of_something_else_is_refused(receiver: Callable[..., int]) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it must not get so far")

    ae = AE("PACS")
    for abstract in (VERIFICATION, SOP_CLASS):
        ae.add_requested_context(abstract, CONTEXTS)
    association = ae.associate("127.0.0.1", receiver(never, never), ae_title="NODE")
    verification = next(one for one in association.accepted_contexts if one.abstract_syntax == VERIFICATION)
    association._get_valid_context = lambda *_, **__: verification  # as a peer that does not keep to what it negotiated
    told = Dataset()
    told.TransactionUID = "2.25.77"
    answers = [
        association.send_n_action(told, 1, SOP_CLASS, SOP_INSTANCE),
        association.send_n_event_report(told, 1, SOP_CLASS, SOP_INSTANCE),
    ]
    association.release()
    assert [status.Status for status, _ in answers] == [CommitmentStatus.NO_SUCH_SOP_CLASS] * 2


def test_a_request_that_may_be_deflated_is_not_negotiated(receiver: Callable[..., int]) -> None:
    ae = AE("PACS")  # 400 KB of it unpacked into 400 MB in the receiver before anybody looked at it
    ae.add_requested_context(VERIFICATION)
    ae.add_requested_context(SOP_CLASS, "1.2.840.10008.1.2.1.99")
    association = ae.associate("127.0.0.1", receiver(lambda _: None), ae_title="NODE")
    assert [one.abstract_syntax for one in association.accepted_contexts] == [VERIFICATION]
    association.release()


def told_on(association: Any, information: Dataset) -> Any:
    """The status that is answered, if any."""
    status, _ = association.send_n_event_report(information, 1, SOP_CLASS, SOP_INSTANCE)
    return status.get("Status")


def as_scp(port: int) -> Any:
    """An association on which reports can be made to the node."""
    ae = AE("PACS")
    ae.add_requested_context(SOP_CLASS, CONTEXTS)
    ae.dimse_timeout = 10
    role = build_role(SOP_CLASS, scp_role=True)
    return ae.associate("127.0.0.1", port, ae_title="NODE", ext_neg=[role])


def test_a_report_that_is_larger_than_any_ends_its_association_unread(receiver: Callable[..., int]) -> None:
    """Of eight bytes each, its elements would take forty times as much: whoever may store could end the receiver."""
    taken: list[Report] = []
    port = receiver(taken.append)
    huge = Dataset()
    huge.TransactionUID = "2.25.1"
    huge.add_new(0x00091010, "OB", bytes(NO_OBJECT))
    assert told_on(as_scp(port), huge) is None
    assert taken == []


def test_any_number_of_reports_comes_over_one_association(
    receiver: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_loop, "NO_OBJECT", 1000)
    taken: list[Report] = []
    association = as_scp(receiver(taken.append))
    small = Dataset()
    small.TransactionUID = "2.25.1"
    small.add_new(0x00091010, "OB", bytes(200))
    assert [told_on(association, small) for _ in range(20)] == [0] * 20
    assert len(taken) == 20
    association.release()


def test_reports_are_parsed_one_after_the_other(receiver: Callable[..., int]) -> None:
    within, most = list[Report](), list[int]()

    def take(report: Report) -> None:
        within.append(report)
        time.sleep(0.05)
        most.append(len(within))
        within.pop()

    told = Dataset()
    told.TransactionUID = "2.25.1"
    port = receiver(take)
    associations = [as_scp(port) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda one: told_on(one, told), associations)) == [0] * 4
    for one in associations:
        one.release()
    assert most == [1] * 4


class Us:
    """The parts of a node that are asked, and answer."""

    def __init__(self, node: Made, config: Config | None = None) -> None:
        config = config or node.config
        self.asked = keeping.Keeper(node.database, node.spool, config, clock=node.clock).asked
        self.answerers = keeping.answerers(node.database, node.spool, config, clock=node.clock, jitter=lambda: 0.0)

    def tick(self) -> int:
        return sum(answerer.tick() for answerer in self.answerers)


def references(*datasets: Dataset) -> list[tuple[str, str]]:
    return [(str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in datasets]


def test_we_commit_to_what_is_here_and_whole_and_say_why_not_to_the_rest(
    tmp_path: Path, other: Callable[..., Other], receiver: Callable[..., int]
) -> None:
    there = other()
    node = node_with(tmp_path, peer(free_port(), name="PACS2", ae_title="OTHER"), peer(there.port))
    whole, cut, changed, other_class, lost, twice, absent = (ct(number) for number in range(1, 8))
    node.accept(whole, cut, changed, other_class, lost, twice)
    files = [node.spool.path(row.file) for row in node.rows(instances)]
    files[1].write_bytes(files[1].read_bytes()[:-10])
    content = bytearray(files[2].read_bytes())
    content[-1] ^= 1
    files[2].write_bytes(content)
    files[4].unlink()
    node.accept(ct(6, PixelData=bytes(512)))  # a person has to decide between the two
    asked = references(whole, cut, changed, other_class, lost, twice, absent)
    asked[3] = ("1.2.840.10008.5.1.4.1.1.4", asked[3][1])
    us = Us(node)
    port = receiver(lambda _: None, us.asked)
    assert ask_us(port, asked) == CommitmentStatus.SUCCESS
    assert us.tick() == 1
    ((kind, told),) = there.told
    assert kind == network.FAILURES_EXIST
    assert told.TransactionUID == "2.25.77"
    assert [item.ReferencedSOPInstanceUID for item in told.ReferencedSOPSequence] == [whole.SOPInstanceUID]
    reasons = {item.ReferencedSOPInstanceUID: item.FailureReason for item in told.FailedSOPSequence}
    assert reasons == {
        **{ds.SOPInstanceUID: 0x0110 for ds in (cut, changed, lost, twice)},
        other_class.SOPInstanceUID: 0x0119,
        absent.SOPInstanceUID: 0x0112,
    }
    assert [row.id for row in node.rows(instances) if row.committed_at is not None] == [1]
    assert us.tick() == 0


def test_what_goes_while_it_is_looked_at_is_not_committed_to(
    tmp_path: Path, other: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = other()
    node = node_with(tmp_path, peer(there.port))
    node.accept(ct(1))
    read = node.spool.read

    def reads(file: str) -> bytes:
        content = read(file)
        with node.database.write() as connection:
            purge.delete_rows(connection, 1)
        return content

    us = Us(node)
    us.asked("PACS", "2.25.77", references(ct(1)))
    monkeypatch.setattr(node.spool, "read", reads)
    us.tick()
    assert there.told[0][0] == network.FAILURES_EXIST


class Counted:
    """How often files of a node are read whole, and how often its database is written to."""

    def __init__(self, node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = self.writes = 0
        read, write = node.spool.read, node.database.write

        def reads(file: str) -> bytes:
            self.reads += 1
            return read(file)

        def writes() -> Any:
            self.writes += 1
            return write()

        monkeypatch.setattr(node.spool, "read", reads)
        monkeypatch.setattr(node.database, "write", writes)

    def take(self) -> tuple[int, int]:
        counts, self.reads, self.writes = (self.reads, self.writes), 0, 0
        return counts


def test_images_are_read_and_promised_once_however_often_their_answer_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_with(tmp_path, peer(free_port()))
    images = [ct(number) for number in range(1, 31)]
    node.accept(*images)
    us = Us(node)
    us.asked("PACS", "2.25.77", references(*images))
    counted, seen = Counted(node, monkeypatch), []
    for _ in range(3):
        us.tick()
        seen.append(counted.take())
        node.clock.advance(3600)
    assert [reads for reads, _ in seen] == [30, 0, 0]
    assert [writes for _, writes in seen] == [2, 1, 1]
    node.clock.advance(86400)
    us.tick()
    assert counted.take()[0] == 30  # as what is long ago may no longer be true
    node.clock.advance(1)
    us.asked("PACS", "2.25.78", references(*images))
    us.tick()
    assert counted.take()[0] == 30  # nor is what was true for another request


@pytest.mark.parametrize(
    ("happens", "reason"),
    [("lost", 0x0110), ("cut", 0x0110), ("contradicted", 0x0110), ("deleted", 0x0112), ("released", None)],
)
def test_what_happened_to_an_image_since_the_answer_failed_counts(
    tmp_path: Path, other: Callable[..., Other], happens: str, reason: int | None
) -> None:
    port = free_port()
    node = node_with(tmp_path, peer(port))
    node.accept(ct(1))
    Us(node).asked("PACS", "2.25.77", references(ct(1)))
    Us(node).tick()
    (row,) = node.rows(instances)
    assert row.committed_at == NOW
    file = node.spool.path(row.file)
    if happens == "lost":
        file.unlink()
    if happens == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    if happens == "contradicted":
        node.accept(ct(1, PixelData=bytes(512)))
    with node.database.write() as connection:
        if happens == "deleted":
            purge.delete_rows(connection, 1)
        if happens == "released":
            commitment.release(connection, 1, now=NOW)
    node.clock.advance(3600)
    there = other()
    node.config = node.config.model_copy(update={"peers": (peer(there.port),)})
    Us(node).tick()
    ((_, told),) = there.told
    assert [item.FailureReason for item in told.get("FailedSOPSequence", ())] == ([] if reason is None else [reason])
    if reason is None:
        assert node.rows(instances)[0].committed_at == node.clock()  # promised anew


def test_a_request_that_names_thousands_is_promised_in_parts(
    tmp_path: Path, other: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = other()
    monkeypatch.setattr(keeping, "AT_ONCE", 4)
    node = node_with(tmp_path, peer(there.port))
    images = [ct(number) for number in range(1, 11)]
    node.accept(*images[:9])
    us = Us(node)
    us.asked("PACS", "2.25.77", references(*images))
    counted = Counted(node, monkeypatch)
    us.tick()
    assert counted.take() == (9, 3 + 1)
    ((_, told),) = there.told
    assert [item.ReferencedSOPInstanceUID for item in told.ReferencedSOPSequence] == [
        ds.SOPInstanceUID for ds in images[:9]
    ]
    assert [item.ReferencedSOPInstanceUID for item in told.FailedSOPSequence] == [images[9].SOPInstanceUID]


def test_while_the_spool_cannot_be_read_the_answer_waits(tmp_path: Path, other: Callable[..., Other]) -> None:
    """A disk that comes back loses nothing: nobody may be told that his image is damaged, and keep that for good."""
    there = other()
    node = node_with(tmp_path, peer(there.port))
    node.accept(ct(1))
    us = Us(node)
    us.asked("PACS", "2.25.77", references(ct(1)))
    folder = node.spool.folder
    folder.rename(folder.with_name("unmounted"))
    with pytest.raises(StoreUnavailable):
        us.tick()
    (row,) = node.rows(commitments)
    assert (row.state, row.tries, there.told) == ("waiting", 0, [])
    folder.with_name("unmounted").rename(folder)
    assert us.tick() == 1
    assert [kind for kind, _ in there.told] == [network.ALL_COMMITTED]


def test_what_cannot_be_answered_is_given_up_at_last_and_then_forgotten(tmp_path: Path) -> None:
    node = node_with(tmp_path, peer(free_port()))
    us = Us(node)
    us.asked("PACS", "2.25.77", references(ct(1)))
    keep_s = node.config.retention.keep_days * 86400.0
    for ahead_s, state in ((keep_s, "waiting"), (3600, "failed")):
        node.clock.advance(ahead_s)
        assert us.tick() == 1
        assert [row.state for row in node.rows(commitments)] == [state]
    us.asked("PACS", "2.25.78", references(ct(1)))
    tidy(node.database, node.spool, node.config, clock=node.clock)
    assert [(row.transaction_uid, row.state) for row in node.rows(commitments)] == [("2.25.78", "waiting")]


def test_an_answer_about_a_patient_who_is_forgotten_meanwhile_answers_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_with(tmp_path, peer(1), peer(2, name="PACS2", ae_title="OTHER"))
    node.accept(ct(1))
    us = Us(node)
    us.asked("PACS", "2.25.77", references(ct(1)))

    def forgets(*_: object) -> None:
        forgetting.erase(node.database, node.spool, Whom("P-1"), now=NOW)
        us.asked("OTHER", "2.25.78", references(ct(2)))

    monkeypatch.setattr(network, "report", forgets)
    next(one for one in us.answerers if one.peer.name == "PACS1").tick()
    assert [(row.calling_aet, row.state) for row in node.rows(commitments)] == [("OTHER", "waiting")]


@pytest.mark.parametrize("changed", [{"peers": ()}, {"commitment": Commitment(accept=False)}])
def test_what_nobody_can_answer_any_longer_is_told_of_and_then_forgotten(
    tmp_path: Path, changed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    node = node_with(tmp_path, peer(free_port()))
    Us(node).asked("PACS", "2.25.77", references(ct(1)))
    config = node.config.model_copy(update=changed)
    for waiting, ahead_s in ((1, 3600), (0, node.config.retention.keep_days * 86400.0)):
        node.clock.advance(ahead_s)
        caplog.clear()
        tidy(node.database, node.spool, config, clock=node.clock)
        told = [record.getMessage() for record in caplog.records if "not_answered" in record.getMessage()]
        assert len(told) == len(node.rows(commitments)) == waiting
        assert all("calling=PACS requests=1" in line for line in told)


def test_a_peer_that_is_silent_holds_up_no_other(
    tmp_path: Path, other: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ASK_S", 0.01)
    first, last = other(), other()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = {"FIRST": first.port, "SILENT": silent.getsockname()[1], "LAST": last.port}
        peers = [peer(port, name=name, ae_title=name, results=False, timeout_s=20.0) for name, port in ports.items()]
        node = node_with(tmp_path, *peers)
        node.accept(ct(1))
        for calling in ("SILENT", "FIRST", "LAST"):
            Us(node).asked(calling, "2.25.77", references(ct(1)))
        node.clock.advance(time.time() - NOW)
        serving = service.Service(node.config, Version("m", "p"))
        reports = Reports(node.database, node.config)
        serving._talk_to_peers(node.database, node.spool, reports)
        heard = [one.heard.wait(10.0) for one in (first, last)]
        serving._stopping.set()
    serving._threads.join(30.0)
    assert heard == [True, True]


def test_however_many_peers_are_answered_one_image_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/security.md counts one; an image may have a gigabyte."""
    titles = ("CT1", "CT2", "CT3")
    node = node_with(tmp_path, *(peer(free_port(), name=title, ae_title=title) for title in titles))
    node.accept(ct(1), ct(2))
    us = Us(node)
    for title in titles:
        us.asked(title, "2.25.77", references(ct(1), ct(2)))
    within, most = list[str](), list[int]()
    read = node.spool.read

    def reads(file: str) -> bytes:
        within.append(file)
        time.sleep(0.05)
        most.append(len(within))
        within.pop()
        return read(file)

    monkeypatch.setattr(node.spool, "read", reads)
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(lambda one: one.tick(), us.answerers)) == [1] * 3
    assert len(most) >= 2
    assert set(most) == {1}


def test_a_peer_that_does_not_answer_is_tried_once_per_tick(tmp_path: Path) -> None:
    """Each try may take its whole timeout, and the service is to stop in between."""
    node = node_with(tmp_path, peer(free_port()))
    us = Us(node)
    for number in range(3):
        us.asked("PACS", f"2.25.{number}", references(ct(1)))
    assert [us.tick(), us.tick(), us.tick(), us.tick()] == [1, 1, 1, 0]
    assert [row.tries for row in node.rows(commitments)] == [1, 1, 1]


def test_what_we_committed_to_outlives_its_retention_until_it_is_released(
    tmp_path: Path, other: Callable[..., Other]
) -> None:
    there = other()
    node = node_with(tmp_path, peer(there.port))
    node.accept(ct(1))
    with node.database.write() as connection:
        connection.execute(series.update().values(state="refused"))
    us = Us(node)
    us.asked("PACS", "2.25.77", references(ct(1)))
    us.tick()
    assert there.told[0][0] == network.ALL_COMMITTED
    late = lambda: NOW + 900 * 86400.0  # noqa: E731
    assert tidy(node.database, node.spool, node.config, clock=late) == (0, 0)
    with node.database.write() as connection:
        assert commitment.release(connection, 1, now=NOW) == 1
    assert tidy(node.database, node.spool, node.config, clock=late)[0] == 1


def test_an_answer_that_cannot_be_given_is_given_later_and_a_repeated_question_changes_nothing(
    tmp_path: Path, other: Callable[..., Other]
) -> None:
    port = free_port()
    node = node_with(tmp_path, peer(port, timeout_s=2.0))
    node.accept(ct(1))
    us = Us(node)
    for _ in range(2):
        assert us.asked("PACS", "2.25.77", references(ct(1))) == CommitmentStatus.SUCCESS
    assert len(node.rows(commitments)) == 1
    assert us.tick() == 1
    row = node.rows(commitments)[0]
    assert (row.state, row.tries, row.next_at) == ("waiting", 1, NOW + 10)
    there = other()
    moved = node.config.model_copy(update={"peers": (peer(there.port),)})
    node.clock.advance(10)
    later = Us(node, moved)  # after a restart
    assert later.tick() == 1
    assert there.heard.is_set()
    assert node.rows(commitments)[0].state == "delivered"


def test_an_object_that_is_named_a_hundred_times_is_read_once(receiver: Callable[..., int]) -> None:
    asked: list[Any] = []

    def keep(_calling: str, _transaction: str, named: Any) -> CommitmentStatus:
        asked.append(named)
        return CommitmentStatus.SUCCESS

    twice = [*references(ct(1), ct(2)), *references(ct(1))]
    assert ask_us(receiver(lambda _: None, keep), twice) == CommitmentStatus.SUCCESS
    assert asked == [references(ct(1), ct(2))]


def test_no_request_is_taken_where_the_disk_is_full(
    tmp_path: Path, receiver: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_with(tmp_path, peer(104))
    monkeypatch.setattr(node.spool, "min_free_mib", 2**40)
    refused = ask_us(receiver(lambda _: None, Us(node).asked), references(ct(1)))
    assert refused == CommitmentStatus.RESOURCE_LIMITATION
    assert node.rows(commitments) == []


def test_who_cannot_be_answered_is_refused(tmp_path: Path, receiver: Callable[..., int]) -> None:
    node = node_with(tmp_path, peer(104, ae_title="OTHER"))
    assert ask_us(receiver(lambda _: None, Us(node).asked), references(ct(1))) == CommitmentStatus.NOT_AUTHORIZED
    assert node.rows(commitments) == []


def test_by_default_nobody_may_ask(receiver: Callable[..., int]) -> None:
    assert not Config().commitment.accept
    assert ask_us(receiver(lambda _: None), references(ct(1))) == CommitmentStatus.NOT_AUTHORIZED


@pytest.mark.parametrize("asked", [[], [("1.2.840.10008.5.1.4.1.1.2", "../../etc")]])
def test_a_request_that_names_nothing_or_no_uid_is_refused(
    receiver: Callable[..., int], asked: list[tuple[str, str]]
) -> None:
    def never(*_: object) -> CommitmentStatus:
        raise AssertionError("it must not get so far")

    assert ask_us(receiver(lambda _: None, never), asked) == CommitmentStatus.INVALID_ARGUMENT


def test_a_request_that_cannot_be_kept_is_not_taken(receiver: Callable[..., int]) -> None:
    def fails(*_: object) -> CommitmentStatus:
        raise StoreUnavailable("the database cannot be used")

    assert ask_us(receiver(lambda _: None, fails), references(ct(1))) == CommitmentStatus.RESOURCE_LIMITATION


# With Orthanc


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[tuple[int, Callable[..., Any], int]]:
    """Its DICOM port, a call of its REST API, and the port at which it looks for us."""
    if shutil.which("Orthanc") is None:
        pytest.skip("Orthanc is not installed")
    dicom, http, ours = free_port(), free_port(), free_port()
    configuration = {
        "Name": "test",
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "Plugins": [],
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {"node": {"AET": "NODE", "Host": "127.0.0.1", "Port": ours, "AllowStorageCommitment": True}},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration))
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(tmp_path / "orthanc.json")], stdout=log, stderr=log)

    def call(path: str, content: bytes | None = None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{http}{path}", data=content)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())

    def is_up() -> bool:
        try:
            return bool(call("/system"))
        except OSError:
            return False

    try:
        _until(is_up, "Orthanc answers", 60.0)
        yield dicom, call, ours
    finally:
        process.kill()
        process.wait()


def _until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.1)):
        if condition():
            return
        pause.wait(0.1)
    raise AssertionError(f"not in {timeout_s:.0f} s: {what}")


@pytest.mark.peer
def test_orthanc_commits_to_what_it_has_and_not_to_what_it_lost(
    tmp_path: Path, orthanc: tuple[int, Callable[..., Any], int], receiver: Callable[..., int]
) -> None:
    dicom, call, ours = orthanc
    node = made_node(tmp_path, peers=[peer(dicom, ae_title="ORTHANC")])
    config = node.config.model_copy(update={"node": node.config.node.model_copy(update={"ae_title": "NODE"})})
    kept, _ = stored(node, 2)
    image = ct(1, SOPInstanceUID=kept)
    file = tmp_path / "kept.dcm"

    file.write_bytes(part10(image))
    call("/instances", file.read_bytes())
    with node.database.write() as connection:
        connection.execute(objects.update().values(sop_class_uid=str(image.SOPClassUID)))
    reports = Reports(node.database, config, clock=node.clock)
    receiver(reports.take, port=ours)
    Asker(node.database, config.peers[0], config, reports, clock=node.clock).tick()
    _until(lambda: {row.commitment for row in node.rows(deliveries)} == {"committed", None}, "Orthanc has answered")
    assert [(row.state, row.commitment) for row in node.rows(deliveries)] == [
        ("delivered", "committed"),
        ("waiting", None),
    ]


@pytest.mark.peer
def test_orthanc_asks_and_understands_our_answer(
    tmp_path: Path, orthanc: tuple[int, Callable[..., Any], int], receiver: Callable[..., int]
) -> None:
    dicom, call, ours = orthanc
    node = made_node(tmp_path, peers=[peer(dicom, ae_title="ORTHANC")])
    config = node.config.model_copy(update={"node": node.config.node.model_copy(update={"ae_title": "NODE"})})
    node.accept(ct(1))
    us = Us(node, config)
    receiver(lambda _: None, us.asked, port=ours)
    pairs = [list(reference) for reference in references(ct(1), ct(2))]
    asked = json.dumps({"DicomInstances": pairs, "Timeout": 10}).encode()
    transaction = call("/modalities/node/storage-commitment", asked)["ID"]
    assert us.tick() == 1

    _until(lambda: call(f"/storage-commitment/{transaction}")["Status"] != "Pending", "Orthanc has our answer")
    said = call(f"/storage-commitment/{transaction}")
    assert said["Status"] == "Failure"
    assert [one["SOPInstanceUID"] for one in said["Success"]] == [ct(1).SOPInstanceUID]
    assert [one["SOPInstanceUID"] for one in said["Failures"]] == [ct(2).SOPInstanceUID]
