"""The same promises on PostgreSQL, where many receivers and workers share one database."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from made import NOW, FakeClassifier, Made, changed, ct, grey_series, head_series, made_node, peer, schema_differences
from postgresql import empty_database, server
from test_extras import deliver, owed, take_back

from dicom_node.administering import forgetting
from dicom_node.administering.forgetting import Whom
from dicom_node.errors import NotPossible, StoreUnavailable
from dicom_node.network.stand_in import free_port
from dicom_node.store import choices, jobs, outbox, schema, series
from dicom_node.store.database import Database
from dicom_node.store.tables import instances, objects, slice_results
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.store.tables import series as series_table

_names = count()


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.URL]:
    with server(tmp_path_factory.mktemp("pg")) as url:
        yield url


@pytest.fixture
def url(postgresql: sa.URL) -> str:
    """Of a database of its own."""
    return empty_database(postgresql, f"node-{next(_names)}")


@pytest.fixture
def node(url: str, tmp_path: Path) -> Iterator[Made]:
    made = made_node(tmp_path, database_url=url)
    yield made
    made.database.close()


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """What the acts returned, each in a thread of its own, begun together."""
    barrier, got = threading.Barrier(len(acts)), []

    def run(act: Callable[[], Any]) -> None:
        barrier.wait()
        got.append(act())

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return got


def test_the_migrations_make_exactly_the_tables_however_many_start_at_once(url: str) -> None:
    database = Database(url)
    at_once(*[lambda: schema.upgrade(database)] * 4)
    assert schema_differences(database) == []
    database.close()


def test_nodes_that_start_at_once_are_one_device(node: Made) -> None:
    seen = at_once(*[node.database.device_uid] * 6)
    assert len(seen) == 6
    assert len(set(seen)) == 1


def test_nodes_that_start_at_once_with_one_spool_give_it_one_uid(node: Made) -> None:
    at_once(*[lambda: node.database.bind(node.spool.mark)] * 6)
    assert node.database.spool_uid() == node.spool.uid() is not None


def test_a_server_that_is_not_there_is_an_error_that_passes() -> None:
    database = Database(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none?connect_timeout=1")
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        schema.upgrade(database)


def test_an_error_does_not_quote_what_was_to_be_stored(node: Made) -> None:
    with pytest.raises(StoreUnavailable) as caught, node.database.write() as connection:
        connection.execute(sa.text("SELECT CAST('Doe^Jane' AS integer)"))
    assert "Doe" not in str(caught.value)


def test_two_claimers_never_get_one_job(node: Made) -> None:
    jobs_made = 24
    with node.database.write() as connection:
        series = {"study_uid": "1.2", "calling_aet": "A", "state": "complete", "run": 1, "forced": False}
        series |= {"first_at": NOW, "last_at": NOW}
        job = {"run": 1, "state": "ready", "priority": 0, "not_before": NOW, "tries": 0, "created_at": NOW}
        for number in range(jobs_made):
            made = connection.execute(series_table.insert().values(series | {"series_uid": f"1.{number}"}))
            connection.execute(jobs_table.insert().values(job | {"series_id": made.inserted_primary_key[0]}))

    def claim_all(owner: str) -> list[int]:
        mine = []
        while True:
            with node.database.write() as connection:
                job = jobs.claim(connection, owner=owner, now=NOW, lease_s=60)
            if job is None:
                return mine
            mine.append(job.id)

    claimed = at_once(*[lambda n=n: claim_all(f"w{n}") for n in range(6)])
    every = [job_id for mine in claimed for job_id in mine]
    assert sorted(every) == sorted(set(every))
    assert len(every) == jobs_made


def test_a_series_that_comes_over_many_associations_at_once_is_one(node: Made) -> None:
    slices = grey_series(24)
    got = at_once(*[lambda ds=ds: node.accept(ds) for ds in slices])
    assert Counter(status for statuses in got for status in statuses) == {0: 24}
    assert len(node.rows(series_table)) == 1
    assert len(node.rows(instances)) == 24


def test_one_object_that_comes_several_times_at_once_is_kept_once(node: Made) -> None:
    got = at_once(*[lambda: node.accept(ct(1))] * 6)
    assert got == [[0]] * 6
    assert len(node.rows(instances)) == 1
    assert len(node.files()) == 1


def test_one_object_with_several_headers_at_once_leaves_one_that_counts(node: Made) -> None:
    names = ["Doe^A", "Doe^B", "Doe^C", "Doe^D"]
    at_once(*[lambda name=name: node.accept(ct(1, PatientName=name)) for name in names])
    rows = node.rows(instances)
    assert len(rows) == 4
    assert sum(row.current for row in rows) == 1


def test_one_object_that_comes_at_once_in_two_series_counts_in_one(node: Made) -> None:
    """The second is another patient's: were both to count, the first series would be reported, too."""
    for number in range(1, 11):
        first = ct(number, series=f"1.2.{number}.1", study=f"1.2.{number}")
        second = changed(first, SeriesInstanceUID=f"1.2.{number}.2", StudyInstanceUID="1.2.99", PatientID="P-2")
        assert at_once(lambda ds=first: node.accept(ds), lambda ds=second: node.accept(ds)) == [[0], [0]]
    assert len(node.rows(instances)) == 20
    assert Counter(row.sop_instance_uid for row in node.rows(instances) if row.current).most_common(1)[0][1] == 1
    assert Counter(row.state for row in node.rows(series_table)) == {"failed": 10, "receiving": 10}


def test_hostile_texts_are_stored_or_refused_as_on_sqlite(node: Made) -> None:
    ds = ct(1)
    for keyword in ("ConvolutionKernel", "BodyPartExamined", "Modality"):
        del ds[keyword]
        ds.add_new(keyword, "UT", "CT\0\\\x01" + "\U0001f480" * 500)
    assert node.accept(ds, ct(2, ImagePositionPatient=["1e300", 0, 0])) == [0, 0]
    assert len(node.rows(instances)) == 2


def waits_for_others(node: Made) -> bool:
    with node.database.read() as connection:
        return bool(connection.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def test_what_is_being_filed_while_its_patient_is_forgotten_is_not_lost_unawares(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is written, not committed, and its file is looked at for the last time, when forgetting begins."""
    holds, pause = node.spool.holds, threading.Event()
    begun: list[threading.Thread] = []
    looked: list[str] = []

    def forgets(name: str, size: int) -> bool:
        held = holds(name, size)
        looked.append(name)
        if len(looked) == 2:  # the first look is part of writing it
            begun.append(
                threading.Thread(
                    target=forgetting.erase, args=(node.database, node.spool, Whom("P-1")), kwargs={"now": NOW}
                )
            )
            begun[0].start()
            while begun[0].is_alive() and not waits_for_others(node):
                pause.wait(0.01)
        return held

    node.accept(ct(1))
    monkeypatch.setattr(node.spool, "holds", forgets)
    assert node.accept(ct(1, series="1.2.3.9")) == [0]  # acknowledged, and so forgotten with the others
    begun[0].join(60)
    assert node.rows(instances) == []
    assert node.files() == set()


def test_a_series_passed_over_for_one_that_is_just_being_moved_is_not_left_without_a_word(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice is made, not committed, when a correction gives the chosen series another study, and is committed."""
    node.accept(*grey_series(10, series="1.2.3.1"))
    node.tick_after(31)
    node.accept(*grey_series(10, series="1.2.3.2"))
    moved = [changed(ds, StudyInstanceUID="1.2.9") for ds in grey_series(10, series="1.2.3.1")]
    not_chosen = choices.not_chosen

    def chooses(*given: Any, **named: Any) -> None:
        not_chosen(*given, **named)
        assert at_once(lambda: node.accept(*moved)) == [[0] * 10]

    with monkeypatch.context() as patch:
        patch.setattr(choices, "not_chosen", chooses)
        node.tick_after(31)
    node.tick_after(5)
    assert [row.state for row in node.rows(series_table)] == ["receiving", "failed"]
    assert "dicom-node retry 2" in node.rows(series_table)[1].reason


def test_what_several_workers_read_at_once_is_not_taken_for_what_ends_them(node: Made) -> None:
    """All are alive: none of them may leave out a slice because others are at it."""
    slices = head_series()
    node.accept(*slices)
    third = FakeClassifier()
    third_worker = node.worker(third, owner="worker-3")
    second = FakeClassifier(fails=lambda _: [third_worker.step() for _ in range(3)])
    second_worker = node.worker(second, owner="worker-2")
    first = FakeClassifier(fails=lambda _: [second_worker.step() for _ in range(3)])
    node.worker(first).step()
    assert [row.left_out for row in node.rows(slice_results)] == [None] * len(slices)
    assert sum(first.asked + second.asked + third.asked) == len(slices)


def test_one_slice_is_begun_by_one_worker(node: Made) -> None:
    node.accept(head_series()[0])

    def begin() -> set[int]:
        with node.database.write() as connection:
            return series.begin_reading(connection, [1], tries=0)

    assert sorted(at_once(begin, begin, begin)) == [set(), set(), {1}]
    assert node.rows(instances)[0].tries == 1


def test_what_a_worker_that_died_left_unread_is_read_by_the_job(node: Made) -> None:
    slices = head_series()
    node.accept(*slices)
    with node.database.write() as connection:
        series.begin_reading(connection, [3, 4], tries=0)
    worker = node.worker()
    while worker.step():
        pass
    assert {row.instance_id for row in node.rows(slice_results)} == {*range(1, len(slices) + 1)} - {3, 4}
    node.tick_after(31)
    node.work(worker)
    assert [row.left_out for row in node.rows(slice_results)] == [None] * len(slices)
    assert [(job.state, job.outcome) for job in node.rows(jobs_table)] == [("delivered", "present")]


def test_from_slices_to_report(node: Made) -> None:
    slices = head_series()
    node.accept(*slices[:-1], changed(slices[0], AccessionNumber=slices[0].AccessionNumber))
    node.accept(slices[-1])
    node.tick_after(31)
    node.work()
    assert [(job.state, job.outcome) for job in node.rows(jobs_table)] == [("delivered", "present")]
    assert len(node.rows(slice_results)) == len(slices)
    assert len(node.rows(objects)) == 1


def reported(tmp_path: Path, url: str) -> Made:
    """A node whose one report is delivered, and whose picture is to be made."""
    node = made_node(
        tmp_path, database_url=url, peers=[peer(104, objects=("report", "picture"), withdraw_by="quality")]
    )
    node.accept(*head_series())
    node.tick_after(31)
    worker = node.worker()
    node.makes_report(worker)
    deliver(node, "PACS1")
    return node


def test_a_picture_that_is_being_stored_while_its_result_is_withdrawn_is_sent_to_nobody(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, put, pause = reported(tmp_path, url), outbox.put, threading.Event()
    begun: list[threading.Thread] = []

    def withdraws(*given: Any, **named: Any) -> None:
        """Its row is written, not committed, when the withdrawal begins."""
        put(*given, **named)
        if not begun:
            begun.append(threading.Thread(target=take_back, args=(node,)))
            begun[0].start()
            while begun[0].is_alive() and not waits_for_others(node):
                pause.wait(0.01)

    monkeypatch.setattr(outbox, "put", withdraws)
    node.work()
    begun[0].join(60)
    assert owed(node) == {("PACS1", "withdrawal")}
    node.database.close()


def test_a_result_that_two_withdraw_at_once_is_withdrawn_once(url: str, tmp_path: Path) -> None:
    node = reported(tmp_path, url)

    def withdraw() -> str:
        try:
            return take_back(node)
        except NotPossible as exc:
            return str(exc)

    assert sorted(said.partition(";")[0] for said in at_once(withdraw, withdraw, withdraw)) == [
        "its newest job is withdrawn",
        "its newest job is withdrawn",
        "withdrawn",
    ]
    assert owed(node) == {("PACS1", "withdrawal")}
    assert [made.kind for made in node.rows(objects)] == ["report", "withdrawal"]
    node.database.close()
