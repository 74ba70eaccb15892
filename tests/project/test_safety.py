"""What docs/safety.md says holds: each test that it names is there, and what it says of the demo."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest

from dicom_node import demo, scanner
from dtvit import phantom

TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS.parent / "docs" / "safety.md").read_text(encoding="utf-8")


@functools.cache
def names_in(name: str) -> set[str]:
    files = TESTS.glob(f"*/test_{name}.py")
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_each_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`(\w+)::(\w+)`", PAGE)
    assert len(named) > 60
    assert [f"{file}::{name}" for file, name in named[1:] if f"test_{name}" not in names_in(file)] == []


def test_each_hazard_has_a_test_or_is_said_to_have_none_and_then_something_remains() -> None:
    rows = [row.strip("|").split(" | ") for row in PAGE.splitlines() if row.startswith("| ") and " --- " not in row]
    hazards = [[cell.strip() for cell in row] for row in rows if row[0].strip() != "situation"]
    assert len(hazards) > 40
    assert [row[0] for row in hazards if len(row) != 4 or not ("::" in row[2] or (row[2] == "—" and row[3]))] == []


def test_the_demo_speaks_to_this_machine_alone_and_its_patients_are_named_synthetic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tomllib.loads(demo.CONFIG.format(node_aet="A", node_port=1, scanner_aet="B", pacs_port=2, pacs_aet="C"))
    assert {config["node"]["bind"], *(peer["host"] for peer in config["peers"])} == {"127.0.0.1"}
    made: list[scanner.SyntheticPatient] = []
    monkeypatch.setattr(phantom, "render", lambda spec: spec)  # nobody looks at the pictures here
    monkeypatch.setattr(scanner, "series", lambda _, patient, **__: made.append(patient) or [])
    for number, truth in enumerate(demo.TRUTHS):
        demo._make(truth, number, 7)
    assert [one.name.partition("^")[0] for one in made] == ["SYNTHETIC"] * 4
    assert all(one.patient_id.startswith("SYNTHETIC-") for one in made)
