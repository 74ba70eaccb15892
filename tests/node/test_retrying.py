"""What a person may decide about a series, and what is not possible."""

from __future__ import annotations

from typing import Any

import pytest
from made import Made, changed, ct, grey_series, head_series

from dicom_node.administering.retrying import retry
from dicom_node.config import Eligibility
from dicom_node.errors import NotPossible
from dicom_node.store import series
from dicom_node.store.tables import deliveries, instances
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.store.tables import series as series_table


def decide(
    node: Made, number: int = 1, *, again: bool = False, keep: str | None = None, rules: Eligibility | None = None
) -> str:
    with node.database.write() as connection:
        one = series.get(connection, number)
        assert one is not None
        return retry(connection, one, rules or node.config.eligibility, again=again, keep=keep, now=node.clock())


def reported(node: Made) -> None:
    node.accept(*head_series())
    node.tick_after(31)
    node.work()


def test_a_refused_series_is_judged_under_the_rules_as_they_are_now(node: Made) -> None:
    node.accept(*grey_series(10, ConvolutionKernel="H60s"))
    node.tick_after(31)
    assert node.rows(series_table)[0].state == "refused"
    decide(node)
    node.tick_after(31)
    assert node.rows(series_table)[0].state == "refused"
    assert "judged again" in decide(node, rules=Eligibility(refused_kernels=()))
    node.arrivals.tick()
    assert [job.state for job in node.rows(jobs_table)] == ["ready"]


def test_where_images_contradict_each_other_the_person_says_which_counts(node: Made) -> None:
    slices = grey_series(10)
    other = changed(slices[0], PixelData=bytes(512))
    node.accept(*slices, other)
    with pytest.raises(NotPossible, match="--keep first or --keep last"):
        decide(node)
    decide(node, keep="last")
    assert [row.current for row in node.rows(instances)] == [False] + [True] * 10
    node.tick_after(31)
    assert node.rows(series_table)[0].state == "complete"


def test_a_series_that_loses_an_image_by_the_decision_is_reported_anew(node: Made) -> None:
    slices = head_series()
    reported(node)
    node.accept(changed(slices[9], PixelData=bytes(len(slices[9].PixelData)), SeriesInstanceUID="1.2.3.4"))
    assert [row.state for row in node.rows(series_table)] == ["complete", "failed"]
    assert "series 1" in decide(node, 2, keep="last")
    assert [row.state for row in node.rows(series_table)] == ["receiving", "receiving"]
    node.tick_after(31)
    node.work()
    assert [(job.series_id, job.run, len(job.findings["slices"])) for job in node.rows(jobs_table)] == [
        (1, 1, len(slices)),
        (1, 2, len(slices) - 1),
    ]


def test_a_series_that_loses_all_its_images_by_the_decision_is_not_judged_but_to_be_withdrawn(node: Made) -> None:
    reported(node)
    node.accept(*(changed(ds, PixelData=bytes(len(ds.PixelData)), SeriesInstanceUID="1.2.3.4") for ds in head_series()))
    decide(node, 2, keep="last")
    assert [row.state for row in node.rows(series_table)] == ["failed", "receiving"]
    assert "withdraw 1" in node.rows(series_table)[0].reason


@pytest.mark.parametrize("elsewhere", [{}, {"SeriesInstanceUID": "1.2.3.4"}], ids=["", "in another series"])
def test_what_waits_to_be_sent_of_an_image_that_is_set_aside_is_not_sent(node: Made, elsewhere: dict[str, str]) -> None:
    """The one that counts in its place may be another patient's."""
    reported(node)
    pixels = bytes(len(head_series()[9].PixelData))
    node.accept(changed(head_series()[9], PixelData=pixels, PatientID="SYN-0002", **elsewhere))
    decide(node, 2 if elsewhere else 1, keep="last")
    assert {row.state for row in node.rows(deliveries)} == {"cancelled"}


def test_a_series_that_keeps_its_images_is_left_alone_by_the_decision(node: Made) -> None:
    slices = head_series()
    reported(node)
    node.accept(changed(slices[9], PixelData=bytes(len(slices[9].PixelData)), SeriesInstanceUID="1.2.3.4"))
    decide(node, 2, keep="first")
    assert [row.state for row in node.rows(series_table)] == ["complete", "receiving"]


def test_a_delivery_that_was_refused_is_tried_again(node: Made) -> None:
    reported(node)
    with node.database.write() as connection:
        connection.execute(deliveries.update().values(state="failed", next_at=node.clock() + 1e6))
    assert "tried again" in decide(node)
    assert {(row.state, row.next_at) for row in node.rows(deliveries)} == {("waiting", node.clock())}
    assert len(node.rows(jobs_table)) == 1


def test_a_delivered_report_is_made_anew_only_when_asked(node: Made) -> None:
    reported(node)
    with node.database.write() as connection:
        connection.execute(deliveries.update().values(state="delivered"))
        connection.execute(jobs_table.update().values(state="delivered"))
    with pytest.raises(NotPossible, match="--again"):
        decide(node)
    decide(node, again=True)
    node.tick_after(31)
    node.work()
    assert [(job.run, job.state) for job in node.rows(jobs_table)] == [(1, "delivered"), (2, "reported")]


def test_a_failed_run_is_done_again(node: Made) -> None:
    reported(node)
    with node.database.write() as connection:
        connection.execute(jobs_table.update().values(state="failed"))
    decide(node)
    node.tick_after(31)
    node.work()
    assert [(job.run, job.state) for job in node.rows(jobs_table)] == [(1, "failed"), (2, "reported")]


@pytest.mark.parametrize("state", ["ready", "running"])
def test_nothing_is_done_while_it_is_in_work(node: Made, state: str) -> None:
    node.accept(*head_series())
    with pytest.raises(NotPossible, match="being received"):
        decide(node)
    node.tick_after(31)
    with node.database.write() as connection:
        connection.execute(jobs_table.update().values(state=state))
    before: list[Any] = node.rows(series_table)
    with pytest.raises(NotPossible, match=state):
        decide(node)
    assert node.rows(series_table) == before


def test_a_decision_that_is_not_possible_changes_nothing(node: Made) -> None:
    node.accept(ct(1), changed(ct(1), PixelData=bytes(512)))
    with node.database.write() as connection:
        connection.execute(series_table.update().values(state="receiving"))
    with pytest.raises(NotPossible):
        decide(node, keep="first")
    assert [row.current for row in node.rows(instances)] == [True, True]
