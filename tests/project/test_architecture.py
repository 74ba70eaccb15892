"""docs/architecture.md tells the floors that import-linter holds, and so every module that there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def held(package: str) -> list[set[str]]:
    """The floors of a package from top to bottom, by pyproject.toml; `exhaustive` has import-linter miss no module."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (found,) = (each for each in contracts if each.get("containers") == [package])
    assert found["exhaustive"]
    floors = [set(re.findall(r"\w+", layer)) - {"__main__"} for layer in found["layers"]]
    return [floor for floor in floors if floor]


def told(package: str) -> list[set[str]]:
    """The same by the page's table of the package: names in its first column, a floor a row."""
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    _, _, table = page.partition(f"| `{package}` |")
    rows = table.partition("\n\n")[0].splitlines()[2:]
    return [set(re.findall(r"`(\w+)`", row.split("|")[1])) for row in rows]


@pytest.mark.parametrize("package", ["dicom_node", "train", "dtvit"])
def test_the_page_tells_the_floors_that_are_held(package: str) -> None:
    assert told(package) == held(package)
