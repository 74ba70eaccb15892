"""What the node makes of a head, without names, numbers and times, so that two tellings of it can be compared.

    python tests/listening.py --examples 2000 --seed 1

tells a head in so many ways (`ways`), and stops at one of which the node says something else. Some three a second.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from hypothesis import HealthCheck, given, seed, settings
from made import SERIES, FakeClassifier, Made, Predictions, made_node, peer
from pydicom.dataset import Dataset
from retelling import told
from ways import Scan, Telling, head, tellings

from dicom_node.config import Eligibility
from dicom_node.headers import eligibility, header
from dicom_node.received import Received
from dicom_node.store import overview, results
from dicom_node.store.tables import jobs, objects
from dtvit import preprocess

RULES = Eligibility()
QUICK = Path("/dev/shm")


class Looking(FakeClassifier):
    """Says something of every pixel and its place, so that slices are present, absent, and in between."""

    weights = np.random.default_rng(8).random((224, 224)) / (224 * 224 * 255)

    def predict(self, inputs: npt.NDArray[np.uint8]) -> Predictions:
        presence = np.clip(((inputs * self.weights).sum((1, 2)) - 0.08) * 20, 0.0, 1.0)
        return Predictions(presence, np.stack([presence, 1 - presence, np.full(len(presence), 0.2)], 1) / 1.2)


@dataclass
class Account:
    """What the node makes of a series, without names, numbers and times."""

    state: str
    reason: str
    findings: dict[str, Any] = field(default_factory=dict)
    slices: list[dict[str, Any]] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)
    report: list[str] = field(default_factory=list)


def heard(way: Telling, scan: Scan | None = None) -> Account:
    with tempfile.TemporaryDirectory(dir=QUICK if QUICK.is_dir() else None) as folder:
        return account(Path(folder), told(scan or head(), way), early=way.early)


def account(folder: Path, messages: Sequence[Received], *, early: bool = False) -> Account:
    """Of the series SERIES, as a node has it that was sent these."""
    node = made_node(folder, peers=[peer(104)])
    try:
        worker = node.worker(Looking())
        for number, message in enumerate(messages):
            assert node.acceptor.accept(message) == 0
            if early and number % 9 == 4:
                worker.step()
        node.tick_after(31)
        for _ in range(100):
            if not worker.step():
                break
            node.clock.advance(1.0)
        node.arrivals.tick()
        return _account(node)
    finally:
        node.database.close()


def refusal(messages: Sequence[Received]) -> str | None:
    """Why the series SERIES is not looked at, by the headers of its objects; None if it is."""
    members = {}
    for message in messages:
        read = header.read(
            message.data_set,
            transfer_syntax_uid=message.transfer_syntax_uid,
            sop_class_uid=message.sop_class_uid,
            sop_instance_uid=message.sop_instance_uid,
        )
        if read.series_uid == SERIES:
            ruled_out = eligibility.ruled_out(read.sop_class_uid, read.facts, RULES)
            members[read.sop_instance_uid] = eligibility.ByHeader(read.facts, ruled_out)
    return eligibility.judge(list(members.values()), RULES)


def _account(node: Made) -> Account:
    with node.database.read() as connection:
        (line,) = (
            one
            for one in overview.lines(connection, now=node.clock(), limit=100)
            if overview.history(connection, one.id)["series"]["series_uid"] == SERIES
        )
        version = results.Version("f" * 64, preprocess.preprocessing("robust"))
        kept = results.of_series(connection, line.id, version)
    done = [job for job in node.rows(jobs) if job.series_id == line.id]
    if not done or done[0].findings is None:
        return Account(line.state, _nameless(line.reason or ""))
    findings = dict(done[-1].findings)
    slices = findings.pop("slices")
    base = min((one["position_mm"] for one in slices if one["position_mm"] is not None), default=0.0)
    for one in slices:
        for name in ("sop_class_uid", "sop_instance_uid", "instance_number", "frame"):
            one.pop(name)
        if one["position_mm"] is not None:
            one["position_mm"] = round(one["position_mm"] - base, 2)
    for name in ("reasons", "limits"):
        findings[name] = [_nameless(text) for text in findings[name]]
    findings["coverage"]["gaps"] = [_nameless(text) for text in findings["coverage"]["gaps"]]
    findings["coverage"]["extent_mm"] = round(findings["coverage"]["extent_mm"], 2)
    seen = [
        (r.content, r.parts, r.presence, r.location, r.left_out, r.thickness_mm, r.doubts)
        for r in sorted(kept, key=lambda r: (r.position_mm is None, r.position_mm or 0.0))
    ]
    (report,) = [row for row in node.rows(objects) if row.kind == "report"]
    return Account(
        line.state,
        _nameless(line.reason or ""),
        findings,
        slices,
        seen,
        list(_said(pydicom.dcmread(BytesIO(node.spool.read(report.file))))),
    )


def _nameless(text: str) -> str:
    """Without what images are called and where the origin is."""
    text = re.sub(
        r" \(images? [\d/, -]+\)|images [-\d/]+ and [-\d/]+, at | \(between images [-\d/]+ and [-\d/]+\)", "", text
    )
    text = re.sub(r", seen in .*|not evaluated: .*", "", text)
    return re.sub(r"-?\d+\.\d (and -?\d+\.\d )?mm", "# mm", text)


def _said(item: Dataset, depth: int = 0) -> list[str]:
    """Every content item of a report, in its order."""
    name = item.ConceptNameCodeSequence[0].CodeMeaning if item.get("ConceptNameCodeSequence") else ""
    kind = item.get("ValueType", "")
    value = {
        "TEXT": lambda: "" if name == "Tracking Identifier" else _nameless(str(item.TextValue)),
        "CODE": lambda: str(item.ConceptCodeSequence[0].CodeMeaning),
        "NUM": lambda: str(item.MeasuredValueSequence[0].NumericValue) if item.MeasuredValueSequence else "",
    }.get(kind, lambda: "")()
    said = [f"{'  ' * depth}{kind} {name} {value}"]
    for each in item.get("ContentSequence", ()):
        within = _said(each, depth + 1)
        # which rule ended the wait depends on when they came
        if not any("Series taken as complete" in line for line in within):
            said += within
    return said


def differences(one: Account, other: Account) -> list[str]:
    """Where two accounts differ, in words."""
    plain = [(name, getattr(one, name), getattr(other, name)) for name in ("state", "reason", "findings")]
    found = [f"{name}: {ours} and {theirs}" for name, ours, theirs in plain if ours != theirs]
    for name in ("slices", "kept", "report"):
        ours, theirs = getattr(one, name), getattr(other, name)
        if len(ours) != len(theirs):
            found.append(f"{name}: {len(ours)} and {len(theirs)}")
        found += [f"{name} {i}: {a} and {b}" for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b][:3]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    compared = itertools.count()

    @seed(chosen.seed)
    @settings(max_examples=chosen.examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(tellings())
    def compare(way: Telling) -> None:
        next(compared)
        if wrong := differences(expected, heard(way)):
            raise AssertionError("\n".join([*wrong, str(way)]))

    expected = heard(Telling())
    compare()
    sys.stdout.write(f"{next(compared)} ways compared\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
