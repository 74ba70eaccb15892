"""The demo, as somebody sees it who has just cloned the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dicom_node.report import readback
from dtvit.findings import LOCATIONS, Outcome


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo-output"
    ran = subprocess.run(
        [sys.executable, "-m", "dicom_node", "demo", "--output", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "NOT FOR CLINICAL USE" in ran.stdout
    return folder


def test_each_patient_has_a_report_its_text_and_a_picture(output: Path) -> None:
    folders = sorted(path for path in output.iterdir() if path.is_dir())
    assert [path.name for path in folders] == ["1-no-hemorrhage", "2-deep", "3-lobar", "4-subtentorial"]
    for folder in folders:
        report = readback.parse(folder / "report.dcm")
        assert report.complete, report.partial_because
        assert report.conclusion[0].rstrip(".") in (folder / "report.txt").read_text()
        with Image.open(folder / "montage.png") as picture:
            assert picture.width == 1024


def test_the_shipped_checkpoint_tells_blood_from_none_and_where_it_is(output: Path) -> None:
    healthy = readback.parse(output / "1-no-hemorrhage" / "report.dcm")
    assert healthy.outcome is not Outcome.PRESENT
    assert healthy.location is None
    for number, location in enumerate(LOCATIONS, 2):
        report = readback.parse(output / f"{number}-{location}" / "report.dcm")
        assert (report.outcome, report.location) == (Outcome.PRESENT, location)
