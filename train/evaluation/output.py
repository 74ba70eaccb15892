"""The folder for the results: checked to be writable before anything is computed, and each file whole."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from dtvit.wholefile import write_whole


class UnusableOutput(Exception):
    """The folder for the results cannot be written to."""


def writable(folder: Path) -> None:
    """Make the folder and check that a file can be made in it. Raises UnusableOutput."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.NamedTemporaryFile(dir=folder).close()
    except OSError as exc:
        raise UnusableOutput(
            f"{folder} cannot be written to ({exc.strerror}); name another folder with --output"
        ) from exc


def put(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files in this order; the gallery of an earlier run is removed. Raises UnusableOutput."""
    try:
        for old in (folder / "gallery").glob("*.png"):
            old.unlink()
        for name, content in files.items():
            write_whole(folder / name, content)
    except OSError as exc:
        raise UnusableOutput(f"{folder}: the results could not be written ({exc.strerror}); make room there") from exc
