"""What `status` says of the node as a whole: is anybody at work, what is late, what must a person look at?"""

from __future__ import annotations

import json
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from made import NOW, Made, ct, grey_series, made_node
from rich.console import Console
from untrained import untrained_checkpoint

from dicom_node.administering import present
from dicom_node.administering.health import Health, health
from dicom_node.administering.retrying import retry, retry_refused
from dicom_node.cli import main
from dicom_node.store import heartbeats, outbox
from dicom_node.store import jobs as jq
from dicom_node.store import series as series_of_node
from dicom_node.store.overview import NEWEST, Overview, last_series_from, overview
from dicom_node.store.tables import JobState, deliveries, jobs, series
from dtvit.preprocess import preprocessing


def beat(node: Made, *, at: float, owner: str = "1-1") -> None:
    with node.database.write() as connection:
        heartbeats.beat(connection, owner, started_at=NOW - 100, now=at)


def seen(node: Made) -> Overview:
    with node.database.read() as connection:
        return overview(connection, now=node.clock())


@pytest.mark.parametrize(
    ("age_s", "alive"), [(0.0, True), (44.0, True), (46.0, False), (-44.0, True), (-3600.0, False)]
)
def test_a_service_is_alive_while_it_gives_signs_whatever_its_clock(node: Made, age_s: float, alive: bool) -> None:
    beat(node, at=NOW - age_s)
    assert seen(node).serving_since == (NOW - 100 if alive else None)


def test_a_service_on_a_full_disk_is_not_called_dead(node: Made) -> None:
    """It cannot write its signs of life, and need not be restarted."""
    _, wrong = health(seen(node), no_room="only 0 MiB are free", destinations=[])
    assert wrong == [
        "no dicom-node serve shows a sign of life, which it cannot while the disk is full or gone",
        "nothing can be received: only 0 MiB are free",
    ]


def test_a_positive_that_waits_says_how_it_is_sent_at_once(node: Made) -> None:
    """Once the PACS is back, its next try may be ten minutes away."""
    owe(node, "present", "waiting")
    node.clock.advance(700)
    _, wrong = health(seen(node), no_room=None, destinations=["PACS1"])
    assert any("dicom-node retry 1 tries at once" in sentence for sentence in wrong)


def test_a_service_that_ends_in_order_is_gone_at_once(node: Made) -> None:
    beat(node, at=NOW)
    beat(node, at=NOW, owner="2-2")
    with node.database.write() as connection:
        heartbeats.end(connection, "1-1")
    assert seen(node).serving_since is not None
    with node.database.write() as connection:
        heartbeats.end(connection)
    assert seen(node).serving_since is None


def test_what_waits_is_counted_by_priority(node: Made) -> None:
    node.accept(ct(1, series="1.2.1", StudyDate="20260301"), ct(1, series="1.2.2", study="1.3", StudyDate=""))
    found = seen(node)
    assert (found.waiting_live, found.waiting_backlog) == (1, 1)


def owe(node: Made, outcome: str, state: str) -> None:
    node.accept(ct(1))
    with node.database.write() as connection:
        values = {"series_id": 1, "run": 1, "state": "reported", "priority": 0, "not_before": NOW, "tries": 1}
        connection.execute(jobs.insert().values(values | {"created_at": NOW, "outcome": outcome}))
        made = outbox.MadeObject("report", "1.2.3", "2.25.1", "2.25.9", "aa/x.dcm", 1, "0" * 64)
        outbox.put(connection, 1, [made], ["PACS1"], now=NOW)
        connection.execute(deliveries.update().values(state=state))


@pytest.mark.parametrize(
    ("outcome", "state", "later_s", "expected"),
    [
        ("present", "waiting", 60.0, Health.GOOD),
        ("present", "waiting", 700.0, Health.CRITICAL),
        ("absent", "waiting", 700.0, Health.GOOD),
        ("absent", "waiting", 3700.0, Health.WARNING),  # a PACS that is away for good must not look like a quiet night
        ("absent", "delivered", 3700.0, Health.GOOD),
        ("absent", "cancelled", 3700.0, Health.GOOD),
        ("absent", "failed", 60.0, Health.WARNING),
        ("present", "failed", 700.0, Health.CRITICAL),
        ("present", "delivered", 700.0, Health.GOOD),
    ],
)
def test_a_positive_that_is_late_is_an_alarm_and_a_refusal_a_warning(
    node: Made, outcome: str, state: str, later_s: float, expected: Health
) -> None:
    owe(node, outcome, state)
    node.clock.advance(later_s)
    beat(node, at=node.clock())
    level, wrong = health(seen(node), no_room=None, destinations=["PACS1"])
    assert level is expected
    assert bool(wrong) == (expected is not Health.GOOD)


@pytest.mark.parametrize(
    ("date", "complete", "later_s", "expected"),
    [
        ("", False, 500.0, Health.GOOD),
        ("", False, 700.0, Health.CRITICAL),
        ("", True, 700.0, Health.CRITICAL),  # a job that no worker takes, as one that does not start
        ("20200101", True, 700.0, Health.GOOD),  # backlog may wait
    ],
)
def test_a_live_series_that_waits_for_its_result_is_an_alarm(
    node: Made, date: str, complete: bool, later_s: float, expected: Health
) -> None:
    node.accept(*grey_series(StudyDate=date))
    if complete:
        node.tick_after(31)
    node.clock.advance(later_s)
    beat(node, at=node.clock())
    assert health(seen(node), no_room=None, destinations=["PACS1"])[0] is expected


def test_what_waits_since_before_the_clock_was_set_back_is_an_alarm_and_does_not_hide(node: Made) -> None:
    """With a clock that was years ahead, it would not be late for years."""
    owe(node, "present", "waiting")
    node.accept(ct(1, series="1.2.2", study="1.3", StudyDate=""))
    node.clock.advance(-3 * 365 * 86400)
    beat(node, at=node.clock())
    level, wrong = health(seen(node), no_room=None, destinations=["PACS1"])
    assert level is Health.CRITICAL
    assert any("a positive result has been undelivered" in sentence for sentence in wrong)
    assert any("results have waited for PACS1" in sentence for sentence in wrong)
    assert any("live series 2 has waited" in sentence for sentence in wrong)


def test_silence_since_before_the_clock_was_set_back_is_silence(node: Made) -> None:
    node.accept(ct(1))
    node.clock.advance(-86400)
    _, wrong = health(seen(node), no_room=None, destinations=[], silent_s=3600.0)
    assert any("no new image has come for 24.0 h" in sentence for sentence in wrong)


def test_what_came_before_the_clock_was_set_back_does_not_hide_what_is_new(node: Made) -> None:
    """Nor does `last_series_from` say for years that a sender sends which does not."""
    for number in range(1, 13):
        node.accept(ct(1, series=f"1.2.{number}"))
    node.clock.advance(-3 * 365 * 86400)
    beat(node, at=node.clock())
    node.accept(ct(1, series="1.3"), calling_aet="CT1")
    node.accept(ct(1, series="1.4"), calling_aet="CT2")
    found = seen(node)
    assert [line.id for line in found.newest[:2]] == [14, 13]
    assert len(found.newest) == NEWEST
    with node.database.read() as connection:
        assert last_series_from(connection, now=node.clock()) == {"CT1": node.clock(), "CT2": node.clock()}
    said = StringIO()
    present.overview(Console(file=said, width=200), found, free_mib=1, now=node.clock(), wrong=[])
    assert "before the clock was set back" in said.getvalue()
    assert "-9" not in said.getvalue()


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize(("later_s", "expected"), [(500.0, Health.GOOD), (700.0, Health.CRITICAL)])
def test_an_old_series_that_is_asked_for_again_has_waited_only_since_then(
    node: Made, judged: bool, later_s: float, expected: Health
) -> None:
    node.accept(*grey_series(StudyDate=""))
    node.tick_after(31)
    with node.database.write() as connection:
        job = jq.claim(connection, owner="w", now=node.clock(), lease_s=60)
        assert job is not None
        jq.finish(connection, job, JobState.REFUSED, now=node.clock())
    node.clock.advance(3 * 86400)
    with node.database.write() as connection:
        one = series_of_node.get(connection, 1)
        assert one is not None
        retry(connection, one, node.config.eligibility, again=True, keep=None, now=node.clock())
    if judged:
        node.tick_after(0)
    assert node.rows(series)[0].state == ("complete" if judged else "receiving")
    node.clock.advance(later_s)
    beat(node, at=node.clock())
    assert health(seen(node), no_room=None, destinations=[])[0] is expected


@pytest.mark.parametrize(("silent_h", "expected"), [(0, 0), (7, 1), (9, 0)])
def test_that_nothing_arrives_any_more_is_a_warning_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent_h: int, expected: int
) -> None:
    node = made_node(tmp_path)
    (tmp_path / "config.toml").write_text(f"[node]\nmin_free_mib = 0\n[monitoring]\nsilent_h = {silent_h}\n")
    monkeypatch.setattr("time.time", node.clock)

    def checked() -> tuple[int, dict[str, Any]]:
        beat(node, at=node.clock())
        ran = CliRunner().invoke(main, ["status", "--check", "--json", "--config", str(tmp_path / "config.toml")])
        return ran.exit_code, json.loads(ran.output)

    assert checked()[0] == (silent_h > 0)  # nobody has ever sent anything
    node.accept(ct(1, series="1.2.1", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), calling_aet="CT1")
    node.clock.advance(3600)
    node.accept(ct(1, series="1.2.2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), calling_aet="CT2")
    node.tick_after(8 * 3600)
    code, told = checked()
    assert code == expected
    assert told["last_image_s"] == 8 * 3600
    assert told["last_series_from"] == {"CT1": NOW, "CT2": NOW + 3600}
    node.accept(ct(2, series="1.2.2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    assert checked()[0] == 0


def test_what_is_owed_to_a_peer_that_is_configured_no_more_is_told(node: Made, tmp_path: Path) -> None:
    owe(node, "absent", "waiting")
    beat(node, at=NOW)
    level, wrong = health(seen(node), no_room=None, destinations=["PACS2"])
    assert level is Health.WARNING
    assert "1 deliveries are owed to PACS1, which is not a destination" in wrong[0]
    (tmp_path / "config.toml").write_text("[node]\nmin_free_mib = 0\n")
    arguments = ["cancel", "PACS1", "--config", str(tmp_path / "config.toml")]
    assert CliRunner().invoke(main, arguments, input="n\n").exit_code == 1
    assert "1 deliveries to PACS1 cancelled" in CliRunner().invoke(main, [*arguments, "--yes"]).output
    assert health(seen(node), no_room=None, destinations=[])[0] is Health.GOOD
    assert "nothing is owed to PACS1" in CliRunner().invoke(main, arguments).output


def test_all_that_was_refused_is_tried_again_at_once(node: Made, tmp_path: Path) -> None:
    owe(node, "absent", "failed")
    (tmp_path / "config.toml").write_text("[node]\nmin_free_mib = 0\n")

    def retry(*given: str) -> tuple[int, str]:
        ran = CliRunner().invoke(main, ["retry", *given, "--config", str(tmp_path / "config.toml")])
        return ran.exit_code, ran.output

    assert retry() == retry("1", "--refused") == retry("--refused", "--again")
    assert node.rows(deliveries)[0].state == "failed"
    assert retry("--refused") == (0, "1 deliveries of 1 series will be tried again\n")
    assert node.rows(deliveries)[0].state == "waiting"
    assert retry("--refused")[0] == 1


def test_series_of_which_only_an_outdated_report_was_refused_are_not_counted_as_tried_again(node: Made) -> None:
    owe(node, "absent", "failed")
    node.accept(ct(1, series="2.25.77"))
    with node.database.write() as connection:
        values = {"series_id": 2, "state": "reported", "priority": 0, "not_before": NOW, "tries": 1, "created_at": NOW}
        for run in (1, 2):
            connection.execute(jobs.insert().values(values | {"run": run}))
        made = outbox.MadeObject("report", "1.2.3", "2.25.2", "2.25.9", "aa/y.dcm", 1, "0" * 64)
        outbox.put(connection, 2, [made], ["PACS1"], now=NOW)
        connection.execute(deliveries.update().values(state="failed"))
        assert retry_refused(connection, now=NOW) == "1 deliveries of 1 series will be tried again"


def test_a_destination_that_is_configured_is_never_cancelled(node: Made, tmp_path: Path) -> None:
    owe(node, "absent", "waiting")
    peer = '[[peers]]\nname = "PACS1"\nhost = "127.0.0.1"\nport = 1\nae_title = "P"\n'
    (tmp_path / "config.toml").write_text(peer)
    told = CliRunner().invoke(main, ["cancel", "PACS1", "--yes", "--config", str(tmp_path / "config.toml")])
    assert told.exit_code == 1
    assert "PACS1 is a destination" in told.output
    assert node.rows(deliveries)[0].state == "waiting"


def test_what_is_wrong_is_told_with_the_series_to_look_at(node: Made) -> None:
    owe(node, "present", "failed")
    node.clock.advance(700)
    beat(node, at=node.clock())
    said = health(seen(node), no_room=None, destinations=["PACS1"])[1]
    assert "see dicom-node show 1" in said[0]
    assert "of series 1; show says why" in said[1]


def test_a_series_that_failed_is_a_warning_for_a_day(node: Made) -> None:
    node.accept(*grey_series(5), ct(6, PatientID="P-2"))
    node.tick_after(31)
    beat(node, at=node.clock())
    level, wrong = health(seen(node), no_room=None, destinations=["PACS1"])
    assert (level, "1 series" in wrong[0]) == (Health.WARNING, True)
    node.clock.advance(86400)
    beat(node, at=node.clock())
    assert health(seen(node), no_room=None, destinations=["PACS1"])[0] is Health.GOOD


def test_the_day_begins_when_the_job_failed_however_old_its_images_are(node: Made) -> None:
    """A backlog, `serve` that was down over a weekend, an older series that is tried again."""
    node.accept(*grey_series())
    node.tick_after(31)
    node.clock.advance(3 * 86400)
    with node.database.write() as connection:
        job = jq.claim(connection, owner="w", now=node.clock(), lease_s=60)
        assert job is not None
        jq.finish(connection, job, JobState.FAILED, now=node.clock(), reason="processing failed 3 times")
    assert seen(node).failed_lately == (1,)
    node.accept(*grey_series())  # the same bytes again
    node.clock.advance(86400)
    assert seen(node).failed_lately == ()


def test_a_failure_that_a_later_run_has_mended_is_none_any_longer(node: Made) -> None:
    node.accept(*grey_series())
    node.tick_after(31)
    for state in (JobState.FAILED, JobState.REFUSED):
        with node.database.write() as connection:
            job = jq.claim(connection, owner="w", now=node.clock(), lease_s=60)
            assert job is not None
            jq.finish(connection, job, state, now=node.clock())
        assert seen(node).failed_lately == ((1,) if state is JobState.FAILED else ())
        node.accept(ct(99, series=grey_series()[0].SeriesInstanceUID))
        assert seen(node).failed_lately == ()
        node.tick_after(91)


def test_a_result_left_behind_is_told_for_a_day_however_old_the_images_are(node: Made) -> None:
    node.accept(ct(1))
    node.clock.advance(3 * 86400)
    with node.database.write() as connection:
        for number in (1, 2):
            job = {"series_id": 1, "run": number, "state": "reported", "priority": 0, "not_before": NOW, "tries": 1}
            connection.execute(jobs.insert().values(job | {"created_at": NOW}))
        connection.execute(series.update().values(state="complete", run=2))
        series_of_node.note_left_behind(connection, 1, 2, ["PACS1"], now=node.clock())
    assert seen(node).left_behind == (1,)
    node.clock.advance(86400)
    assert seen(node).left_behind == ()


@pytest.mark.parametrize("kernel", ["BONE[/]", "BONE[bold", "BONE[red]"])
def test_what_a_header_says_is_shown_as_it_is_and_never_as_markup(tmp_path: Path, kernel: str) -> None:
    node = made_node(tmp_path)
    (tmp_path / "config.toml").write_text("[node]\nmin_free_mib = 0\n")
    node.accept(*grey_series(ConvolutionKernel=kernel))
    node.tick_after(31)
    for command in ("status", "show"):
        named = ["1"] if command == "show" else []
        told = CliRunner().invoke(
            main, [command, *named, "--config", str(tmp_path / "config.toml")], env={"COLUMNS": "200"}
        )
        assert told.exception is None
        assert kernel in told.output


def test_a_full_disk_is_an_alarm(node: Made) -> None:
    beat(node, at=NOW)
    assert health(seen(node), no_room="3 MiB are free", destinations=[])[0] is Health.CRITICAL
    assert node.spool.has_room()
    node.spool.min_free_mib = 2**40
    assert not node.spool.has_room()


def test_an_empty_folder_in_the_place_of_the_spool_is_an_alarm(tmp_path: Path) -> None:
    """Its disk was taken away while `serve` runs; the disk below has room, and nothing is stored there."""
    node = made_node(tmp_path)
    (tmp_path / "config.toml").write_text("[node]\nmin_free_mib = 0\n")
    beat(node, at=time.time())
    arguments = ["status", "--check", "--json", "--config", str(tmp_path / "config.toml")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    node.spool.folder.rename(tmp_path / "away")
    node.spool.folder.mkdir()
    told = CliRunner().invoke(main, arguments)
    assert told.exit_code == 2
    assert "is its disk mounted?" in json.loads(told.stdout)["wrong"][0]
    assert not node.spool.has_room()


@pytest.mark.parametrize("command", [["status", "--check"], ["check-config"]])
def test_a_spool_that_cannot_be_written_is_an_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """Root put it back, or the kernel made its disk read-only: every image is answered A700."""
    node = made_node(tmp_path)
    checkpoint = untrained_checkpoint(tmp_path / "model.safetensors", preprocessing=(preprocessing("robust"),))
    (tmp_path / "config.toml").write_text(f"[node]\nmin_free_mib = 0\n[model]\ncheckpoint = '{checkpoint}'\n")
    beat(node, at=time.time())
    arguments = [*command, "--config", str(tmp_path / "config.toml")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    shard = str(node.spool.folder / "00")
    monkeypatch.setattr("os.access", lambda path, _: not str(path).startswith(shard))
    told = CliRunner().invoke(main, arguments)
    assert told.exit_code == (2 if "--check" in command else 1)
    assert f"{shard} cannot be written to" in told.output
    assert not node.spool.has_room()


def test_a_spool_that_may_not_be_looked_into_is_an_alarm_and_not_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = made_node(tmp_path)
    (tmp_path / "config.toml").write_text("[node]\nmin_free_mib = 0\n")
    beat(node, at=time.time())

    is_dir = Path.is_dir

    def closed(path: Path) -> bool:
        if path.parent == node.spool.folder:
            raise PermissionError(13, "Permission denied")
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", closed)
    told = CliRunner().invoke(main, ["status", "--check", "--config", str(tmp_path / "config.toml")])
    assert told.exit_code == 2
    assert "nothing can be received: the spool cannot be read: Permission denied" in told.output
    assert not node.spool.has_room()


def test_monitoring_reads_the_exit_status(tmp_path: Path) -> None:
    made_node(tmp_path)
    (tmp_path / "config.toml").write_text("[node]\nmin_free_mib = 0\n")
    arguments = ["status", "--json", "--config", str(tmp_path / "config.toml")]
    told = CliRunner().invoke(main, [*arguments, "--check"])
    assert told.exit_code == 2
    assert json.loads(told.stdout)["health"] == "critical"
    assert "no dicom-node serve shows a sign of life" in json.loads(told.stdout)["wrong"]
    assert CliRunner().invoke(main, arguments).exit_code == 0


def test_a_series_counts_once_by_its_newest_run_or_as_received(node: Made) -> None:
    number = 0

    def add(series_state: str, *job_states: str) -> None:
        nonlocal number
        number += 1
        one = {"series_uid": f"1.{number}", "study_uid": "1.9", "calling_aet": "A", "state": series_state}
        one |= {"run": len(job_states), "forced": False, "first_at": NOW, "last_at": NOW}
        with node.database.write() as connection:
            connection.execute(series.insert().values(one))
            for run, state in enumerate(job_states, 1):
                job = {"series_id": number, "run": run, "state": state, "priority": 0, "not_before": NOW, "tries": 0}
                connection.execute(jobs.insert().values(job | {"created_at": NOW}))

    add("receiving")
    add("receiving", "delivered")
    add("complete", "delivered", "delivered", "running")
    add("complete", "delivered", "delivered")
    add("complete", "refused")
    add("refused", "cancelled")
    add("failed")
    found = seen(node)
    assert found.by_state == {"delivered": 1, "failed": 1, "receiving": 2, "refused": 2, "running": 1}
    assert found.waiting_live == 3
