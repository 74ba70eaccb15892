"""No identity in any line, whatever comes and whatever fails; one line an event."""

from __future__ import annotations

import ast
import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from made import FakeClassifier, Made, changed, encoded, head_series, made_node, peer, received
from pydicom.dataset import Dataset

from dicom_node import logs
from dicom_node.delivering.sender import Sender
from dicom_node.errors import ModelFailed
from dicom_node.network.stand_in import free_port
from dicom_node.store import jobs, series

REPOSITORY = Path(__file__).resolve().parents[2]
LEVELS = ("info", "warn", "warning", "error", "critical")
DISTINCTIVE = {
    "PatientName": "Zwetschgenbaum^Ottilie",
    "PatientID": "QX-7731-ID",
    "PatientBirthDate": "19311224",
    "AccessionNumber": "ACC-90210-Z",
    "StudyID": "STID-5512",
    "ReferringPhysicianName": "Quacksalber^Hugo",
    "StudyDescription": "Kopfschmerz nach Sturz im Garten",
}
SECRETS = [part for value in DISTINCTIVE.values() for part in value.replace("^", " ").split() if len(part) > 4]


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Everything that is logged, by whomever, as the service would print it, at its most talkative."""
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.configure("debug", stream)
    yield stream
    root.handlers[:], level = before
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def node(tmp_path: Path) -> Made:
    return made_node(tmp_path, peers=[peer(free_port(), timeout_s=1.0)])


def named_slices() -> list[Dataset]:
    return head_series(**DISTINCTIVE)


def check(lines: io.StringIO, *expected: str) -> None:
    text = lines.getvalue()
    for event in expected:
        assert event in text
    for secret in SECRETS:
        assert secret.lower() not in text.lower(), secret


def test_no_identity_is_logged_when_all_goes_well(node: Made, lines: io.StringIO) -> None:
    node.accept(*named_slices())
    node.tick_after(31)
    worker = node.worker()
    while worker.step():
        pass
    Sender(
        node.database, node.spool, node.config.peers[0], node.config.results, ae_title="NODE", clock=node.clock
    ).tick()
    check(lines, "kept ", "complete ", "job_done ", "delivery_waits ")


def test_no_identity_is_logged_when_an_object_is_refused(node: Made, lines: io.StringIO) -> None:
    slices = named_slices()
    whole = encoded(slices[0])
    for broken in (
        whole[:600],
        whole[:-7],
        b"\xff" * 80 + whole,
        whole.replace(b"\x20\x00\x0d\x00", b"\x20\x00\x0d\xff"),
    ):
        assert node.acceptor.accept(received(slices[0], data_set=broken)) != 0
    assert node.acceptor.accept(received(changed(slices[1], StudyInstanceUID="1.2.3/Zwetschgenbaum"))) != 0
    check(lines, "rejected ")


def test_no_identity_is_logged_when_series_contradict_themselves(node: Made, lines: io.StringIO) -> None:
    slices = named_slices()
    node.accept(*slices[:-1], changed(slices[-1], PatientName="Pflaumenstein^Berta"))
    node.accept(changed(slices[0], PixelData=b"\1\2" * (len(slices[0].PixelData) // 2)))
    node.tick_after(31)
    check(lines, "contradiction ")
    assert "pflaumenstein" not in lines.getvalue().lower()


def test_no_identity_is_logged_when_the_disagreement_is_found(node: Made, lines: io.StringIO) -> None:
    slices = named_slices()
    node.accept(*slices[:-1], changed(slices[-1], PatientName="Pflaumenstein^Berta"))
    node.tick_after(31)
    check(lines, "failed ")
    with node.database.read() as connection:
        one = series.get(connection, 1)
    assert one is not None
    assert one.reason is not None
    assert "pflaumenstein" not in (lines.getvalue() + one.reason).lower()


def test_no_identity_is_logged_when_the_model_or_the_report_fails(
    node: Made, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dicom_node.report import sr

    def fails(_: int) -> None:
        raise ValueError("cannot convert 'Zwetschgenbaum^Ottilie'")

    def builds(*_: object, **__: object) -> None:
        raise KeyError("QX-7731-ID")

    node.accept(*named_slices())
    node.tick_after(31)
    with pytest.raises(ModelFailed) as caught:
        node.worker(FakeClassifier(fails=fails)).step()
    assert "Zwetsch" not in str(caught.value)
    node.clock.advance(400)
    monkeypatch.setattr(sr, "build", builds)
    for _ in range(6):
        node.worker().step()
        node.clock.advance(400)
    check(lines, "try_failed ")
    with node.database.read() as connection:
        newest = jobs.newest(connection, 1)
    assert newest is not None
    assert "QX-7731" not in (newest.reason or "")


def test_what_libraries_warn_of_is_not_printed(lines: io.StringIO) -> None:
    warnings.warn("Invalid value for VR PN: 'Zwetschgenbaum^Ottilie'", UserWarning, stacklevel=1)
    logging.getLogger("pydicom").warning("Zwetschgenbaum")
    logging.getLogger("pynetdicom.assoc").error("Zwetschgenbaum")
    logging.getLogger("dicom_node.test").info("shown")
    check(lines, "shown")


def test_a_trace_names_class_and_place_and_not_the_text() -> None:
    try:
        int("Zwetschgenbaum")
    except ValueError as exc:
        said = logs.trace(exc)
    assert said.startswith("ValueError at test_logs.py:")
    assert "Zwetsch" not in said


def test_a_line_stays_one_line_whatever_its_values_are() -> None:
    said = logs.fields(a=1, b="two words", c="x\ny", d=None, e=1.23456, f='say "hi"', g="", h="a=b")
    assert said == 'a=1 b="two words" c="x\\ny" e=1.235 f="say \\"hi\\"" g="" h="a=b"'


def test_lines_bear_the_time_in_utc(lines: io.StringIO) -> None:
    record = logging.LogRecord("dicom_node.test", logging.INFO, "", 0, "hello", None, None)
    record.created = 1_900_000_000.5
    record.msecs = 500.0
    assert logs.KeyValueFormatter().format(record) == "2030-03-17T17:46:40.500Z INFO dicom_node.test hello"


def test_the_secrets_looked_for_are_really_in_the_objects_sent() -> None:
    assert all(secret.encode() in encoded(named_slices()[0]) for secret in SECRETS)


def test_each_event_that_is_logged_stands_in_the_page_for_who_runs_it() -> None:
    """And none that is not: the table is what an administrator has at three in the morning."""
    page = (REPOSITORY / "docs" / "running.md").read_text().partition("### What the log says")[2].partition("\n## ")[0]
    told = {name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert told == {event for file in (REPOSITORY / "dicom_node").rglob("*.py") for event in events(file)}


def events(file: Path) -> Iterator[str]:
    """What the code in this file logs at level info and above; a sentence said at start explains itself."""
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=of, attr=level), args=[ast.Constant(value=str(text)), *_]):
                logs_it = re.fullmatch(r"log|self\._log|.*tally", ast.unparse(of)) and level in LEVELS
                if logs_it and (event := re.fullmatch(r"([a-z_]+)(?: %s)?", text)):
                    yield event[1]


def test_a_thread_that_ends_leaves_one_line_and_no_text_of_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    stream = io.StringIO()
    logs.configure("info", stream)

    def fail() -> None:
        raise KeyError("Zwetschgenbaum")

    thread = threading.Thread(target=fail, name="library")
    thread.start()
    thread.join(10)
    assert "thread_ended part=library" in stream.getvalue()
    assert "KeyError at test_logs.py" in stream.getvalue()
    assert "Zwetschgenbaum" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1
