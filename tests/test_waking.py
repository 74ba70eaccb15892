"""What the worker has done is sent at once: its sign wakes the senders, which also look by themselves."""

from __future__ import annotations

import threading
from pathlib import Path

from dicom_node.config import Config
from dicom_node.service import Hint, Service
from dicom_node.store.results import Version


def test_a_hint_ends_a_long_wait_and_without_one_the_time_does() -> None:
    service = Service(Config(), Path("config.toml"), Version("f" * 64, "x"))
    hint, acted = Hint(), threading.Event()

    def act() -> None:
        acted.set()
        service._stopping.set()

    waiting = threading.Thread(target=service._every(60.0, act, hint=hint))
    waiting.start()
    while not acted.wait(0.01):
        hint.give()  # one that is given before the other waits is lost
    waiting.join(10.0)
    assert not waiting.is_alive()
    assert hint.wait(0.001) is False
