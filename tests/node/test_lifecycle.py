"""A short run of the specification in `lifecycle`, and that it sees what is wrong; `make life` runs thousands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lifecycle import WHOLE, Life, live, patched
from living.checks import settle
from living.world import World

from dicom_node.store import cancelling, choices, tables, whereabouts
from dicom_node.working.extras import Extras


@pytest.fixture
def life() -> Iterator[Life]:
    """One that goes wrong: nothing is looked at when it ends."""
    life = Life()
    life.fine = False
    yield life
    life.teardown()


def test_whatever_happens_each_scan_ends_with_one_current_result() -> None:
    done = live(examples=35, steps=30, shrinks=False, derandomize=True)
    assert done["sequences"] >= 35
    assert min(done[what] for what in ("absent", "objects stored", "plain studies", "retried", "withdrawn")) > 0
    assert done["died between transactions"] > 0


SERIES = "1.2.1.1"


def run(world: World, statement: str) -> None:
    """Change rows behind the node's back."""
    with world.database.write() as connection:
        connection.exec_driver_sql(statement)


WRONG: dict[str, tuple[Callable[[World], object], str]] = {
    "an image lost": (lambda w: w.spool.remove(w.rows(tables.instances.select())[3].file), "has no file"),
    "an image that does not count": (lambda w: run(w, "UPDATE instances SET current = 0 WHERE id = 4"), "counts: True"),
    "a report lost": (lambda w: w.pacs["PACS1"].holds.clear(), "no report of"),
    "a result of other pixels": (lambda w: run(w, "UPDATE jobs SET model_digest = 'b'"), "not from the pixels"),
    "what nobody sends": (
        lambda w: run(w, "UPDATE deliveries SET state = 'waiting', destination = 'X'"),
        "wait for ever",
    ),
}


@pytest.mark.parametrize(("spoil", "seen"), WRONG.values(), ids=WRONG)
def test_the_specification_sees_what_is_wrong(life: Life, spoil: Callable[[World], object], seen: str) -> None:
    life.a_series_arrives(SERIES, WHOLE, 5)
    spoil(life.world)
    with pytest.raises(AssertionError, match=seen):
        settle(life.world)


BROKEN: dict[str, tuple[Any, str, object, str, dict[str, object], str]] = {
    "a report names no earlier one": (whereabouts, "predecessors", [], "up", {"later": True}, "an earlier run stands"),
    "an earlier selection is still sent": (
        cancelling,
        "supersede",
        None,
        "down",
        {"later": True},
        "an earlier run stands",
    ),
    "nothing is kept back": (cancelling, "keep_back", None, "down", {"patient": "P2"}, "is sent P1's object"),
    "nothing is taken back": (Extras, "_withdrawals", [], "up", {"study": "1.2.2"}, "an earlier run stands"),
}
"""What of the node does nothing, how the PACS is meanwhile, what a correction says, and what is seen."""


@pytest.mark.parametrize(("where", "name", "gives", "mood", "headers", "seen"), BROKEN.values(), ids=BROKEN)
def test_the_specification_sees_what_the_node_omits(
    life: Life, where: Any, name: str, gives: object, mood: str, headers: dict[str, object], seen: str
) -> None:
    life.put.append(patched(where, name, lambda *_, **__: gives))
    life.world.pacs["PACS1"].mood = mood
    life.a_series_arrives(SERIES, WHOLE, 5)
    life.a_series_is_corrected(SERIES, headers, 5)
    with pytest.raises(AssertionError, match=seen):
        settle(life.world)


def test_the_specification_sees_that_a_report_comes_after_its_successor(life: Life) -> None:
    life.world.pacs["PACS1"].mood = "down"
    life.a_series_arrives(SERIES, WHOLE, 5)
    life.a_series_is_corrected(SERIES, {"later": True}, 5)
    run(life.world, "UPDATE deliveries SET state = 'failed' WHERE id = 1")
    life.world.pacs["PACS1"].mood = "up"
    life.world.deliver("PACS1")
    run(life.world, "UPDATE deliveries SET state = 'waiting' WHERE id = 1")
    with pytest.raises(AssertionError, match="after the one that supersedes it"):
        settle(life.world)


def test_the_specification_sees_that_a_scan_is_left_without_a_result(life: Life) -> None:
    life.put.append(patched(choices, "judged_too_soon", lambda _: []))
    for series in (SERIES, "1.2.1.2"):
        life.a_series_arrives(series, WHOLE, 5)
    life.a_series_is_corrected(SERIES, {"study": "1.2.2", "patient": "P2"}, 5)
    with pytest.raises(AssertionError, match="no other gives its scan's result"):
        settle(life.world)
