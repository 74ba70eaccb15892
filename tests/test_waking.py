"""What the worker has done is sent at once: its sign wakes the senders, which also look by themselves."""

from __future__ import annotations

import subprocess
import threading
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from dicom_node.config import Config
from dicom_node.service import Hint, Service, _WorkerProcess
from dicom_node.store.database import Database
from dicom_node.store.results import Version


def test_a_worker_says_when_it_has_done_something(monkeypatch: Any) -> None:
    done: list[int] = []
    nothing = cast(Database, None)
    worker = _WorkerProcess(Config(), Path("config.toml"), nothing, threading.Event(), lambda: done.append(1))
    worker._listen(cast("subprocess.Popen[bytes]", SimpleNamespace(stdout=BytesIO(b"..!...!."))))
    assert len(done) == 2


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
