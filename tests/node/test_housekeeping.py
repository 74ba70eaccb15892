"""Nothing is deleted before its time, and nothing in work or owed at all."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
from made import NOW, Clock, Made, ct, grey_series, head_series, made_node, peer, steps
from sqlalchemy import event

from dicom_node.serving import housekeeping
from dicom_node.serving.housekeeping import DAY_S
from dicom_node.store import purge, schema, series
from dicom_node.store.database import Database
from dicom_node.store.tables import deliveries, events, instances, jobs, objects, slice_results
from dicom_node.store.tables import series as series_table

KEEP_S = 30 * DAY_S
EVERYTHING = (series_table, instances, jobs, slice_results, objects, deliveries, events)


def tidy(node: Made) -> tuple[int, int]:
    return housekeeping.tidy(node.database, node.spool, node.config, clock=node.clock)


def delivered(node: Made) -> None:
    """A series with its report, delivered."""
    node.accept(*head_series())
    node.tick_after(31)
    worker = node.worker()
    while worker.step():
        pass
    with node.database.write() as connection:
        connection.execute(deliveries.update().values(state="delivered", delivered_at=node.clock()))
        connection.execute(jobs.update().values(state="delivered"))


def set_age(node: Made, name: str, age_s: float) -> None:
    os.utime(node.spool.path(name), (node.clock() - age_s,) * 2)


def test_what_is_older_than_its_retention_goes_with_all_its_rows_and_files(node: Made) -> None:
    delivered(node)
    node.clock.advance(KEEP_S - 60)
    assert tidy(node)[0] == 0
    node.clock.advance(61)
    assert tidy(node)[0] == 1
    assert node.files() == set()
    for table in EVERYTHING:
        assert node.rows(table) == [], table.name


@pytest.mark.parametrize(
    ("table", "state"),
    [
        *((jobs, s) for s in ("ready", "running")),
        *((deliveries, s) for s in ("waiting", "failed")),
        (series_table, "receiving"),
    ],
)
def test_nothing_in_work_or_owed_is_deleted_however_old(node: Made, table: Any, state: str) -> None:
    delivered(node)
    with node.database.write() as connection:
        connection.execute(table.update().values(state=state))
    files = node.files()
    node.clock.advance(100 * KEEP_S)
    assert tidy(node) == (0, 0)
    assert node.files() == files


def test_the_log_says_what_keeps_series_past_their_retention(node: Made, caplog: pytest.LogCaptureFixture) -> None:
    delivered(node)
    with node.database.write() as connection:
        connection.execute(deliveries.update().values(state="failed"))
        connection.execute(instances.update().values(committed_at=node.clock()))
    with caplog.at_level(logging.INFO):
        tidy(node)
        assert "kept_past_retention" not in caplog.text, "its retention has not ended"
        node.clock.advance(KEEP_S + 1)
        tidy(node)
    told = [record.getMessage() for record in caplog.records if record.name == "dicom_node.housekeeping"]
    assert told == ["kept_past_retention owed=1 promised=1"]


def test_what_came_again_while_its_series_was_being_received_is_kept_for_the_whole_retention_again(node: Made) -> None:
    """As where no `serve` ran for a month after the first time; the series is not received for longer because of it."""
    node.accept(*grey_series(4))
    node.clock.advance(KEEP_S + 60)
    node.accept(*grey_series(4))
    node.arrivals.tick()
    assert [one.state for one in node.rows(series_table)] == ["refused"]
    assert tidy(node)[0] == 0
    node.clock.advance(KEEP_S + 1)
    assert tidy(node)[0] == 1


def test_an_image_dated_by_a_clock_that_was_ahead_is_kept_no_longer_than_others(node: Made) -> None:
    node.clock.advance(1e9)
    node.accept(*grey_series(4))
    node.tick_after(-1e9)
    node.tick_after(31)
    assert [one.state for one in node.rows(series_table)] == ["refused"]
    node.clock.advance(KEEP_S + 1)
    assert tidy(node)[0] == 1


def test_a_report_made_late_keeps_its_images(node: Made) -> None:
    delivered(node)
    node.clock.advance(KEEP_S)
    with node.database.write() as connection:
        connection.execute(objects.update().values(created_at=node.clock()))
    assert tidy(node)[0] == 0


def test_what_is_kept_keeps_no_other(tmp_path: Path) -> None:
    node = made_node(tmp_path, peers=[peer(104, commitment=True)])
    delivered(node)
    node.clock.advance(KEEP_S + 1)
    node.accept(*head_series(study="1.2.3", series="1.2.3.1"))
    node.tick_after(31)
    worker = node.worker()
    while worker.step():
        pass
    with node.database.write() as connection:  # as of one that was sent too, and is not confirmed
        connection.execute(deliveries.update().where(deliveries.c.id == 2).values(commitment="owed"))
    assert tidy(node)[0] == 1
    assert [row.study_uid for row in node.rows(series_table)] == ["1.2.3"]


def test_a_series_to_which_something_comes_while_it_is_about_to_go_stays(node: Made) -> None:
    delivered(node)
    node.clock.advance(KEEP_S + 1)
    quiet_since = node.clock() - KEEP_S
    with node.database.read() as connection:
        assert purge.deletable(connection, quiet_since=quiet_since) == [1]
    late = ct(99, series=str(head_series()[0].SeriesInstanceUID))
    node.accept(late)
    with node.database.write() as connection:
        assert purge.delete(connection, 1, quiet_since=quiet_since) is None
    assert len(node.rows(instances)) == len(head_series()) + 1


def test_that_one_series_may_go_says_nothing_of_another(node: Made) -> None:
    delivered(node)
    node.clock.advance(KEEP_S + 1)
    node.accept(ct(1, series="1.2.9.1", study="1.2.9"))
    quiet_since = node.clock() - KEEP_S
    with node.database.write() as connection:
        assert purge.deletable(connection, quiet_since=quiet_since) == [1]
        assert purge.delete(connection, 2, quiet_since=quiet_since) is None
    assert len(node.rows(series_table)) == 2


def test_what_comes_or_goes_while_it_is_tidied_ends_nothing(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    node.accept(*grey_series(3))
    node.tick_after(31)
    monkeypatch.setattr(purge, "deletable", lambda *_, **__: [1])  # until an image came to it
    monkeypatch.setattr(node.spool, "stored", lambda: iter(["aa/gone.dcm"]))
    assert tidy(node) == (0, 0)
    assert len(node.rows(instances)) == 3


def test_refused_and_failed_series_go_too(node: Made) -> None:
    node.accept(*grey_series(3))
    node.tick_after(31)
    assert node.rows(series_table)[0].state == "refused"
    node.accept(ct(1, series="1.2.3.4"))
    with node.database.write() as connection:
        series.fail(connection, 2, "because", now=node.clock())
    node.clock.advance(KEEP_S + 1)
    assert tidy(node)[0] == 2


def test_while_many_series_go_others_get_their_turn_to_write_and_a_stop_is_heard(node: Made) -> None:
    for number in range(3):
        node.accept(*grey_series(2, study=f"1.2.{number}", series=f"1.2.{number}.1"))
    node.tick_after(31)
    node.clock.advance(KEEP_S + 1)
    rests: list[float] = []

    def rest(seconds: float) -> bool:
        rests.append(seconds)
        assert node.accept(ct(len(rests), series="1.2.3.4")) == [0]
        return len(rests) == 2

    assert housekeeping.tidy(node.database, node.spool, node.config, clock=node.clock, rest=rest) == (2, 0)
    assert rests == [housekeeping.REST_S] * 2
    assert len(node.rows(series_table)) == 2  # the one that is left, and the one that came


def test_four_times_as_many_series_of_which_something_is_owed_take_four_times_as_long_to_look_through(
    node: Made,
) -> None:
    """While a PACS is down: each series was once held against all that is owed to it."""
    took = []
    for number in range(1, 81):
        node.accept(ct(number, series=f"1.2.{number}", study=f"1.2.{number}.0"))
        about = {"series_id": number, "run": 1, "state": "reported", "priority": 0, "not_before": NOW, "tries": 1}
        made = {"job_id": number, "kind": "report", "sop_class_uid": "1.2", "sop_instance_uid": f"1.3.{number}"}
        made |= {"series_uid": "1.4", "file": f"00/{number}", "size": 1, "sha256": "", "created_at": NOW}
        owed = {"object_id": number, "destination": "PACS1", "state": "waiting", "tries": 1, "next_at": NOW}
        with node.database.write() as connection:
            connection.execute(jobs.insert().values(about | {"created_at": NOW}))
            connection.execute(objects.insert().values(made))
            connection.execute(deliveries.insert().values(owed | {"commitment": "asked"}))
            connection.execute(series_table.update().values(state="complete"))
        if number in (20, 80):
            took.append(steps(node, lambda it: purge.deletable(it, quiet_since=NOW + 1)))
    assert took[1] < 6 * took[0]


def test_a_file_that_no_row_names_goes_with_its_retention(node: Made) -> None:
    node.accept(ct(1))
    orphan, young = node.spool.keep(b"crashed before the commit"), node.spool.keep(b"being committed right now")
    for name in node.files():
        set_age(node, name, KEEP_S + 60)
    set_age(node, young, 60)
    assert tidy(node) == (0, 1)
    assert orphan not in node.files()
    assert young in node.files()
    assert len(node.files()) == 2


def test_names_that_a_killed_process_made_for_files_to_come_are_removed_and_no_word_said(
    node: Made, caplog: pytest.LogCaptureFixture
) -> None:
    node.accept(ct(1), ct(2))
    (spare,) = [file for file in node.spool.folder.glob("??/*") if not file.stat().st_size]
    tidy(node)
    assert spare.exists()  # the next image is to be written to it
    os.utime(spare, (time.time() - 7200,) * 2)
    assert tidy(node) == (0, 0)
    assert not spare.exists()
    assert "files_without_rows" not in caplog.text


def test_images_whose_database_was_lost_are_kept_and_told_of(
    node: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They were acknowledged: an older backup of the database must not cost them."""
    node.accept(*grey_series(10))
    for name in node.files():
        set_age(node, name, 7200)
    restored = Database(f"sqlite:///{tmp_path / 'older.sqlite'}")
    schema.upgrade(restored)
    found = housekeeping.tidy(restored, node.spool, node.config, clock=node.clock)
    restored.close()
    assert found == (0, 0)
    assert len(node.files()) == 10
    assert "files=10" in caplog.text


def test_orphans_are_found_among_many(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "BATCH", 3)
    node.accept(*grey_series(10))
    orphans = {node.spool.keep(b"x") for _ in range(8)}
    for name in node.files():
        set_age(node, name, KEEP_S + 60)
    assert tidy(node) == (0, 8)
    assert not orphans & node.files()
    assert len(node.files()) == 10


def test_all_rows_are_read_once_for_thirty_thousand_files(node: Made) -> None:
    """No index holds their names: five hundred at a time, a node of a million images read for seven minutes an hour."""
    read: list[str] = []
    event.listen(node.database.engine, "before_cursor_execute", lambda *told: read.append(told[2]))
    names = [f"00/{number:032x}.dcm" for number in range(30_000)]
    assert list(purge.without_rows(node.database, iter(names))) == names
    assert len(read) == 2  # of images, and of what was made of them


def test_a_crash_between_rows_and_files_leaves_only_what_is_found_later(node: Made) -> None:
    delivered(node)
    node.clock.advance(KEEP_S + 1)
    with node.database.write() as connection:
        files = purge.delete(connection, 1, quiet_since=node.clock() - KEEP_S)
    assert files is not None
    assert set(files) == node.files()
    for name in node.files():
        set_age(node, name, KEEP_S + 60)
    assert tidy(node) == (0, len(files))
    assert node.clock() > NOW


def test_a_clock_that_is_put_forward_is_not_believed_for_a_day(caplog: pytest.LogCaptureFixture) -> None:
    clock, steady = Clock(), Clock(100.0)
    leaps = housekeeping.Leaps(clock=clock, steady=steady)

    def after(seconds: float, *, leap_s: float = 0.0) -> bool:
        clock.advance(seconds + leap_s)
        steady.advance(seconds)
        return leaps.lately()

    assert [after(3600), after(3600, leap_s=120), after(3600, leap_s=-7200)] == [False] * 3
    assert [after(3600, leap_s=365 * DAY_S), after(3600), after(22 * 3600)] == [True] * 3
    assert "clock_put_forward" in caplog.text
    assert after(3600) is False
    assert [after(3600, leap_s=-365 * DAY_S), after(3600)] == [False, False]
