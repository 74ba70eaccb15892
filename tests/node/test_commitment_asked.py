"""Storage commitment (PS3.4 annex J) that this node asks for: what was delivered, and what the answers make of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from committing import CONTEXTS, Other, node_with, stored, take
from made import NOW, Made, peer
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role

from dicom_node import uids
from dicom_node.config import Peer
from dicom_node.delivering.committing import Asker, Reports
from dicom_node.network.commitment import SOP_CLASS, SOP_INSTANCE, Report
from dicom_node.network.stand_in import free_port
from dicom_node.serving.housekeeping import tidy
from dicom_node.store import cancelling, commitment_asked, outbox, purge
from dicom_node.store.database import Connection
from dicom_node.store.tables import deliveries, jobs, objects


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


def lose(node: Made, uid: str, *, chance: float = 0.0) -> None:
    """PACS1 is asked about all that it has stored, and has failed to keep this one."""
    transaction = f"2.25.9{node.clock():.0f}"
    with node.database.write() as connection:
        owed = commitment_asked.due(connection, "PACS1", now=node.clock(), longest_wait_s=3600, limit=10)
        commitment_asked.ask(connection, owed, transaction, again_at=node.clock() + 3600)
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


def test_what_was_delivered_is_asked_for_once_and_the_answer_settles_it(
    tmp_path: Path, committing_peer: Callable[..., Other]
) -> None:
    node, there = node_with(tmp_path), committing_peer()
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
    tmp_path: Path, committing_peer: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the destination then said to have lost would be sent again, to a patient who is no longer its own."""
    node, there = node_with(tmp_path), committing_peer()
    stored(node)
    just_before_asking(monkeypatch, lambda connection: cancelling.keep_back(connection, 1, now=NOW), node)
    assert asker(node, peer(there.port)).tick() == 0
    assert there.asked == []
    assert [row.commitment for row in node.rows(deliveries)] == [None]


def test_a_question_about_what_was_just_forgotten_is_not_put_about_what_came_since(
    tmp_path: Path, committing_peer: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, there = node_with(tmp_path), committing_peer()
    stored(node)

    def forgets(connection: Connection) -> None:
        purge.delete_objects(connection, objects.c.id == 1)
        made = outbox.MadeObject("report", "1.2.3", "2.25.2", "2.25.9", "aa/2.dcm", 1, "0" * 64)
        outbox.put(connection, 1, [made], ["PACS1"], now=NOW)

    just_before_asking(monkeypatch, forgets, node)
    assert asker(node, peer(there.port)).tick() == 0
    assert there.asked == []
    assert [(row.state, row.commitment) for row in node.rows(deliveries)] == [("waiting", None)]


def test_an_answer_on_the_same_association_is_taken(tmp_path: Path, committing_peer: Callable[..., Other]) -> None:
    node, there = node_with(tmp_path), committing_peer(answers_at_once=answer_to)
    stored(node, 2)
    asker(node, peer(there.port), linger_s=10.0).tick()
    assert {row.commitment for row in node.rows(deliveries)} == {"committed"}


def test_an_answer_on_an_association_of_the_peers_is_taken(
    tmp_path: Path, committing_peer: Callable[..., Other], committing_receiver: Callable[..., int]
) -> None:
    node, there = node_with(tmp_path), committing_peer()
    stored(node)
    asker(node, peer(there.port)).tick()
    port = committing_receiver(Reports(node.database, node.config, clock=node.clock).take)
    ae = AE("PACS")
    ae.add_requested_context(SOP_CLASS, CONTEXTS)
    association = ae.associate("127.0.0.1", port, ae_title="NODE", ext_neg=[build_role(SOP_CLASS, scp_role=True)])
    status, _ = association.send_n_event_report(answer_to(there.asked[0]), 1, SOP_CLASS, SOP_INSTANCE)
    association.release()
    assert status.Status == 0
    assert node.rows(deliveries)[0].commitment == "committed"


def test_what_the_destination_has_lost_is_sent_again(tmp_path: Path, committing_peer: Callable[..., Other]) -> None:
    node, there = node_with(tmp_path), committing_peer()
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
        owed = commitment_asked.due(connection, "PACS1", now=node.clock(), longest_wait_s=3600, limit=10)
        commitment_asked.ask(connection, owed, "2.25.9", again_at=node.clock() + 3600)
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
    tmp_path: Path, committing_peer: Callable[..., Other]
) -> None:
    node, there = node_with(tmp_path), committing_peer()
    (lost,) = stored(node)
    asker(node, peer(there.port)).tick()
    with node.database.write() as connection:
        connection.execute(jobs.update().values(state="withdrawn"))
    take(node, answer_to(there.asked[0], failed=(lost,)))
    assert node.rows(deliveries)[0].state == "cancelled"
    assert node.rows(jobs)[0].state == "withdrawn"


def test_a_destination_that_gives_no_word_is_asked_again(tmp_path: Path, committing_peer: Callable[..., Other]) -> None:
    node, there = node_with(tmp_path), committing_peer()
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


def test_a_destination_that_answers_at_night_is_in_time_at_last(
    tmp_path: Path, committing_peer: Callable[..., Other]
) -> None:
    """It answers each question after ten hours."""
    node, there = node_with(tmp_path), committing_peer()
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
    tmp_path: Path, committing_peer: Callable[..., Other], wait_s: float
) -> None:
    node, there = node_with(tmp_path), committing_peer()
    results = node.config.results.model_copy(update={"commitment_wait_s": wait_s})
    node.config = node.config.model_copy(update={"results": results})
    stored(node)
    with node.database.write() as connection:
        connection.execute(deliveries.update().values(commitment_tries=40))
    assert asker(node, peer(there.port)).tick() == 1
    assert node.rows(deliveries)[0].commitment_at - NOW == 24 * wait_s


def test_questions_that_wait_for_different_times_are_put_one_by_one(
    tmp_path: Path, committing_peer: Callable[..., Other]
) -> None:
    node, there = node_with(tmp_path), committing_peer()
    stored(node, 3)
    with node.database.write() as connection:
        connection.execute(deliveries.update().where(deliveries.c.id == 2).values(commitment_tries=2))
    ask = asker(node, peer(there.port))
    assert [ask.tick(), ask.tick(), ask.tick()] == [2, 1, 0]
    assert [row.commitment_at - NOW for row in node.rows(deliveries)] == [3600, 4 * 3600, 3600]


@pytest.mark.parametrize("status", [None, 0x0110, 0x0213])
def test_a_destination_that_is_down_or_refuses_is_asked_again_later_each_time(
    tmp_path: Path, committing_peer: Callable[..., Other], status: int | None
) -> None:
    node = node_with(tmp_path)
    stored(node)
    to = peer(free_port() if status is None else committing_peer(status=status).port, timeout_s=2.0)
    ask, waits = asker(node, to), []
    for _ in range(3):
        assert ask.tick() == 1
        waits.append(node.rows(deliveries)[0].commitment_at - node.clock())
        node.clock.advance(waits[-1])
    assert waits == [10, 20, 40]


def test_a_question_that_could_not_be_asked_makes_no_later_answer_waited_for_longer(
    tmp_path: Path, committing_peer: Callable[..., Other]
) -> None:
    node = node_with(tmp_path)
    stored(node)
    there = committing_peer(status=0x0110)
    ask = asker(node, peer(there.port))
    for _ in range(5):
        assert ask.tick() == 1
        node.clock.advance(3600)
    there.status = 0
    assert ask.tick() == 1
    (row,) = node.rows(deliveries)
    assert row.commitment_at - node.clock() == node.config.results.commitment_wait_s
    assert row.commitment_tries == 1


def test_a_clock_put_back_delays_no_question(tmp_path: Path, committing_peer: Callable[..., Other]) -> None:
    node = node_with(tmp_path)
    stored(node)
    node.clock.advance(-86400)
    assert asker(node, peer(committing_peer().port)).tick() == 1


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
