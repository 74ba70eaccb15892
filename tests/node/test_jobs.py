"""The queue: leased, never locked; whoever lost a lease changes nothing."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from made import NOW, SERIES, STUDY, Made, ct

from dicom_node.errors import LeaseLost
from dicom_node.store import choices, jobs
from dicom_node.store.jobs import Job
from dicom_node.store.tables import JobState, instances, series
from dicom_node.store.tables import jobs as jobs_table

LEASE_S = 60.0


def add(node: Made, **values: Any) -> int:
    """A job, ready since NOW unless told otherwise; returns its id."""
    number = len(node.rows(series)) + 1
    with node.database.write() as connection:
        made = {"series_uid": f"1.{number}", "study_uid": f"1.9.{number}", "calling_aet": "A", "state": "complete"}
        made |= {"run": 1, "forced": False, "first_at": NOW, "last_at": NOW}
        key = connection.execute(series.insert().values(made)).inserted_primary_key
        assert key is not None
        job = {"series_id": key[0], "run": 1, "state": "ready", "priority": jobs.LIVE, "not_before": NOW, "tries": 0}
        key = connection.execute(jobs_table.insert().values(job | {"created_at": NOW} | values)).inserted_primary_key
        assert key is not None
        return int(key[0])


def claim(node: Made, owner: str = "w1", *, now: float = NOW) -> Job | None:
    with node.database.write() as connection:
        return jobs.claim(connection, owner=owner, now=now, lease_s=LEASE_S)


def claimed_id(node: Made, owner: str = "w1", *, now: float = NOW) -> int | None:
    job = claim(node, owner, now=now)
    return None if job is None else job.id


def row(node: Made, job_id: int) -> Any:
    return node.rows(jobs_table)[job_id - 1]


def test_live_before_backlog_then_the_one_that_waits_longest(node: Made) -> None:
    backlog = add(node, priority=jobs.BACKLOG, not_before=NOW - 100)
    young = add(node, not_before=NOW - 1)
    old = add(node, not_before=NOW - 50)
    tomorrow = add(node, not_before=NOW + 200)
    assert [claimed_id(node) for _ in range(4)] == [old, young, backlog, None]
    assert claimed_id(node, now=NOW + 30) is None
    assert row(node, tomorrow).state == "ready"


def test_a_lease_that_ran_out_goes_to_the_next_and_counts_as_a_try(node: Made) -> None:
    job_id = add(node)
    assert claim(node, "w1") is not None
    assert claim(node, "w2", now=NOW + LEASE_S - 1) is None
    again = claim(node, "w2", now=NOW + LEASE_S)
    assert again is not None
    assert (again.id, again.tries) == (job_id, 2)
    assert row(node, job_id).started_at == NOW


def test_a_heartbeat_keeps_the_lease(node: Made) -> None:
    add(node)
    job = claim(node)
    assert job is not None
    with node.database.write() as connection:
        jobs.extend(connection, job, now=NOW + 50, lease_s=LEASE_S)
    assert claim(node, "w2", now=NOW + 100) is None
    assert claim(node, "w2", now=NOW + 110) is not None


def test_who_lost_the_lease_changes_nothing(node: Made) -> None:
    add(node)
    job = claim(node, "w1")
    assert job is not None
    claim(node, "w2", now=NOW + LEASE_S)
    before = node.rows(jobs_table)

    def steps(connection: Any) -> list[Any]:
        return [
            lambda: jobs.extend(connection, job, now=NOW, lease_s=LEASE_S),
            lambda: jobs.finish(connection, job, JobState.REPORTED, now=NOW),
            lambda: jobs.give_back(connection, job, now=NOW, wait_s=0, reason="x"),
        ]

    for step in range(3):
        with pytest.raises(LeaseLost), node.database.write() as connection:
            steps(connection)[step]()
    assert node.rows(jobs_table) == before


def test_two_claimers_never_get_one_job(node: Made) -> None:
    ids = [add(node) for _ in range(20)]
    got: list[int] = []
    barrier = threading.Barrier(4)

    def work(owner: str) -> None:
        barrier.wait()
        while (job_id := claimed_id(node, owner)) is not None:
            got.append(job_id)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == ids


@pytest.mark.parametrize("back_s", [3600.0, 10 * 86400.0])
def test_a_clock_put_back_keeps_no_job_waiting(node: Made, back_s: float) -> None:
    ready, leased = add(node, not_before=NOW - 1), add(node)
    claim(node)
    claim(node)
    with node.database.write() as connection:
        connection.execute(jobs_table.update().where(jobs_table.c.id == ready).values(state="ready"))
    now = NOW - back_s
    assert {claimed_id(node, "w2", now=now), claimed_id(node, "w2", now=now)} == {ready, leased}


def test_a_try_is_used_up_by_a_failure_and_not_by_being_told_to_stop(node: Made) -> None:
    job_id = add(node)
    for reason, wait_s, tries in ((None, 0.0, 0), ("it failed", 5.0, 1)):
        job = claim(node)
        assert job is not None
        with node.database.write() as connection:
            jobs.give_back(connection, job, now=NOW, wait_s=wait_s, reason=reason)
        given = row(node, job_id)
        assert (given.state, given.tries, given.not_before, given.reason) == ("ready", tries, NOW + wait_s, reason)


def test_a_job_that_gets_further_starts_to_count_anew(node: Made) -> None:
    job_id = add(node)
    claim(node, "w1")
    job = claim(node, "w2", now=NOW + LEASE_S)
    assert job is not None
    with node.database.write() as connection:
        jobs.extend(connection, job, now=NOW + LEASE_S, lease_s=LEASE_S, further=True)
        jobs.give_back(connection, job, now=NOW + LEASE_S, wait_s=0, reason="it failed")
    assert row(node, job_id).tries == 1


def test_a_run_whose_images_changed_gives_its_successor_time_and_counts_as_no_try(node: Made) -> None:
    job_id = add(node)
    assert claim(node) is not None
    with node.database.write() as connection:
        jobs.put_off(connection, 1, now=NOW)
    assert claim(node, "w2", now=NOW + jobs.LONGEST_WAIT_S - 1) is None
    again = claim(node, "w2", now=NOW + jobs.LONGEST_WAIT_S)
    assert again is not None
    assert (again.id, again.tries) == (job_id, 1)


def test_a_job_is_not_delivered_while_its_picture_is_still_to_be_made(node: Made) -> None:
    job_id = add(node, state="reported", extras_due=True)
    with node.database.write() as connection:
        assert not jobs.settle_delivered(connection, job_id, now=NOW)
        assert jobs.extras_made(connection, job_id)
        assert jobs.settle_delivered(connection, job_id, now=NOW)
    assert row(node, job_id).state == "delivered"


def test_the_leases_of_a_dead_worker_are_free_at_once(node: Made) -> None:
    first, second = add(node), add(node)
    claim(node, "dead")
    claim(node, "alive")
    with node.database.write() as connection:
        assert jobs.free(connection, owner="dead", now=NOW) == 1
    assert claimed_id(node, "w3") == first
    assert claim(node, "w3") is None
    with node.database.write() as connection:
        assert jobs.free(connection, now=NOW) == 2
    assert {claimed_id(node, "w4"), claimed_id(node, "w4")} == {first, second}


def test_a_study_has_its_result_from_the_first_job_that_is_not_refused(node: Made) -> None:
    add(node, state="refused")
    add(node, state="reported")
    with node.database.write() as connection:
        connection.execute(series.update().values(study_uid="1.9"))
        assert choices.of_study_with_result(connection, "1.9") == [2]
        assert choices.of_study_with_result(connection, "1.8") == []


def test_a_study_whose_newest_result_was_withdrawn_has_none(node: Made) -> None:
    """An earlier run, superseded by the one that was taken back, holds no more than that."""
    first = add(node, state="delivered")
    again = {"run": 2, "state": "withdrawn", "priority": jobs.LIVE, "not_before": NOW, "tries": 1, "created_at": NOW}
    with node.database.write() as connection:
        connection.execute(jobs_table.insert().values(series_id=row(node, first).series_id, **again))
        connection.execute(series.update().values(run=2))
        assert choices.of_study_with_result(connection, "1.9.1") == []


def test_a_failed_series_gives_its_study_the_result_as_long_as_any_image_is_left_in_it(node: Made) -> None:
    node.accept(ct(1), ct(1, series=f"{SERIES}1"))
    job = {"run": 1, "state": "delivered", "priority": jobs.LIVE, "not_before": NOW, "tries": 1, "created_at": NOW}
    with node.database.write() as connection:
        connection.execute(series.update().values(state="failed", run=1))
        connection.execute(jobs_table.insert(), [{**job, "series_id": number} for number in (1, 2)])
        assert choices.of_study_with_result(connection, STUDY) == [1, 2]
        connection.execute(instances.update().where(instances.c.series_id == 1).values(current=False))
        assert choices.of_study_with_result(connection, STUDY) == [2]


def run_of(node: Made, number: int, series_id: int = 1, **values: Any) -> int:
    """A later run of a series that has one; returns its job's id."""
    job = {"series_id": series_id, "run": number, "state": "ready", "priority": jobs.LIVE, "not_before": NOW}
    with node.database.write() as connection:
        connection.execute(series.update().where(series.c.id == series_id).values(run=number))
        made = connection.execute(jobs_table.insert().values(job | {"tries": 0, "created_at": NOW} | values))
        assert made.inserted_primary_key is not None
        return int(made.inserted_primary_key[0])


def finish(node: Made, job: Job | None) -> None:
    assert job is not None
    with node.database.write() as connection:
        jobs.finish(connection, job, JobState.REPORTED, now=NOW)


def test_an_abandoned_run_whose_successor_was_begun_ends_without_a_result(node: Made) -> None:
    """Else its report would follow the newer one, and neither would supersede the other."""
    old = add(node)
    assert claimed_id(node) == old  # by a worker that dies
    new = run_of(node, 2)
    other = add(node, not_before=NOW + 1)
    finish(node, claim(node, "w2"))
    assert row(node, new).state == "reported"
    assert claimed_id(node, "w2", now=NOW + LEASE_S + 1) == other
    assert (row(node, old).state, row(node, old).lease_owner) == ("cancelled", None)


def test_a_slow_run_whose_successor_was_begun_keeps_nothing(node: Made) -> None:
    add(node)
    slow = claim(node)
    run_of(node, 2)
    fast = claim(node, "w2")
    with pytest.raises(LeaseLost, match="a later run"):
        finish(node, slow)
    finish(node, fast)
    assert [job.state for job in node.rows(jobs_table)] == ["running", "reported"]


def test_a_run_under_way_ends_with_its_result_where_its_successor_only_waits(node: Made) -> None:
    add(node)
    job = claim(node)
    run_of(node, 2)
    finish(node, job)
    assert claimed_id(node) == 2
