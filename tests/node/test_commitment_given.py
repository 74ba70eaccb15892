"""Storage commitment (PS3.4 annex J) that this node is asked for: what it promises, and when it answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from committing import CONTEXTS, Other, Us, node_with, references
from made import NOW, Made, ct, peer
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role

from dicom_node.administering import forgetting
from dicom_node.administering.forgetting import Whom
from dicom_node.config import Commitment, Config
from dicom_node.delivering import keeping
from dicom_node.delivering.committing import Reports
from dicom_node.errors import StoreUnavailable
from dicom_node.network import commitment as network
from dicom_node.network import library_loop
from dicom_node.network.commitment import SOP_CLASS, SOP_INSTANCE, Report
from dicom_node.network.memory import NO_OBJECT
from dicom_node.network.stand_in import free_port
from dicom_node.network.syntaxes import VERIFICATION
from dicom_node.serving import service
from dicom_node.serving.housekeeping import tidy
from dicom_node.status import CommitmentStatus
from dicom_node.store import commitment_given, purge
from dicom_node.store.results import Version
from dicom_node.store.tables import commitments, instances, series


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


def test_a_message_that_comes_in_a_context_of_something_else_is_refused(
    committing_receiver: Callable[..., int],
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it must not get so far")

    ae = AE("PACS")
    for abstract in (VERIFICATION, SOP_CLASS):
        ae.add_requested_context(abstract, CONTEXTS)
    association = ae.associate("127.0.0.1", committing_receiver(never, never), ae_title="NODE")
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


def test_a_request_that_may_be_deflated_is_not_negotiated(committing_receiver: Callable[..., int]) -> None:
    ae = AE("PACS")  # 400 KB of it unpacked into 400 MB in the receiver before anybody looked at it
    ae.add_requested_context(VERIFICATION)
    ae.add_requested_context(SOP_CLASS, "1.2.840.10008.1.2.1.99")
    association = ae.associate("127.0.0.1", committing_receiver(lambda _: None), ae_title="NODE")
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


def test_a_report_that_is_larger_than_any_ends_its_association_unread(committing_receiver: Callable[..., int]) -> None:
    """Of eight bytes each, its elements would take forty times as much: whoever may store could end the receiver."""
    taken: list[Report] = []
    port = committing_receiver(taken.append)
    huge = Dataset()
    huge.TransactionUID = "2.25.1"
    huge.add_new(0x00091010, "OB", bytes(NO_OBJECT))
    assert told_on(as_scp(port), huge) is None
    assert taken == []


def test_any_number_of_reports_comes_over_one_association(
    committing_receiver: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_loop, "NO_OBJECT", 1000)
    taken: list[Report] = []
    association = as_scp(committing_receiver(taken.append))
    small = Dataset()
    small.TransactionUID = "2.25.1"
    small.add_new(0x00091010, "OB", bytes(200))
    assert [told_on(association, small) for _ in range(20)] == [0] * 20
    assert len(taken) == 20
    association.release()


def test_reports_are_parsed_one_after_the_other(committing_receiver: Callable[..., int]) -> None:
    within, most = list[Report](), list[int]()

    def take(report: Report) -> None:
        within.append(report)
        time.sleep(0.05)
        most.append(len(within))
        within.pop()

    told = Dataset()
    told.TransactionUID = "2.25.1"
    port = committing_receiver(take)
    associations = [as_scp(port) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda one: told_on(one, told), associations)) == [0] * 4
    for one in associations:
        one.release()
    assert most == [1] * 4


def test_we_commit_to_what_is_here_and_whole_and_say_why_not_to_the_rest(
    tmp_path: Path, committing_peer: Callable[..., Other], committing_receiver: Callable[..., int]
) -> None:
    there = committing_peer()
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
    port = committing_receiver(lambda _: None, us.asked)
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
    tmp_path: Path, committing_peer: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = committing_peer()
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
    tmp_path: Path, committing_peer: Callable[..., Other], happens: str, reason: int | None
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
            commitment_given.release(connection, 1, now=NOW)
    node.clock.advance(3600)
    there = committing_peer()
    node.config = node.config.model_copy(update={"peers": (peer(there.port),)})
    Us(node).tick()
    ((_, told),) = there.told
    assert [item.FailureReason for item in told.get("FailedSOPSequence", ())] == ([] if reason is None else [reason])
    if reason is None:
        assert node.rows(instances)[0].committed_at == node.clock()  # promised anew


def test_a_request_that_names_thousands_is_promised_in_parts(
    tmp_path: Path, committing_peer: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = committing_peer()
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


def test_while_the_spool_cannot_be_read_the_answer_waits(tmp_path: Path, committing_peer: Callable[..., Other]) -> None:
    """A disk that comes back loses nothing: nobody may be told that his image is damaged, and keep that for good."""
    there = committing_peer()
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
    tmp_path: Path, committing_peer: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ASK_S", 0.01)
    first, last = committing_peer(), committing_peer()
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
    tmp_path: Path, committing_peer: Callable[..., Other]
) -> None:
    there = committing_peer()
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
        assert commitment_given.release(connection, 1, now=NOW) == 1
    assert tidy(node.database, node.spool, node.config, clock=late)[0] == 1


def test_an_answer_that_cannot_be_given_is_given_later_and_a_repeated_question_changes_nothing(
    tmp_path: Path, committing_peer: Callable[..., Other]
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
    there = committing_peer()
    moved = node.config.model_copy(update={"peers": (peer(there.port),)})
    node.clock.advance(10)
    later = Us(node, moved)  # after a restart
    assert later.tick() == 1
    assert there.heard.is_set()
    assert node.rows(commitments)[0].state == "delivered"


def test_an_object_that_is_named_a_hundred_times_is_read_once(committing_receiver: Callable[..., int]) -> None:
    asked: list[Any] = []

    def keep(_calling: str, _transaction: str, named: Any) -> CommitmentStatus:
        asked.append(named)
        return CommitmentStatus.SUCCESS

    twice = [*references(ct(1), ct(2)), *references(ct(1))]
    assert ask_us(committing_receiver(lambda _: None, keep), twice) == CommitmentStatus.SUCCESS
    assert asked == [references(ct(1), ct(2))]


def test_no_request_is_taken_where_the_disk_is_full(
    tmp_path: Path, committing_receiver: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_with(tmp_path, peer(104))
    monkeypatch.setattr(node.spool, "min_free_mib", 2**40)
    refused = ask_us(committing_receiver(lambda _: None, Us(node).asked), references(ct(1)))
    assert refused == CommitmentStatus.RESOURCE_LIMITATION
    assert node.rows(commitments) == []


def test_who_cannot_be_answered_is_refused(tmp_path: Path, committing_receiver: Callable[..., int]) -> None:
    node = node_with(tmp_path, peer(104, ae_title="OTHER"))
    assert (
        ask_us(committing_receiver(lambda _: None, Us(node).asked), references(ct(1)))
        == CommitmentStatus.NOT_AUTHORIZED
    )
    assert node.rows(commitments) == []


def test_by_default_nobody_may_ask(committing_receiver: Callable[..., int]) -> None:
    assert not Config().commitment.accept
    assert ask_us(committing_receiver(lambda _: None), references(ct(1))) == CommitmentStatus.NOT_AUTHORIZED


@pytest.mark.parametrize("asked", [[], [("1.2.840.10008.5.1.4.1.1.2", "../../etc")]])
def test_a_request_that_names_nothing_or_no_uid_is_refused(
    committing_receiver: Callable[..., int], asked: list[tuple[str, str]]
) -> None:
    def never(*_: object) -> CommitmentStatus:
        raise AssertionError("it must not get so far")

    assert ask_us(committing_receiver(lambda _: None, never), asked) == CommitmentStatus.INVALID_ARGUMENT


def test_a_request_that_cannot_be_kept_is_not_taken(committing_receiver: Callable[..., int]) -> None:
    def fails(*_: object) -> CommitmentStatus:
        raise StoreUnavailable("the database cannot be used")

    assert ask_us(committing_receiver(lambda _: None, fails), references(ct(1))) == CommitmentStatus.RESOURCE_LIMITATION
