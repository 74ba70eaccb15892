"""What docs/running.md says of commands and unit holds."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dicom_node.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "running.md").read_text(encoding="utf-8")


def test_every_command_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"dicom-node ([a-z]+(?:-[a-z]+)?)(?= |`|\n)", PAGE)) - {"is", "useradd"}
    assert {"status", "cancel", "forget", "check-config"} <= named
    assert named <= set(main.commands)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (REPOSITORY / "docs" / "dicom-node.service").read_text(encoding="utf-8")
    path = tmp_path / "dicom-node.service"
    path.write_text(unit.replace("/opt/dicom-node/bin/dicom-node", "/bin/true"), encoding="utf-8")
    ran = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    assert (ran.returncode, "dicom-node.service" in ran.stderr) == (0, False), ran.stderr
