"""A PACS that knows how many images a series has is asked, and a series is complete as soon as they are here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made import head_series, made_node, peer
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.errors import PeerError, PeerUnreachable
from dicom_node.network import scu
from dicom_node.receiving.counts import AGAIN_S, Counts
from dicom_node.store import series
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.store.tables import series as series_table

ODD: list[Any] = ["-3", "0", "28\\29", str(10**11), ""]


@pytest.fixture
def asked() -> list[Dataset]:
    return []


@pytest.fixture
def archive(asked: list[Dataset]) -> Iterator[int]:
    """A Query SCP that knows the series 1.2.3.1, of 28 images; its port."""

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        asked.append(event.identifier)
        if event.identifier.SeriesInstanceUID == "1.2.3.4":
            answer = Dataset()
            answer.NumberOfSeriesRelatedInstances = ODD[len(asked) - 1]
            yield 0xFF00, answer
        if event.identifier.SeriesInstanceUID == "1.2.3.1":
            answer = Dataset()
            answer.QueryRetrieveLevel = "SERIES"
            answer.NumberOfSeriesRelatedInstances = 28
            yield 0xFF00, answer
        if event.identifier.SeriesInstanceUID == "1.2.3.5":
            for of_study, count in (("1.2.3.4", 7), ("1.2.3.5", 28), ("1.2.3.6", 9)):
                answer = Dataset()
                answer.SeriesInstanceUID, answer.NumberOfSeriesRelatedInstances = of_study, count
                yield 0xFF00, answer
        while event.identifier.SeriesInstanceUID == "1.2.3.3":
            yield 0xFF00, event.identifier

    ae = AE("PACS")
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find)])
    assert server is not None
    yield server.server_address[1]
    ae.shutdown()


def test_the_pacs_is_asked_for_the_one_series(archive: int, asked: list[Dataset]) -> None:
    assert scu.count_instances(peer(archive), "NODE", "1.2.3", "1.2.3.1") == 28
    assert (asked[0].QueryRetrieveLevel, asked[0].StudyInstanceUID) == ("SERIES", "1.2.3")


def test_a_series_that_the_pacs_does_not_know_has_no_count(archive: int) -> None:
    assert scu.count_instances(peer(archive), "NODE", "1.2.3", "1.2.3.2") is None


def test_of_a_pacs_that_tells_of_the_whole_study_the_one_series_is_heard(archive: int) -> None:
    """The count of a shorter one would end the wait for this one too soon."""
    assert scu.count_instances(peer(archive), "NODE", "1.2.3", "1.2.3.5") == 28


def test_a_count_that_can_be_none_counts_for_none(archive: int) -> None:
    with disable_value_validation():
        found = [scu.count_instances(peer(archive), "NODE", "1.2.3", "1.2.3.4") for _ in ODD]
    assert found == [None] * len(ODD)


def test_a_pacs_that_answers_without_end_is_not_listened_to(archive: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scu, "_MOST_ANSWERS", 20)
    with pytest.raises(PeerUnreachable, match="without end"):
        scu.count_instances(peer(archive), "NODE", "1.2.3", "1.2.3.3")


def test_a_pacs_that_is_not_there_is_an_error_of_the_peer() -> None:
    with pytest.raises(PeerError):
        scu.count_instances(peer(1), "NODE", "1.2.3", "1.2.3.1")


def test_a_series_is_complete_at_once_when_its_count_is_reached(tmp_path: Path) -> None:
    node = made_node(tmp_path)
    slices = head_series()
    counts = Counts(node.database, lambda *_: len(slices), settle_s=2.0, clock=node.clock)
    node.accept(*slices[:-1])
    node.clock.advance(3.0)
    counts.tick()
    node.arrivals.tick()
    assert node.rows(jobs_table) == []
    node.accept(slices[-1])
    node.clock.advance(3.0)
    counts.tick()
    node.arrivals.tick()
    assert [(row.rule, row.whole) for row in node.rows(series_table)] == [("count", True)]


def test_a_series_that_stays_short_of_its_count_is_not_whole(tmp_path: Path) -> None:
    node = made_node(tmp_path)
    slices = head_series()
    counts = Counts(node.database, lambda *_: len(slices) + 5, settle_s=2.0, clock=node.clock)
    node.accept(*slices)
    node.clock.advance(3.0)
    counts.tick()
    node.tick_after(31.0)
    assert [(row.rule, row.whole) for row in node.rows(series_table)] == [("silence", False)]


def test_an_image_that_arrives_voids_the_count_that_was_asked_before(tmp_path: Path) -> None:
    node = made_node(tmp_path)
    slices = head_series()
    node.accept(*slices[:2])
    with node.database.read() as connection:
        (before,) = series.receiving(connection)
    node.clock.advance(1.0)
    node.accept(slices[2])
    with node.database.write() as connection:
        series.expect(connection, before, 2)
    assert [row.expected for row in node.rows(series_table)] == [None]


def test_the_pacs_is_asked_again_only_after_a_while_and_may_fail(tmp_path: Path) -> None:
    node = made_node(tmp_path)
    node.accept(*head_series())
    times: list[float] = []

    def ask(*_: str) -> int:
        times.append(node.clock())
        raise PeerUnreachable("down")

    counts = Counts(node.database, ask, settle_s=2.0, clock=node.clock)
    for _ in range(10):
        node.clock.advance(1.0)
        counts.tick()
    assert len(times) == 2
    assert times[1] - times[0] >= AGAIN_S


def test_that_the_pacs_does_not_answer_is_logged_once_until_it_has_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = made_node(tmp_path)
    node.accept(*head_series())
    answers = [None, None, 28, None]

    def ask(*_: str) -> int:
        if (answer := answers.pop(0)) is None:
            raise PeerUnreachable("down")
        return answer

    counts, logged = Counts(node.database, ask, settle_s=2.0, clock=node.clock), []
    while answers:
        node.clock.advance(AGAIN_S)
        counts.tick()
        logged.append(sum("not_counted" in line for line in caplog.messages))
    assert logged == [1, 1, 1, 2]
