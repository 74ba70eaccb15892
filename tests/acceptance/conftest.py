"""A node, a stand-in PACS, and a series to send; each test gets its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from running import NODE, SENDER, RunningNode
from untrained import untrained_checkpoint

from dicom_node import scanner
from dicom_node.network.stand_in import StandInPacs, free_port
from dtvit import phantom
from dtvit.preprocess import preprocessing


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[StandInPacs]:
    stand_in = StandInPacs(tmp_path / "pacs")
    stand_in.start()
    yield stand_in
    stand_in.stop()


@pytest.fixture
def make_node(tmp_path: Path, pacs: StandInPacs) -> Iterator[Callable[..., RunningNode]]:
    """Configures a node, not started yet; `more` is TOML that comes after the usual keys of [node]."""
    made: list[RunningNode] = []

    def make(
        *,
        data: Path | None = None,
        peer_port: int | None = None,
        silence_s: float = 20.0,
        objects: tuple[str, ...] = ("report",),
    ) -> RunningNode:
        folder = tmp_path / f"node{len(made) or ''}"
        folder.mkdir()
        versions = (preprocessing("paper"), preprocessing("robust"))
        untrained_checkpoint(folder / "model.safetensors", preprocessing=versions)
        port = free_port()
        (folder / "config.toml").write_text(
            f"""
            [node]
            ae_title = "{NODE}"
            bind = "127.0.0.1"
            port = {port}
            allowed_senders = ["{SENDER}", "STORESCU"]
            data_folder = "{data or folder / "data"}"
            min_free_mib = 0
            [[peers]]
            name = "PACS1"
            host = "127.0.0.1"
            port = {peer_port or pacs.port}
            ae_title = "PACS"
            timeout_s = 5
            objects = {list(objects)}
            [completion]
            settle_s = 1
            silence_s = {silence_s}
            reopen_wait_s = 0
            [model]
            checkpoint = "model.safetensors"
            readers = 0
            [results]
            retry_first_s = 0.5
            lease_s = 20
            """
        )
        node = RunningNode(folder, port)
        made.append(node)
        return node

    yield make
    for node in made:
        if node.process is not None:
            node.process.terminate()
            try:
                node.process.wait(40)
            except subprocess.TimeoutExpired:
                node.process.kill()


@pytest.fixture(scope="session")
def head() -> phantom.Phantom:
    """A head from neck to air above the vertex: a series that covers the brain."""
    return phantom.render(phantom.draw(5, "deep", matrix=256, thickness_mm=5.0, below_mm=85.0, above_mm=12.0))


@pytest.fixture
def series(head: phantom.Phantom) -> list[Dataset]:
    patient = scanner.SyntheticPatient("SYNTHETIC^ACCEPTANCE", "ACC-1")
    return scanner.series(head, patient, when=datetime.now(UTC))
