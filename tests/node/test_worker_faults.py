"""The worker when something fails: the model, a file, the spool, the report, its lease, or the process itself."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from made import SERIES, STUDY, FakeClassifier, Made, changed, head_series, made_node, peer
from working import complete, delivered, report, work

from dicom_node.administering.retrying import retry
from dicom_node.config import Model
from dicom_node.delivering import reporting, spooled
from dicom_node.errors import ModelFailed
from dicom_node.report import readback, sr
from dicom_node.store import jobs, outbox, series
from dicom_node.store.tables import deliveries, instances, objects, slice_results
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.working import signs


class Killed(BaseException):
    """The process ends here: nothing behind this line runs."""


def test_a_failing_model_leads_to_not_evaluated_after_the_last_try(node: Made) -> None:
    def fails(_: int) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    complete(node)
    died = 0
    for _ in range(10):
        try:
            if not node.worker(FakeClassifier(fails=fails)).step():
                break
        except ModelFailed:
            died += 1
        node.clock.advance(400)
    job = node.rows(jobs_table)[0]
    assert died == 3
    assert (job.state, job.outcome) == ("failed", "not evaluated")
    told = readback.parse(report(node))
    assert (told.outcome, told.partial_because) == ("not evaluated", "no image could be evaluated")
    assert node.rows(slice_results) == []  # a fault of the model is no fault of a slice
    assert {i.tries for i in node.rows(instances)} == {0}
    assert len(node.rows(deliveries)) == 1


def test_a_model_that_recovers_evaluates_every_slice(node: Made) -> None:
    failures = iter([True, True])

    def fails(_: int) -> None:
        if next(failures, False):
            raise RuntimeError("out of memory")

    complete(node)
    classifier = FakeClassifier(fails=fails)
    for _ in range(2):
        with pytest.raises(ModelFailed):
            node.worker(classifier).step()
        node.clock.advance(400)
    work(node, classifier)
    job = node.rows(jobs_table)[0]
    assert (job.state, job.outcome) == ("reported", "present")
    assert [r.left_out for r in node.rows(slice_results) if r.left_out] == []


@pytest.mark.parametrize("which", ["presence", "location"])
def test_a_probability_that_is_no_number_is_never_reported(node: Made, which: str) -> None:
    class Once(FakeClassifier):
        """Of the first slice alone."""

        def predict(self, inputs: Any) -> Any:
            found = super().predict(inputs)
            getattr(found, which)[0] = float("nan")
            return found

    complete(node)
    with pytest.raises(ModelFailed):
        node.worker(Once()).step()
    assert node.rows(slice_results) == []
    assert node.rows(objects) == []


def dying_at(node: Made, monkeypatch: pytest.MonkeyPatch, *poison: str) -> None:
    """Whoever reads these files dies of it, as of a decoder that crashes."""
    read = node.spool.read

    def reads(name: str) -> bytes:
        if name in poison:
            raise Killed
        return read(name)

    monkeypatch.setattr(node.spool, "read", reads)


def restart_until_idle(node: Made, classifier: Any = None) -> int:
    """As the supervisor does: a new worker for each that dies; returns how many died."""
    died = 0
    for number in range(40):
        try:
            while node.worker(classifier, owner=f"worker-{number}").step():
                node.clock.advance(1.0)
        except Killed:
            died += 1
            with node.database.write() as connection:
                jobs.free(connection, owner=f"worker-{number}", now=node.clock())
            node.clock.advance(1.0)
        else:
            return died
    raise AssertionError("it dies for ever")


def test_a_slice_that_kills_the_worker_twice_is_left_out_and_the_others_get_through(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(node)
    dying_at(node, monkeypatch, node.rows(instances)[9].file)
    assert restart_until_idle(node) == 2
    left_out = [r for r in node.rows(slice_results) if r.left_out]
    assert [r.instance_id for r in left_out] == [10]
    job = node.rows(jobs_table)[0]
    assert (job.state, job.outcome) == ("reported", "present")
    assert "left out" in job.reason


def test_several_such_slices_do_not_cost_the_series(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(node)
    dying_at(node, monkeypatch, *(node.rows(instances)[n].file for n in (6, 9, 11, 12, 13)))
    restart_until_idle(node)
    assert [r.instance_id for r in node.rows(slice_results) if r.left_out] == [7, 10, 12, 13, 14]
    assert node.rows(jobs_table)[0].state == "reported"


def test_retry_looks_again_at_what_was_left_out(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(node)
    with monkeypatch.context() as patch:
        dying_at(node, patch, node.rows(instances)[9].file)
        restart_until_idle(node)
    with node.database.write() as connection:
        series.receive_again(connection, 1, now=node.clock(), why="by command", forced=True)
    node.tick_after(31)
    work(node)
    assert [r for r in node.rows(slice_results) if r.left_out] == []
    assert [job.state for job in node.rows(jobs_table)] == ["reported", "reported"]


def test_a_file_lost_from_the_spool_costs_its_slice_alone(node: Made) -> None:
    complete(node)
    lost = node.rows(instances)[8]
    node.spool.remove(lost.file)
    work(node, FakeClassifier(0.01))
    result = next(r for r in node.rows(slice_results) if r.instance_id == lost.id)
    assert result.left_out == "its file is missing from the spool"
    assert [(job.state, job.outcome, job.reason) for job in node.rows(jobs_table)] == [
        ("reported", "undetermined", "1 slice inside the brain left out")
    ]
    assert str(lost.sop_instance_uid) in str(report(node))
    (left_out,) = [one for one in node.rows(jobs_table)[0].findings["slices"] if one["left_out"] == result.left_out]
    assert left_out["instance_number"] == head_series()[8].InstanceNumber  # by which a reader finds it


def test_a_series_whose_files_are_all_gone_fails_at_once_and_says_what_to_do(node: Made) -> None:
    complete(node)
    for one in node.rows(instances):
        node.spool.remove(one.file)
    work(node, FakeClassifier(0.01))
    assert [(job.state, job.tries, job.reason) for job in node.rows(jobs_table)] == [
        ("failed", 1, "every image of it is gone from the spool, or damaged; send it again, then: dicom-node retry 1")
    ]


def test_a_series_whose_images_all_went_to_another_says_so_and_leaves_the_result_to_that_one(node: Made) -> None:
    """A correction gave them another Series Instance UID; the run that was to supersede the result has none left."""
    complete(node)
    work(node)
    delivered(node)
    with node.database.write() as connection:
        one = series.get(connection, 1)
        assert one is not None
        retry(connection, one, node.config.eligibility, again=True, keep=None, now=node.clock())
    node.accept(*[changed(ds, SeriesInstanceUID="1.2.3.2") for ds in head_series()])
    for _ in range(3):
        node.tick_after(100)
        work(node)
    assert [(job.series_id, job.run, job.state) for job in node.rows(jobs_table)] == [
        (1, 1, "delivered"),
        (1, 2, "failed"),
        (2, 1, "reported"),
    ]
    assert node.rows(jobs_table)[1].reason == (
        "all its images came again in other series; to take back what was reported of it: dicom-node withdraw 1"
    )


def test_a_series_waits_for_a_spool_that_is_away(node: Made) -> None:
    node.accept(*head_series())
    work(node, FakeClassifier(0.01))  # each slice has its result, before the disk goes
    away = node.spool.folder.rename(node.spool.folder.with_name("away"))
    node.tick_after(31)
    work(node, FakeClassifier(0.01))
    assert node.rows(jobs_table)[0].state == "ready"
    away.rename(node.spool.folder)
    node.clock.advance(3600)
    work(node, FakeClassifier(0.01))
    assert node.rows(jobs_table)[0].state == "reported"


def test_a_file_on_a_bad_sector_costs_its_slice_alone(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(node)
    bad, read = node.spool.path(node.rows(instances)[8].file), Path.read_bytes

    def reads(path: Path) -> bytes:
        if path == bad:
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", reads)
    work(node, FakeClassifier(0.01))
    assert [r.left_out for r in node.rows(slice_results) if r.instance_id == 9] == ["the disk cannot read its file"]
    assert [(job.state, job.outcome) for job in node.rows(jobs_table)] == [("reported", "undetermined")]


@pytest.mark.parametrize("classified", [False, True])
def test_a_series_waits_for_a_disk_that_fails(node: Made, monkeypatch: pytest.MonkeyPatch, classified: bool) -> None:
    """No report must say NOT EVALUATED of a head because a cable was loose."""

    def fails(*_: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    node.accept(*head_series())
    if classified:
        work(node, FakeClassifier(0.01))
    node.tick_after(31)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fails)
        patch.setattr(Path, "read_bytes", fails)
        patch.setattr("pydicom.filereader.open", fails, raising=False)
        worker = node.worker(FakeClassifier(0.01))
        for _ in range(20):
            worker.step()
            node.clock.advance(10)
    assert [job.state for job in node.rows(jobs_table)] == ["ready"]
    assert [row.left_out for row in node.rows(slice_results) if row.left_out] == []
    work(node, FakeClassifier(0.01))
    assert [(job.state, job.outcome) for job in node.rows(jobs_table)] == [("reported", "absent")]


@pytest.mark.parametrize("content", [b"", b"no longer what it was" * 100])
def test_a_file_damaged_in_the_spool_costs_its_slice_alone(node: Made, content: bytes) -> None:
    complete(node)
    damaged = node.rows(instances)[8]
    node.spool.path(damaged.file).write_bytes(content)
    work(node, FakeClassifier(0.01))
    assert [(job.state, job.outcome) for job in node.rows(jobs_table)] == [("reported", "undetermined")]
    assert str(damaged.sop_instance_uid) in str(report(node))


def test_a_spool_that_is_not_there_makes_the_job_wait_and_costs_no_try(node: Made) -> None:
    complete(node)
    away = node.spool.folder.with_name("away")
    node.spool.folder.rename(away)
    worker = node.worker()
    for _ in range(5):
        assert worker.step()
        node.clock.advance(10)
    job = node.rows(jobs_table)[0]
    assert (job.state, job.tries) == ("ready", 0)
    assert node.rows(slice_results) == []
    away.rename(node.spool.folder)
    work(node)
    assert node.rows(jobs_table)[0].state == "reported"


def test_a_job_whose_report_cannot_be_made_ends_and_says_so(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any, **__: Any) -> None:
        raise KeyError("DOE^JANE")

    complete(node)
    monkeypatch.setattr(sr, "build", breaks)
    worker = node.worker()
    for _ in range(10):
        worker.step()
        node.clock.advance(400)
    job = node.rows(jobs_table)[0]
    assert (job.state, job.outcome) == ("failed", None)
    assert "No report could be made" in job.reason
    assert "DOE" not in json.dumps([job.reason])
    assert worker.step() is False


def test_a_job_of_which_each_report_ends_the_worker_holds_up_no_other(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(node)
    headers = spooled.headers

    def killing(of: list[series.Instance], *rest: Any) -> Any:
        if of[0].series_id == 1:
            raise Killed
        return headers(of, *rest)

    monkeypatch.setattr(spooled, "headers", killing)
    complete(node, head_series(study=f"{STUDY}1", series=f"{SERIES}1"))
    assert restart_until_idle(node) == 5  # three tries, and two to say that they failed
    first, other = node.rows(jobs_table)
    assert (first.state, other.state) == ("failed", "reported")
    assert "No report could be made" in first.reason


def test_a_worker_that_lost_its_lease_writes_nothing(node: Made) -> None:
    complete(node)

    def another_takes_over(_: int) -> None:
        node.clock.advance(61)
        with node.database.write() as connection:
            assert jobs.claim(connection, owner="worker-2", now=node.clock(), lease_s=60) is not None

    node.worker(FakeClassifier(fails=another_takes_over)).step()
    job = node.rows(jobs_table)[0]
    assert (job.state, job.lease_owner, job.outcome) == ("running", "worker-2", None)
    assert node.rows(objects) == []


def test_a_report_and_the_end_of_its_job_are_one_transaction(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:

    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    complete(node)
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "put", dies)
        with pytest.raises(Killed):
            work(node)
    assert node.rows(jobs_table)[0].state == "running"
    assert node.rows(objects) == []
    node.clock.advance(61)
    work(node)
    assert [job.state for job in node.rows(jobs_table)] == ["reported"]
    assert len(node.rows(objects)) == 1


def test_a_header_that_lies_costs_its_slice_and_no_more(node: Made) -> None:
    slices = head_series()
    slices[9].Rows = 65535
    slices[10].Columns = 65535
    slices[11].BitsAllocated = 12
    complete(node, slices)
    work(node)
    assert [r.instance_id for r in node.rows(slice_results) if r.left_out] == [10, 11, 12]
    assert node.rows(jobs_table)[0].outcome == "present"


def test_a_worker_told_to_stop_gives_the_job_back_without_using_up_a_try(tmp_path: Path) -> None:
    node = made_node(tmp_path, model=Model(batch=4))
    complete(node)
    node.worker(stopping=lambda: True).step()
    job = node.rows(jobs_table)[0]
    assert (job.state, job.tries, job.lease_owner) == ("ready", 0, None)
    assert len(node.rows(slice_results)) == 4


@pytest.mark.parametrize("failed", [False, True])
def test_a_report_that_takes_longer_than_a_lease_costs_the_worker_neither_its_life_nor_its_job(
    node: Made, monkeypatch: pytest.MonkeyPatch, failed: bool
) -> None:
    complete(node)
    lease_s = node.config.results.lease_s
    again, came = threading.Event(), threading.Event()
    make = reporting.report

    def long(*given: Any) -> Any:
        for _ in range(8):  # twice a lease
            node.clock.advance(lease_s / 4)
            came.clear()
            again.set()
            assert came.wait(30), "no sign of life"
            with node.database.read() as connection:
                assert not jobs.is_due(connection, now=node.clock(), lease_s=lease_s), "another could take it"
        return make(*given)

    def alive() -> None:
        came.set()

    monkeypatch.setattr(signs, "SIGN_S", 0.01)
    monkeypatch.setattr(reporting, "report", long)
    fails = FakeClassifier(fails=lambda _: (_ for _ in ()).throw(RuntimeError())) if failed else FakeClassifier(0.01)
    worker = node.worker(fails, alive=alive)
    for _ in range(node.config.results.tries + 1):
        with suppress(ModelFailed):
            worker.step()
        if again.is_set():
            break
        node.clock.advance(60)
    (job,) = node.rows(jobs_table)
    assert (job.state, job.outcome) == (("failed", "not evaluated") if failed else ("reported", "absent"))


def test_a_report_that_never_ends_gives_no_signs_of_life_for_ever(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the service ends this worker, and a try is counted."""
    complete(node)
    given: list[float] = []
    silent = threading.Event()

    def never_ends(*_: Any) -> Any:
        while not given or time.monotonic() - given[-1] < 0.5:
            assert time.monotonic() - begun < 60
        silent.set()
        raise RuntimeError

    begun = time.monotonic()
    monkeypatch.setattr(signs, "SIGN_S", 0.01)
    monkeypatch.setattr(signs, "SLOWEST_S", 0.01)
    monkeypatch.setattr(reporting, "report", never_ends)
    node.worker(FakeClassifier(0.01), alive=lambda: given.append(time.monotonic())).step()
    assert silent.is_set()


def test_a_worker_gives_signs_of_life_and_keeps_its_lease_through_a_long_batch(node: Made) -> None:
    signs: list[float] = []
    lease_s = node.config.results.lease_s

    def alive() -> None:
        signs.append(node.clock())
        with node.database.read() as connection:
            assert not jobs.is_due(connection, now=node.clock(), lease_s=lease_s), "another could take it"
        node.clock.advance(lease_s / 6)

    complete(node)
    worker = node.worker(alive=alive)
    worker.step()
    assert len(signs) >= len(head_series())
    assert node.rows(jobs_table)[0].state == "reported"


@pytest.mark.parametrize("queued", [False, True], ids=["came later", "was queued"])
def test_a_report_that_is_made_again_after_an_older_database_came_back_is_no_second_content_of_the_first(
    tmp_path: Path, queued: bool
) -> None:
    """The PACS has the first one under its UID: it would drop the newer, and say that it has it."""

    def last_slice(of: Made) -> None:
        of.accept(slices[-1])
        of.tick_after(100)

    node = made_node(tmp_path, peers=[peer(104)])
    slices = head_series()
    complete(node, slices[:-1])
    work(node, FakeClassifier(0.01))
    if queued:
        last_slice(node)
    backup, live = tmp_path / "backup.sqlite", Path(str(node.database.url.database))
    with closing(sqlite3.connect(live)) as connection:
        connection.execute("VACUUM INTO ?", (str(backup),))
    if not queued:
        last_slice(node)
    work(node, FakeClassifier(0.01))
    before = report(node)
    node.database.close()
    for of_the_other in live.parent.glob("node.sqlite-*"):
        of_the_other.unlink()
    backup.replace(live)
    restored = made_node(tmp_path, peers=[peer(104)])
    restored.clock.advance(node.clock() - restored.clock() + 60)
    if not queued:
        last_slice(restored)
    work(restored, FakeClassifier(0.01))
    after = report(restored)
    assert (
        readback.parse(after).predecessor
        == readback.parse(before).predecessor
        == str(report(restored, 0).SOPInstanceUID)
    )
    assert after.SOPInstanceUID != before.SOPInstanceUID
    assert after.SeriesInstanceUID != before.SeriesInstanceUID
