"""Filing for many associations at once: one commit for what waits together, and each told what became of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from made import Made, changed, ct, received
from pydicom.dataset import Dataset
from sqlalchemy import Connection

from dicom_node.errors import StoreUnavailable
from dicom_node.headers.header import pixel_digest
from dicom_node.received import Received
from dicom_node.status import StoreStatus
from dicom_node.store import filing, together
from dicom_node.store.comparing import Arrival
from dicom_node.store.faults import Deadlocked
from dicom_node.store.tables import instances


class Turns:
    """Holds the first transaction at its end, until all others have put down what they have; counts the commits."""

    def __init__(self, node: Made, others: int) -> None:
        self.commits = 0
        self.open = threading.Event()
        self._node, self._others = node, others
        self._write = node.database.write
        self._filer = node.acceptor._filer

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self._write() as connection:
            yield connection
            if not self.open.is_set():
                self.open.set()
                while len(self._filer._waiting) < self._others:
                    threading.Event().wait(0.001)
        self.commits += 1


def accepted_at_once(
    node: Made, first: Dataset, others: Sequence[Received], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[StoreStatus], int]:
    """What each of `others` is answered, which all wait while `first` is committed; and the number of commits."""
    turns = Turns(node, len(others))
    monkeypatch.setattr(node.database, "write", turns.write)
    answers: dict[int, StoreStatus] = {}

    def send(number: int, one: Received) -> None:
        answers[number] = node.acceptor.accept(one)

    leader = threading.Thread(target=send, args=(0, received(first)))
    leader.start()
    assert turns.open.wait(30)
    threads = [threading.Thread(target=send, args=(n, one)) for n, one in enumerate(others, 1)]
    for thread in threads:
        thread.start()
    for thread in (leader, *threads):
        thread.join(30)
    assert answers.pop(0) == StoreStatus.SUCCESS
    return [answers[n] for n in sorted(answers)], turns.commits


def test_what_waits_together_is_one_commit_and_all_of_it_is_kept(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [received(ct(number)) for number in range(2, 12)]
    answers, commits = accepted_at_once(node, ct(1), others, monkeypatch)
    assert answers == [StoreStatus.SUCCESS] * 10
    assert commits == 2
    rows = node.rows(instances)
    assert {row.sop_instance_uid for row in rows} == {ct(number).SOPInstanceUID for number in range(1, 12)}
    assert all(node.spool.holds(row.file, row.size) for row in rows)


def test_while_an_arrival_is_compared_with_an_earlier_copy_others_are_filed(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To parse one takes seconds, if its sender wants it to; the database was locked meanwhile, for everybody."""
    compare, comparing, go_on = pixel_digest, threading.Event(), threading.Event()

    def slowly(*given: Any) -> str:
        comparing.set()
        assert go_on.wait(60)
        return compare(*given)

    monkeypatch.setattr(together, "pixel_digest", slowly)
    answers: dict[str, list[StoreStatus]] = {}

    def send(name: str, ds: Dataset) -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.update({name: node.accept(ds)}))
        thread.start()
        return thread

    node.accept(ct(1))
    corrected = send("corrected", ct(1, PatientSex="M"))
    assert comparing.wait(30)
    other = send("other", ct(2))
    other.join(10)
    before = dict(answers)
    go_on.set()
    corrected.join(30)
    other.join(30)
    assert before == {"other": [StoreStatus.SUCCESS]}
    assert answers["corrected"] == [StoreStatus.SUCCESS]
    assert sorted(row.current for row in node.rows(instances)) == [False, True, True]


def test_nobody_is_answered_before_the_commit_that_holds_its_row(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    write, seen = node.database.write, []

    @contextmanager
    def fails_to_commit() -> Iterator[Connection]:
        with write() as connection:
            yield connection
            seen.append(connection)
            raise StoreUnavailable("the power went")

    monkeypatch.setattr(node.database, "write", fails_to_commit)
    assert node.accept(ct(1)) == [StoreStatus.OUT_OF_RESOURCES]
    assert len(seen) == 1
    assert node.rows(instances) == []
    assert len(node.files()) == 1  # a commit that failed may still have happened: its file stays


def test_the_same_object_from_many_at_once_is_kept_once_and_acknowledged_to_all(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, _ = accepted_at_once(node, ct(1), [received(ct(2)) for _ in range(6)], monkeypatch)
    assert answers == [StoreStatus.SUCCESS] * 6
    assert len(node.rows(instances)) == len(node.files()) == 2


@pytest.mark.parametrize("again", [ct(1), changed(ct(1), PatientName="Doe^Janet")])
def test_nothing_waits_for_the_file_of_what_comes_again_to_be_read(
    node: Made, monkeypatch: pytest.MonkeyPatch, again: Dataset
) -> None:
    node.accept(ct(1))
    read, read_in_a_transaction = node.spool.read, []

    def reads(name: str) -> bytes:
        read_in_a_transaction.append(node.acceptor._filer._turn.locked())
        return read(name)

    monkeypatch.setattr(node.spool, "read", reads)
    assert node.accept(again) == [StoreStatus.SUCCESS]
    assert read_in_a_transaction
    assert not any(read_in_a_transaction)


@pytest.mark.parametrize("trouble", [StoreUnavailable("the disk is gone"), MemoryError()], ids=["disk", "memory"])
def test_what_cannot_be_compared_with_an_earlier_copy_leaves_no_file(
    node: Made, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def fails(*_: Any) -> str:
        raise trouble

    node.accept(ct(1))
    monkeypatch.setattr(together, "pixel_digest", fails)
    with contextlib.suppress(MemoryError):
        assert node.accept(ct(1, PatientSex="M")) == [StoreStatus.OUT_OF_RESOURCES]
    assert {row.file for row in node.rows(instances)} == node.files()


def test_a_contradiction_is_found_among_those_that_wait_together(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [received(ct(2)), received(changed(ct(2), PixelData=bytes(512)))]
    answers, _ = accepted_at_once(node, ct(1), others, monkeypatch)
    assert answers == [StoreStatus.SUCCESS] * 2
    assert [row.sop_instance_uid for row in node.rows(instances)].count(str(ct(2).SOPInstanceUID)) == 2


@pytest.mark.parametrize("how", ["a fault of this program", "its file was removed"])
def test_one_that_cannot_be_filed_spoils_it_for_no_other(node: Made, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    broken = str(ct(3).SOPInstanceUID)
    file = filing.file

    def files(connection: Connection, arrival: Arrival, **given: Any) -> filing.Filing:
        if arrival.header.sop_instance_uid != broken:
            return file(connection, arrival, **given)
        if how == "a fault of this program":
            raise ZeroDivisionError
        node.spool.remove(arrival.file)  # as `forget` does with files that no row names
        return file(connection, arrival, **given)

    monkeypatch.setattr(filing, "file", files)
    others = [received(ct(number)) for number in (2, 4, 5)]
    if how == "its file was removed":
        others.append(received(ct(3)))
        answers, _ = accepted_at_once(node, ct(1), others, monkeypatch)
        assert answers == [StoreStatus.SUCCESS] * 3 + [StoreStatus.OUT_OF_RESOURCES]
    else:
        with pytest.raises(ZeroDivisionError):
            node.accept(ct(3))
        answers, _ = accepted_at_once(node, ct(1), others, monkeypatch)
        assert answers == [StoreStatus.SUCCESS] * 3
    rows = node.rows(instances)
    assert broken not in {row.sop_instance_uid for row in rows}
    assert {row.file for row in rows} == node.files()


@pytest.mark.parametrize(("times", "status"), [(1, 0), (together.TRIES - 1, 0), (together.TRIES, 0xA700)])
def test_a_transaction_that_met_another_crosswise_is_tried_again_with_its_file(
    node: Made, monkeypatch: pytest.MonkeyPatch, times: int, status: int
) -> None:
    file, left = filing.file, iter(range(times))

    def deadlocked(*args: Any, **given: Any) -> filing.Filing:
        if next(left, None) is not None:
            raise Deadlocked("deadlock detected")
        return file(*args, **given)

    monkeypatch.setattr(filing, "file", deadlocked)
    assert node.accept(ct(1)) == [status]
    assert len(node.rows(instances)) == len(node.files()) == (status == 0)


def test_a_database_that_cannot_be_used_is_told_to_all_that_wait_and_tried_once(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    filed: list[str] = []

    def files(connection: Connection, arrival: Arrival, **given: Any) -> filing.Filing:
        filed.append(arrival.file)
        if arrival.header.sop_instance_uid == str(ct(1).SOPInstanceUID):
            return filing_file(connection, arrival, **given)
        raise StoreUnavailable("the database cannot be used: disk I/O error")

    filing_file = filing.file
    monkeypatch.setattr(filing, "file", files)
    answers, _ = accepted_at_once(node, ct(1), [received(ct(number)) for number in range(2, 6)], monkeypatch)
    assert answers == [StoreStatus.OUT_OF_RESOURCES] * 4
    assert len(filed) == 2  # the first alone, and of the four no more than one
    assert len(node.files()) == len(node.rows(instances)) == 1
