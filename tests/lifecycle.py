"""The life of series, jobs, results and deliveries as a specification: hypothesis makes up what happens, and plain
Python says what must hold.

    python tests/lifecycle.py --examples 20000 [--seed 1] [--steps 40]

A `World` (living/world.py) is a node without network and processes. Around it are scanners, PACS that lose, refuse and
hang up, and persons who withdraw and retry. What was acknowledged and what of it counts is in its `Truth`
(living/truth.py), which shares no code with the node. After each step `check` (living/checks.py) looks at what must
always hold; at the end `settle` lets everything come right and looks at what must hold then.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from living.checks import check, settle
from living.images import HOME, PATIENTS, SLICES, STUDIES, Image, first, look_at
from living.world import DAY_S, KEEP_DAYS, MOODS, VICTIM, WITH_A_FILE, Meanwhile, World

from dicom_node.network import commitment, scu
from dicom_node.store import names, schema, spool
from dicom_node.store.database import Database
from dicom_node.working import reading
from train.options import positive, seed

a_series = st.sampled_from(sorted(HOME))
numbers = st.integers(1, SLICES)
home_images = st.builds(first, a_series, numbers)
images = st.one_of(
    home_images,
    st.builds(
        lambda one, changes: replace(one, **changes),
        home_images,
        st.one_of(
            st.fixed_dictionaries({"patient": st.sampled_from(PATIENTS)}),
            st.fixed_dictionaries({"study": st.sampled_from(STUDIES), "patient": st.sampled_from(PATIENTS)}),
            st.fixed_dictionaries({"series": a_series, "patient": st.sampled_from(PATIENTS)}),
            st.fixed_dictionaries({"contrast": st.booleans(), "later": st.booleans()}),
            st.fixed_dictionaries({"pixels": st.integers(0, 1), "patient": st.sampled_from(PATIENTS)}),
            st.fixed_dictionaries({"pixels": st.integers(0, 1), "series": a_series}),
        ),
    ),
)
WHOLE = frozenset(range(1, SLICES + 1))
RARE = (
    *("killed", "month", "forget P1"),
    *("copy", "put back", "put back and send", "clock -86400", "clock -7200", "clock 30", "clock 7200"),
    *("PACS2 comes", "PACS2 comes", "PACS2 goes", "cancel PACS2"),
)
rests = st.sampled_from((0, 5, 70))
"""Minutes for which the node then goes on."""
beginnings = st.lists(st.tuples(a_series, rests), max_size=len(HOME), unique_by=lambda one: one[0])
places = {"study": st.sampled_from(STUDIES), "patient": st.sampled_from(PATIENTS)}
corrections = st.one_of(
    st.fixed_dictionaries(places),
    st.sampled_from(({"contrast": True}, {"later": True}, {"contrast": False, "later": False})),
    st.fixed_dictionaries({"series": a_series, **places}),
)
deeds = ("arrives", "tick", "other worker", "sends", "asks", "withdraw", "retry", "clock back", "time", "forget")
meanwhiles = st.one_of(
    st.none(),
    st.builds(
        Meanwhile,
        st.one_of(st.integers(1, 6), st.integers(1, 25)),
        st.sampled_from((VICTIM, VICTIM, WITH_A_FILE, *deeds)),
        images,
        st.integers(0, 5),
    ),
)


class Life(RuleBasedStateMachine):
    """What may happen to a node, in any order."""

    tally: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        base = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(dir=base, prefix="life-"))
        self.put = [
            patched(reading, "look_at", look_at),
            *(patched(module, "SHARDS", 2) for module in (names, spool)),  # few folders are soon made
        ]
        self.world = world = World(self.folder / "node", template())
        self.put += [
            patched(scu, "send", world.send),
            patched(commitment, "ask", world.ask),
            patched(commitment, "report", world.report_commitment),
        ]
        self.fine = True

    def teardown(self) -> None:
        try:
            if self.fine:
                settle(self.world)
        finally:
            for undo in self.put:
                undo()
            self.world.database.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            Life.tally.update(self.world.done)
            Life.tally["sequences"] += 1

    @initialize(takes_3d=st.booleans(), mood=st.sampled_from(("up", "up", "down")), begun=beginnings)
    def some_series_have_results(self, takes_3d: bool, mood: str, begun: list[tuple[str, int]]) -> None:
        """Or else most sequences would be over before there was anything to supersede or take back."""
        self.world.pacs["PACS1"].takes_3d = takes_3d
        self.world.pacs["PACS1"].mood = mood
        for series, rests in begun:
            self.a_series_arrives(series, WHOLE, rests)

    # scanners

    @rule(series=a_series, slices=st.one_of(st.just(WHOLE), st.just(WHOLE), st.sets(numbers, min_size=3)), rests=rests)
    def a_series_arrives(self, series: str, slices: Set[int], rests: int) -> None:
        for number in sorted(slices):
            self.world.arrive(first(series, number))
        self.goes_on(rests)

    @rule(image=images, meanwhile=meanwhiles)
    def an_image_arrives(self, image: Image, meanwhile: Meanwhile | None) -> None:
        with self.world.interrupted(meanwhile):
            self.world.arrive(image)

    @rule(series=a_series, headers=corrections, rests=rests)
    def a_series_is_corrected(self, series: str, headers: dict[str, Any], rests: int) -> None:
        """All that counts of it comes again under other headers; perhaps as part of another series."""
        for one in sorted(self.world.truth.of_series(series), key=lambda i: (i.uid, i.pixels)):
            self.world.arrive(replace(one, **headers))
        self.goes_on(rests)

    @rule(series=a_series, meanwhile=meanwhiles)
    def a_scanner_asks_for_commitment(self, series: str, meanwhile: Meanwhile | None) -> None:
        self.world.promise(series)
        with self.world.interrupted(meanwhile):
            self.world.answer_commitment()

    # time

    @rule(seconds=st.sampled_from((1.0, 3.0, 31.0, 61.0, 310.0, 4000.0)))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    # the node

    @rule(meanwhile=meanwhiles)
    def arrivals_are_judged(self, meanwhile: Meanwhile | None) -> None:
        with self.world.interrupted(meanwhile):
            self.world.tick()

    @rule(meanwhile=meanwhiles, noticed=st.booleans())
    def the_worker_does_a_step(self, meanwhile: Meanwhile | None, noticed: bool) -> None:
        with self.world.interrupted(meanwhile):
            self.world.work(noticed=noticed)

    @rule(meanwhile=meanwhiles)
    def all_is_judged_and_done(self, meanwhile: Meanwhile | None) -> None:
        self.world.pass_time(31.0)
        self.world.tick()
        with self.world.interrupted(meanwhile):
            while self.world.work():
                pass

    @rule(minutes=st.sampled_from((1, 5, 70)))
    def the_node_goes_on(self, minutes: int) -> None:
        self.goes_on(minutes)

    def goes_on(self, minutes: int) -> None:
        """All threads of the node, twice."""
        for _ in range(2 if minutes else 0):
            self.world.pass_time(60.0 * minutes / 2)
            self.world.go_on()

    @rule(name=st.sampled_from(("PACS1", "PACS1", "PACS2")), meanwhile=meanwhiles)
    def the_outbox_is_sent(self, name: str, meanwhile: Meanwhile | None) -> None:
        with self.world.interrupted(meanwhile):
            self.world.deliver(name)

    @rule(meanwhile=meanwhiles)
    def commitment_is_asked_for(self, meanwhile: Meanwhile | None) -> None:
        with self.world.interrupted(meanwhile):
            self.world.ask_for_commitment()

    # PACS

    @rule(name=st.sampled_from(("PACS1", "PACS2")), mood=st.sampled_from(MOODS))
    def a_pacs_changes(self, name: str, mood: str) -> None:
        self.world.pacs[name].mood = mood

    # persons

    @rule(series=a_series, meanwhile=meanwhiles)
    def a_result_is_withdrawn(self, series: str, meanwhile: Meanwhile | None) -> None:
        with self.world.interrupted(meanwhile):
            self.world.withdraw(series)

    @rule(series=a_series, again=st.booleans(), keep=st.sampled_from((None, "first", "last")))
    def a_series_is_retried(self, series: str, again: bool, keep: str | None) -> None:
        self.world.retry(series, again=again, keep=keep)

    @rule(what=st.sampled_from(RARE))
    def something_rare(self, what: str) -> None:
        match what.split():
            case "forget", patient:
                self.world.forget(patient)
            case ("copy",):
                self.world.back_up()
            case "put", *how:
                self.world.restore(sends_spool="send" in how)
            case ("month",):
                self.world.pass_time((KEEP_DAYS + 1.0) * DAY_S)
                self.world.tidy()
            case ("killed",):
                self.world.restart()
            case "PACS2", *how:
                self.world.change_destinations(["PACS1", "PACS2"] if "comes" in how else ["PACS1"], cancels=False)
            case "cancel", _:
                self.world.change_destinations(["PACS1"], cancels=True)
            case "clock", seconds:
                self.world.set_clock(float(seconds))
            case _:
                raise AssertionError(what)

    @rule(series=a_series, rests=rests)
    def the_model_is_changed(self, series: str, rests: int) -> None:
        """And a person has the new one say what it makes of a series."""
        self.world.model = "b" * 64 if self.world.model[0] == "a" else "a" * 64
        self.world.restart()
        if rests:
            self.world.retry(series, again=True, keep=None)
        self.goes_on(rests)

    @invariant()
    def what_was_acknowledged_is_kept(self) -> None:
        Life.tally["steps"] += 1
        self.fine = False
        check(self.world)
        self.fine = True


def patched(where: Any, name: str, with_: Any) -> Callable[[], None]:
    """Put a stand-in in place; returns what puts the original back."""
    original = getattr(where, name)
    setattr(where, name, with_)
    return lambda: setattr(where, name, original)


@lru_cache(maxsize=1)
def template() -> Path:
    """An empty database of a node, made once."""
    folder = Path(tempfile.mkdtemp(prefix="life-template-"))
    database = Database(f"sqlite:///{folder / 'node.sqlite'}")
    schema.upgrade(database)
    database.device_uid()
    database.close()
    return folder / "node.sqlite"


def live(*, examples: int, steps: int, shrinks: bool = True, **given: Any) -> Counter[str]:
    """Run so many sequences of at most so many steps; returns what was done. Raises what hypothesis found, with the
    steps that lead there; `shrinks`: with as few as it can in five minutes.
    """
    Life.tally = Counter()
    quick = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        database=None,
        phases=(Phase.generate, Phase.shrink) if shrinks else (Phase.generate,),
        **given,
    )
    run_state_machine_as_test(Life, settings=quick)
    return Life.tally


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=positive, default=2000)
    parser.add_argument("--steps", type=positive, default=40)
    parser.add_argument("--seed", type=seed, default=1)
    given = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    seeded(given.seed)(Life)
    print(dict(live(examples=given.examples, steps=given.steps)))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
