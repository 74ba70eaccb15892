"""`dicom-node serve` from outside: what goes in, what comes out, and what no kill may change."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from running import RunningNode, store

from dicom_node.errors import PeerError
from dicom_node.network import scu
from dicom_node.network.stand_in import StandInPacs, free_port
from dicom_node.report import readback
from dicom_node.scanner import write

MakeNode = Callable[..., RunningNode]


def rows(node: RunningNode, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(node.folder / "data" / "node.sqlite") as connection:
        return connection.execute(query).fetchall()


def send_until_acknowledged(node: RunningNode, items: list[scu.Outgoing], stop_after: int | None = None) -> set[str]:
    """Send one by one as a patient scanner would, until the node is gone or `stop_after` were acknowledged."""
    acknowledged: set[str] = set()
    try:
        for sent in scu.send(node.peer, "TEST_CT", items):
            if sent.error is None:
                acknowledged.add(sent.item.sop_instance_uid)
            if stop_after is not None and len(acknowledged) >= stop_after:
                break
    except PeerError:
        pass
    return acknowledged


def test_a_series_goes_in_and_one_report_on_it_comes_out(make_node: MakeNode, pacs: StandInPacs, series: list[Dataset]):
    node = make_node(silence_s=120.0)  # a worker that starts slowly must not make it a matter of silence
    node.start()
    assert [s.status for s in store(node, series, node.folder / "ct")] == [0] * len(series)
    node.until(lambda: len(pacs.stored) == 1, "the report arrives")

    report = readback.parse(pacs.stored[0].path)
    assert report.study_instance_uid == series[0].StudyInstanceUID
    assert {s.sop_instance_uid for s in report.slices} == {ds.SOPInstanceUID for ds in series}
    assert report.images_received == len(series)
    assert report.notices == ("NOT FOR CLINICAL USE",)
    assert "rule=covered" in node.log

    status = json.loads(node.command("status", "--json").stdout)
    assert status["by_state"] == {"delivered": 1}
    assert status["undelivered"] == 0
    shown = node.command("show", "1")
    assert str(series[0].StudyInstanceUID) in shown.stdout
    assert "SYNTHETIC" not in node.log + shown.stdout
    assert node.stop() == 0
    assert "stopped" in node.log


def test_what_is_no_head_ct_is_kept_refused_with_its_reason_and_not_sent(
    make_node: MakeNode, pacs: StandInPacs, series: list[Dataset]
):
    node = make_node()
    node.start()
    for ds in series:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    store(node, series, node.folder / "ct")
    node.until(lambda: "refused" in node.log, "the series is refused")
    status = json.loads(node.command("status", "--json").stdout)
    assert status["by_state"] == {"refused": 1}
    assert status["newest"][0]["reason"] == "Image Type says LOCALIZER"
    assert pacs.stored == []
    assert rows(node, "SELECT count(*) FROM instances") == [(len(series),)]


def test_killing_the_worker_in_the_middle_of_its_job_changes_nothing_but_the_time(
    make_node: MakeNode, pacs: StandInPacs, series: list[Dataset]
):
    node = make_node(silence_s=2.0)
    node.start()
    (node.folder / "config.toml").write_text("somebody is just at it")  # it counts from the next start of `serve`
    first = node.worker_pid()
    os.kill(first, signal.SIGSTOP)  # so that the kill is sure to fall before the work is done
    store(node, series, node.folder / "ct")
    node.until(lambda: "complete series=1" in node.log, "the series is complete")
    os.kill(first, signal.SIGCONT)
    node.until(lambda: bool(rows(node, "SELECT 1 FROM jobs WHERE state='running'")), "the job is begun", 30)
    os.kill(first, signal.SIGKILL)
    node.until(lambda: len(pacs.stored) == 1, "the report arrives all the same")
    assert node.worker_pid(2) != first
    assert readback.parse(pacs.stored[0].path).images_received == len(series)
    assert rows(node, "SELECT count(*), max(run) FROM jobs") == [(1, 1)]


def test_killing_everything_loses_no_acknowledged_slice_and_makes_exactly_one_report(
    make_node: MakeNode, pacs: StandInPacs, series: list[Dataset]
):
    node = make_node()
    items = [scu.outgoing(path) for path in write(series, node.folder / "ct")]
    acknowledged: set[str] = set()
    for third in (1, 2, 3):
        node.start()
        missing = [i for i in items if i.sop_instance_uid not in acknowledged]
        acknowledged |= send_until_acknowledged(node, missing, stop_after=max(1, len(missing) * third // 3))
        node.kill()
        kept = rows(node, "SELECT sop_instance_uid, file, size FROM instances")
        assert acknowledged <= {uid for uid, _, _ in kept}
        for _, file, size in kept:
            assert (node.folder / "data" / "spool" / str(file)).stat().st_size == size
    assert len(acknowledged) == len(items)
    node.start()
    node.until(lambda: "complete series=1" in node.log, "the series is complete")
    node.kill()
    node.start()
    node.until(lambda: len(pacs.stored) >= 1, "the report arrives")
    node.until(lambda: "state=delivered" in node.log, "the node knows that it did")
    assert len({s.sop_instance_uid for s in pacs.stored}) == 1
    assert readback.parse(pacs.stored[0].path).images_received == len(items)
    assert rows(node, "SELECT count(*) FROM jobs WHERE state IN ('reported', 'delivered')") == [(1,)]


def test_a_report_waits_for_a_pacs_that_is_down(make_node: MakeNode, tmp_path: Path, series: list[Dataset]):
    later = StandInPacs(tmp_path / "later")
    port = free_port()
    node = make_node(peer_port=port)
    node.start()
    store(node, series, node.folder / "ct")
    node.until(lambda: "delivery_waits" in node.log, "a delivery has failed")
    assert json.loads(node.command("status", "--json").stdout)["undelivered"] == 1
    made = rows(node, "SELECT sha256 FROM objects")[0][0]
    later.start(port)
    node.until(lambda: len(later.stored) == 1, "the report is delivered")
    kept = sorted((node.folder / "data" / "spool").glob("??/*.dcm"))
    assert made in {hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}
    assert len(readback.parse(later.stored[0].path).slices) == len(series)
    later.stop()


@pytest.fixture
def hearing_hangups() -> Iterator[None]:
    """SIGHUP ends what is started here, also where these tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hearing_hangups")
def test_a_sender_that_is_not_on_the_list_is_rejected_and_told_so_in_the_log(
    make_node: MakeNode, series: list[Dataset]
):
    node = make_node()
    node.start()
    with pytest.raises(PeerError, match="rejected the association"):
        store(node, series[:1], node.folder / "ct", calling="STRANGER")
    node.until(lambda: "association_rejected" in node.log, "it is logged")
    assert "node.allowed_senders" in node.log
    assert rows(node, "SELECT count(*) FROM instances") == [(0,)]
    assert node.stop(by=signal.SIGHUP) == 0
    assert " stopped" in node.log


def test_a_late_slice_makes_a_second_report_that_names_the_first(
    make_node: MakeNode, pacs: StandInPacs, series: list[Dataset]
):
    node = make_node(silence_s=3.0)
    node.start()
    store(node, series[:-1], node.folder / "early")
    node.until(lambda: len(pacs.stored) == 1, "the first report arrives")
    store(node, series[-1:], node.folder / "late")
    node.until(lambda: len(pacs.stored) == 2, "the second report arrives")
    first, second = (readback.parse(stored.path) for stored in pacs.stored)
    assert second.predecessor == first.sop_instance_uid
    assert second.series_instance_uid != first.series_instance_uid
    assert (first.images_received, second.images_received) == (len(series) - 1, len(series))


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs the right to mount a tmpfs")
def test_a_full_disk_is_answered_a700_and_forgotten_when_there_is_room(
    make_node: MakeNode, tmp_path: Path, pacs: StandInPacs, series: list[Dataset]
):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        node = make_node(data=small / "data")
        node.start()
        answers = [s.status for s in store(node, series, node.folder / "ct")]
        assert set(answers) == {0x0000, 0xA700}
        kept = sqlite3.connect(small / "data" / "node.sqlite").execute("SELECT count(*) FROM instances").fetchone()[0]
        assert kept == answers.count(0)
        subprocess.run(["mount", "-o", "remount,size=200m", small], check=True)
        assert {s.status for s in store(node, series, node.folder / "ct")} == {0x0000}
        node.until(lambda: len(pacs.stored) >= 1, "the report arrives")
        assert readback.parse(pacs.stored[-1].path).images_received == len(series)
        assert node.stop() == 0
    finally:
        subprocess.run(["umount", "-l", small], check=False)


def test_a_second_service_on_the_same_data_is_refused(make_node: MakeNode):
    node = make_node()
    node.start()
    second = node.command("serve")
    assert second.returncode == 1
    assert "another dicom-node serve is running" in second.stderr
