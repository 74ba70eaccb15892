"""What the service does over and over goes on whatever becomes of it, and a hint has it done at once."""

from __future__ import annotations

import threading

import pytest

from dicom_node.errors import StoreFull
from dicom_node.serving import threads
from dicom_node.serving.threads import Hint, Threads


@pytest.mark.parametrize("error", [StoreFull("no room"), ValueError("Zwetschgenbaum")])
def test_a_fault_ends_no_loop_and_is_told(
    error: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "AFTER_A_FAULT_S", 0.001)
    stopping, acts = threading.Event(), []

    def act() -> None:
        acts.append(1)
        if len(acts) == 1:
            raise error
        stopping.set()

    begun = Threads(stopping)
    begun.every(0.001, "part", act)
    begun.join(10.0)
    assert len(acts) == 2
    assert "part=part" in caplog.text
    assert "Zwetschgenbaum" not in caplog.text


def test_a_hint_ends_a_long_wait_and_without_one_the_time_does() -> None:
    stopping, hint, acted = threading.Event(), Hint(), threading.Event()

    def act() -> None:
        acted.set()
        stopping.set()

    begun = Threads(stopping)
    begun.every(60.0, "part", act, hint=hint)
    while not acted.wait(0.01):
        hint.give()  # one that is given before the other waits is lost
    begun.join(10.0)
    assert hint.wait(0.001) is False
