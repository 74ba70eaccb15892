"""Storage commitment (PS3.4 annex J) between this node and Orthanc, both ways."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from committing import Us, references, stored
from made import ct, made_node, part10, peer

from dicom_node.delivering.committing import Asker, Reports
from dicom_node.network.stand_in import free_port
from dicom_node.store.tables import deliveries, objects


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[tuple[int, Callable[..., Any], int]]:
    """Its DICOM port, a call of its REST API, and the port at which it looks for us."""
    if shutil.which("Orthanc") is None:
        pytest.skip("Orthanc is not installed")
    dicom, http, ours = free_port(), free_port(), free_port()
    configuration = {
        "Name": "test",
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "Plugins": [],
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {"node": {"AET": "NODE", "Host": "127.0.0.1", "Port": ours, "AllowStorageCommitment": True}},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration))
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(tmp_path / "orthanc.json")], stdout=log, stderr=log)

    def call(path: str, content: bytes | None = None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{http}{path}", data=content)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())

    def is_up() -> bool:
        try:
            return bool(call("/system"))
        except OSError:
            return False

    try:
        _until(is_up, "Orthanc answers", 60.0)
        yield dicom, call, ours
    finally:
        process.kill()
        process.wait()


def _until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.1)):
        if condition():
            return
        pause.wait(0.1)
    raise AssertionError(f"not in {timeout_s:.0f} s: {what}")


@pytest.mark.peer
def test_orthanc_commits_to_what_it_has_and_not_to_what_it_lost(
    tmp_path: Path, orthanc: tuple[int, Callable[..., Any], int], committing_receiver: Callable[..., int]
) -> None:
    dicom, call, ours = orthanc
    node = made_node(tmp_path, peers=[peer(dicom, ae_title="ORTHANC")])
    config = node.config.model_copy(update={"node": node.config.node.model_copy(update={"ae_title": "NODE"})})
    kept, _ = stored(node, 2)
    image = ct(1, SOPInstanceUID=kept)
    file = tmp_path / "kept.dcm"

    file.write_bytes(part10(image))
    call("/instances", file.read_bytes())
    with node.database.write() as connection:
        connection.execute(objects.update().values(sop_class_uid=str(image.SOPClassUID)))
    reports = Reports(node.database, config, clock=node.clock)
    committing_receiver(reports.take, port=ours)
    Asker(node.database, config.peers[0], config, reports, clock=node.clock).tick()
    _until(lambda: {row.commitment for row in node.rows(deliveries)} == {"committed", None}, "Orthanc has answered")
    assert [(row.state, row.commitment) for row in node.rows(deliveries)] == [
        ("delivered", "committed"),
        ("waiting", None),
    ]


@pytest.mark.peer
def test_orthanc_asks_and_understands_our_answer(
    tmp_path: Path, orthanc: tuple[int, Callable[..., Any], int], committing_receiver: Callable[..., int]
) -> None:
    dicom, call, ours = orthanc
    node = made_node(tmp_path, peers=[peer(dicom, ae_title="ORTHANC")])
    config = node.config.model_copy(update={"node": node.config.node.model_copy(update={"ae_title": "NODE"})})
    node.accept(ct(1))
    us = Us(node, config)
    committing_receiver(lambda _: None, us.asked, port=ours)
    pairs = [list(reference) for reference in references(ct(1), ct(2))]
    asked = json.dumps({"DicomInstances": pairs, "Timeout": 10}).encode()
    transaction = call("/modalities/node/storage-commitment", asked)["ID"]
    assert us.tick() == 1

    _until(lambda: call(f"/storage-commitment/{transaction}")["Status"] != "Pending", "Orthanc has our answer")
    said = call(f"/storage-commitment/{transaction}")
    assert said["Status"] == "Failure"
    assert [one["SOPInstanceUID"] for one in said["Success"]] == [ct(1).SOPInstanceUID]
    assert [one["SOPInstanceUID"] for one in said["Failures"]] == [ct(2).SOPInstanceUID]
