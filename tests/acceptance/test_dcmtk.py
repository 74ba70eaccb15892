"""DCMTK as the scanner and as the PACS; dciodvfy and dsrdump as the judges of the report."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from running import NODE, RunningNode

from dicom_node.network.stand_in import free_port
from dicom_node.report import readback
from dicom_node.scanner import write

TOOLS = ("storescu", "storescp", "echoscu", "dsrdump")
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"DCMTK is not installed: {', '.join(TOOLS)}"),
]
ENVIRONMENT = os.environ | {"TCP_NODELAY": "1"}


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """DCMTK's Storage SCP, taking every transfer syntax; its port and the folder it fills."""
    folder = tmp_path / "storescp"
    folder.mkdir()
    port = free_port()
    command = ["storescp", "+xa", "--output-directory", str(folder), "--aetitle", "PACS", str(port)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while subprocess.run(["echoscu", "127.0.0.1", str(port)], capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, "storescp does not answer"
        assert process.poll() is None, "storescp ended"
    yield port, folder
    process.kill()
    process.wait()


def storescu(node: RunningNode, files: list[Path]) -> None:
    command = ["storescu", "--aetitle", "STORESCU", "--call", NODE, "--propose-lossless", "127.0.0.1", str(node.port)]
    sent = subprocess.run([*command, *map(str, files)], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert sent.returncode == 0, sent.stderr


def received(node: RunningNode, folder: Path, count: int = 1) -> list[Path]:
    node.until(lambda: len(list(folder.iterdir())) >= count, "storescp has the report")
    node.until(lambda: "state=delivered" in node.log, "storescp has answered")
    return sorted(folder.iterdir())


def assert_is_correct(report: Path) -> None:
    verdict = subprocess.run(
        [Path(sys.executable).with_name("dciodvfy"), str(report)], capture_output=True, text=True, check=False
    )
    said = verdict.stdout + verdict.stderr
    assert "Comprehensive3DSR" in said, said
    assert [line for line in said.splitlines() if line.startswith("Error")] == []
    dump = subprocess.run(["dsrdump", str(report)], capture_output=True, text=True, check=False)
    assert dump.returncode == 0, dump.stderr
    assert "Comprehensive 3D SR Document" in dump.stdout
    assert "NOT FOR CLINICAL USE" in dump.stdout


def test_a_phantom_series_by_storescu_comes_back_as_a_correct_report(
    make_node: Callable[..., RunningNode], storescp: tuple[int, Path], series: list[Dataset], tmp_path: Path
):
    port, folder = storescp
    node = make_node(peer_port=port)
    node.start()
    echo = subprocess.run(["echoscu", "-aec", NODE, "-aet", "STORESCU", "127.0.0.1", str(node.port)], check=False)
    assert echo.returncode == 0
    storescu(node, write(series, tmp_path / "ct"))
    (report,) = received(node, folder)
    assert_is_correct(report)
    assert readback.parse(report).images_received == len(series)
    assert node.command("echo", "PACS1").returncode == 0


def test_the_human_head_ct_comes_back_as_a_correct_report(
    make_node: Callable[..., RunningNode], storescp: tuple[int, Path], shared_data: Path
):
    port, folder = storescp
    node = make_node(peer_port=port)
    node.start()
    storescu(node, sorted((shared_data / "head-ct" / "ge_hispeed_human_28").glob("*.dcm")))
    (report,) = received(node, folder)
    assert_is_correct(report)
    parsed = readback.parse(report)
    assert parsed.images_received == 28
    assert parsed.images_evaluated >= 22
    assert parsed.complete, parsed.partial_because
