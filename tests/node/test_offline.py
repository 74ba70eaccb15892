"""`classify`: the node's own pipeline over files, without a network."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner
from made import FakeClassifier, ct, grey_series, head_series, part10
from pydicom.dataset import Dataset
from untrained import untrained_checkpoint

from dicom_node import offline
from dicom_node.cli import main
from dicom_node.config import Config
from dicom_node.report import readback
from dtvit.preprocess import preprocessing


@pytest.fixture
def write(tmp_path: Path) -> Callable[[list[Dataset]], list[Path]]:
    def files(datasets: list[Dataset]) -> list[Path]:
        paths = []
        for number, ds in enumerate(datasets):
            paths.append(tmp_path / f"{ds.SeriesInstanceUID}-{number}.dcm")
            paths[-1].write_bytes(part10(ds))
        return paths

    return files


@pytest.fixture(autouse=True)
def classifier(monkeypatch: pytest.MonkeyPatch) -> FakeClassifier:
    made = FakeClassifier()
    monkeypatch.setattr(offline, "load_classifier", lambda _: made)
    return made


def test_a_series_of_files_becomes_findings_and_a_report(write: Callable[..., list[Path]]) -> None:
    (got,) = offline.classify(write(head_series()))
    assert (got.state, got.series_uid) == ("delivered", str(head_series()[0].SeriesInstanceUID))
    assert got.findings is not None
    assert got.findings["outcome"] == "present"
    assert got.report is not None
    assert readback.parse(pydicom.dcmread(BytesIO(got.report))).outcome == "present"
    assert got.to_json()["state"] == "delivered"


@pytest.mark.parametrize(("trained_for", "used"), [("paper", "paper"), ("robust", "robust"), (None, "robust")])
def test_the_holder_is_removed_as_the_checkpoint_learned_it(
    write: Callable[..., list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained_for: str | None,
    used: str,
) -> None:
    """There is no configuration to say it: what the papers' recipes make was trained without the robust way."""
    configs: list[Config] = []
    monkeypatch.setattr(offline, "load_classifier", lambda config: configs.append(config) or FakeClassifier())
    checkpoint = None
    if trained_for is not None:
        checkpoint = untrained_checkpoint(tmp_path / "own.safetensors", preprocessing=(preprocessing(trained_for),))
    offline.classify(write(head_series()), checkpoint=checkpoint)
    assert [config.model.brace_removal for config in configs] == [used]


def test_its_uids_are_new_each_time(write: Callable[..., list[Path]]) -> None:
    paths = write(head_series())
    made = {
        str(pydicom.dcmread(BytesIO(r.report or b"")).SOPInstanceUID) for _ in "12" for r in offline.classify(paths)
    }
    assert len(made) == 2


def test_a_series_passed_over_for_one_that_is_no_head_is_classified_after_all(write: Callable[..., list[Path]]) -> None:
    paths = write(
        [*grey_series(10, series="1.2.3.1", PatientID="SYN-0001"), *head_series(series="1.2.3.2", SliceThickness="2")]
    )
    first, second = offline.classify(paths)
    assert (first.state, second.state) == ("refused", "delivered")
    assert "not a head" in (first.reason or "")


def test_every_series_is_accounted_for(write: Callable[..., list[Path]]) -> None:
    paths = write([*grey_series(3, series="1.2.3.1", study="1.2.8"), *head_series(series="1.2.3.2", study="1.2.9")])
    assert [r.state for r in offline.classify(paths)] == ["refused", "delivered"]


def test_a_file_that_cannot_be_read_costs_nothing_else(write: Callable[..., list[Path]], tmp_path: Path) -> None:
    paths = write(head_series())
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0\xff\xff\xff\xff")
    (tmp_path / "b.dcm").write_bytes(paths[0].read_bytes()[:400])
    (got,) = offline.classify([tmp_path / "a.dcm", tmp_path / "b.dcm", *paths])
    assert got.state == "delivered"


def test_of_files_that_are_left_out_each_is_named(
    write: Callable[..., list[Path]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (whole,) = write([ct()])
    cut, text = tmp_path / "cut.dcm", tmp_path / "text.dcm"
    cut.write_bytes(whole.read_bytes()[:-100])
    text.write_bytes(b"no DICOM at all")
    offline.classify([whole, cut, text])
    named = [line for line in caplog.messages if line.startswith("unreadable ")]
    assert len(named) == 2
    assert str(cut) in named[0]
    assert str(text) in named[1]


def test_a_model_that_fails_ends_in_not_evaluated(write: Callable[..., list[Path]], classifier: FakeClassifier) -> None:
    def fails(_: int) -> None:
        raise RuntimeError("out of memory")

    classifier.fails = fails
    (got,) = offline.classify(write(head_series()))
    assert got.state == "failed"
    assert got.findings is not None
    assert got.findings["outcome"] == "not evaluated"
    assert got.report is not None


def test_nothing_is_left_behind(
    write: Callable[..., list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    (tmp_path / "tmp").mkdir()
    paths = write([ct(1)])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    offline.classify(paths)
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("reports", "exit_code", "written"),
    [([None], 1, None), ([None, b"one"], 0, b"one"), ([b"one", b"two"], 1, None)],
    ids=["none", "one", "two"],
)
def test_the_command_writes_the_report_of_one_series_alone_and_ends_with_1_without_any(
    write: Callable[..., list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reports: list[bytes | None],
    exit_code: int,
    written: bytes | None,
) -> None:
    found = [offline.Classified(f"1.2.{n}", "a state", None, None, each) for n, each in enumerate(reports)]
    monkeypatch.setattr(offline, "classify", lambda *_, **__: found)
    (file,), sr_file = write([ct(1)]), tmp_path / "report"
    assert CliRunner().invoke(main, ["classify", "--json", str(file)]).exit_code == (1 if reports == [None] else 0)
    ran = CliRunner().invoke(main, ["classify", "--json", "--sr", str(sr_file), str(file)])
    assert ran.exit_code == exit_code
    assert (sr_file.read_bytes() if sr_file.exists() else None) == written
