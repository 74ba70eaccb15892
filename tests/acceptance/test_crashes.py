"""The short form of `make soak`: real processes killed at named steps and at random, a PACS in every mood.

Each test ends with everything acknowledged there and whole, one current report a study at the PACS, nothing waiting.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from crashing import Soak
from dying.dying_steps import RECEIVER, STEPS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("quiet"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the worker's process under /proc"),
]
ACCEPTING = list(itertools.takewhile(lambda name: STEPS[name].process == RECEIVER, STEPS))
WORKING = ["before slices are read", "after claim's commit", "after report is stored", "after outbox's commit"]
DELIVERING = ["before delivery", "after delivery", "after delivery's commit"]
COMMITTING = ["after request's commit", "before answer's commit", "after question's commit"]


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What the library says of refused connections is no news here."""
    caplog.set_level(logging.CRITICAL, "pynetdicom")


@pytest.fixture(scope="module")
def soak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Soak]:
    running = Soak(tmp_path_factory.mktemp("crashes"))
    running.node.start()
    yield running
    running.close()


def test_the_receiver_may_die_at_every_step_between_a_request_and_its_job(soak: Soak) -> None:
    soak.send_study()
    for step in ACCEPTING:
        if not soak.kill_at(step, timeout_s=15.0):  # started again, it may have completed the study before it was told
            soak.send_study()
            assert soak.kill_at(step), f"nothing came to the step: {step}"
    soak.drain()


def test_the_worker_may_die_between_claim_and_outbox(soak: Soak) -> None:
    for step in WORKING:
        soak.send_study()
        assert soak.kill_at(step), f"nothing came to the step: {step}"
    soak.drain()


def test_the_sender_may_die_before_and_after_the_pacs_has_it(soak: Soak) -> None:
    for step in DELIVERING:
        soak.send_study()
        assert soak.kill_at(step), f"nothing came to the step: {step}"
    soak.drain()


def test_whoever_asks_for_storage_commitment_or_is_asked_may_die(soak: Soak) -> None:
    for step in COMMITTING:
        soak.send_study()
        assert soak.kill_at(step), f"nothing came to the step: {step}"
    soak.drain()


def test_a_pacs_may_be_slow_busy_rejecting_dropping_or_down(soak: Soak) -> None:
    for mood in ("slow", "busy", "rejecting", "dropping", "down"):
        soak.pacs.feel(mood)
        before = soak.node.log.count("delivery_waits") + len(soak.pacs.stored)
        soak.send_study()
        soak.until(
            lambda now=before: soak.node.log.count("delivery_waits") + len(soak.pacs.stored) > now,
            f"a delivery to a PACS that is {mood} has been tried",
            60,
        )
    soak.drain()


def test_the_clock_may_be_put_back_while_a_series_arrives_and_the_whole_tree_be_killed(soak: Soak) -> None:
    soak.send_study()
    assert soak.kill_at("after commit", 5)
    soak.node.put_clock(-86400.0)
    soak.kill("tree")
    soak.drain()
    soak.node.put_clock(0.0)
    soak.drain()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs the right to mount a tmpfs")
def test_a_disk_that_is_full_when_the_report_is_made_costs_time_alone_even_over_a_restart(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    running = Soak(tmp_path / "soak", data=disk / "data")
    try:
        running.node.start()
        study = running.send_study()
        running.until(lambda: not study.missing, "all images are acknowledged", 60)
        with running.full_disk():
            running.until(lambda: "the disk of the " in running.node.log, "the disk is full", 60)
            running.kill("tree")
        running.drain()
    finally:
        running.close()
        subprocess.run(["umount", "-l", disk], check=False)
