"""`serve` keeps a worker going whatever happens to the database, or to the machine, when one has ended."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from made import Made, made_node

from dicom_node.errors import StoreFull, StoreUnavailable
from dicom_node.service import _WorkerProcess


class Impatient(threading.Event):
    """Nobody waits for it; it is set the third time that a worker has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None and timeout > 0.1:
            self.waits.append(timeout)
            if len(self.waits) == 3:
                self.set()
        return self.is_set()


@pytest.fixture
def node(tmp_path: Path) -> Made:
    return made_node(tmp_path)


@pytest.mark.parametrize("error", [StoreUnavailable("no database"), StoreFull("no room")])
def test_a_worker_is_started_again_though_its_leases_cannot_be_freed(
    node: Made, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def write() -> Any:
        raise error

    stopping = Impatient()
    monkeypatch.setattr(node.database, "write", write)
    monkeypatch.setattr(_WorkerProcess, "_run_once", lambda *_: -9)
    _WorkerProcess(node.config, Path("config.toml"), node.database, stopping).run()
    assert stopping.waits == [1.0, 2.0, 4.0]


def test_a_worker_that_cannot_be_started_is_tried_again(
    node: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    stopping = Impatient()
    monkeypatch.setattr(subprocess, "Popen", out_of_memory)
    _WorkerProcess(node.config, Path("config.toml"), node.database, stopping).run()
    assert len(stopping.waits) == 3
    assert "Cannot allocate memory" in caplog.text
