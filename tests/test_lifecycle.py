"""A short run of the specification in `lifecycle`, and that it sees what is wrong; `make life` runs thousands."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lifecycle import Life, live
from living.checks import settle
from living.images import first
from living.world import World

from dicom_node import tables


def test_whatever_happens_each_scan_ends_with_one_current_result() -> None:
    done = live(examples=60, steps=30, shrinks=False, derandomize=True)
    assert done["sequences"] >= 60
    assert min(done[what] for what in ("absent", "objects stored", "plain studies", "retried", "withdrawn")) > 0
    assert done["died between transactions"] > 0


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
def test_the_specification_sees_what_is_wrong(spoil: Callable[[World], object], seen: str) -> None:
    life = Life()
    try:
        for number in range(1, 8):
            life.world.arrive(first("1.2.1.1", number))
        life.the_node_goes_on(minutes=5)
        spoil(life.world)
        with pytest.raises(AssertionError, match=seen):
            settle(life.world)
    finally:
        life.fine = False
        life.teardown()
