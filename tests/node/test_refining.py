"""Slices judged one by one while they arrive are looked over once more when their series is whole."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from made import FakeClassifier, Made, Predictions, changed, head_series, made_node, peer
from pydicom.dataset import Dataset
from test_anatomy import enhanced

from dicom_node import anatomy, scanner
from dicom_node.config import Model
from dicom_node.store import results, series
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.store.tables import slice_results
from dicom_node.working.slices import SliceReader
from dtvit import brace, ct, phantom, preprocess
from dtvit.reading.headervalues import UnreadableSlice


@pytest.fixture(scope="module")
def beside_a_thick_cup() -> list[Dataset]:
    """A head whose vertex is smaller than the holder beside it."""
    holder = {"shape": "thick cup", "shell_mm": 12.0, "shell_hu": 200.0, "gap_mm": 4.0}
    spec = phantom.draw(3, None, matrix=256, thickness_mm=5.0, spacing_mm=5.0, **holder)
    patient = scanner.SyntheticPatient("SYNTHETIC^REFINED", "REF-1")
    return scanner.series(phantom.render(spec), patient, when=datetime(2026, 1, 2, tzinfo=UTC))


def robust_node(folder: Path) -> Made:
    return made_node(folder, peers=[peer(104)], model=Model(brace_removal="robust"))


def finish(node: Made, worker_number: int = 1) -> None:
    node.work(node.worker(FakeClassifier(0.02), owner=f"worker-{worker_number}"))


def kept(node: Made) -> dict[int, results.SliceResult]:
    with node.database.read() as connection:
        version = results.Version("f" * 64, preprocess.preprocessing("robust"))
        return {r.instance_number or 0: r for r in results.of_series(connection, 1, version)}


def expected(node: Made, datasets: list[Dataset]) -> dict[int, preprocess.Prepared]:
    """What looking at the finished series at once gives."""
    with node.database.read() as connection:
        files = [node.spool.path(i.file) for i in series.instances_of(connection, 1)]
    slices = ct.order([one for path in files for one in ct.read(path)])
    first = [preprocess.prepare(one, "robust") for one in slices]
    refined = preprocess.refine(slices, first, "robust")
    assert any(a is not b for a, b in zip(first, refined, strict=True)), "this series changes nothing"
    assert len(refined) == len(datasets)
    return {one.instance_number or 0: prepared for one, prepared in zip(slices, refined, strict=True)}


@pytest.mark.parametrize("another_process", [False, True])
def test_the_finished_series_is_judged_as_if_it_had_come_at_once(
    tmp_path: Path, beside_a_thick_cup: list[Dataset], another_process: bool
) -> None:
    node = robust_node(tmp_path)
    node.accept(*beside_a_thick_cup)
    finish(node)
    early = kept(node)
    node.tick_after(31)
    if another_process:
        finish(node, worker_number=2)  # its memory is empty: it must read again what it needs
    else:
        finish(node)
    late = kept(node)
    for number, prepared in expected(node, beside_a_thick_cup).items():
        assert late[number].content == vars(prepared.content)
    changed = [number for number in late if late[number] != early[number]]
    assert changed
    assert all(late[number].parts is not None for number in changed)
    assert [(job.state, job.outcome) for job in node.rows(jobs_table)] == [("reported", "absent")]
    assert len(node.rows(slice_results)) == len(beside_a_thick_cup)


def test_the_report_goes_by_the_second_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refine(_: object, found: list[results.SliceResult], *__: object) -> list[results.SliceResult]:
        return [replace(one, presence=0.02) for one in found]

    monkeypatch.setattr(SliceReader, "refine", refine)
    node = robust_node(tmp_path)
    node.accept(*head_series())
    node.tick_after(31)
    node.work(node.worker(FakeClassifier(0.9)))
    assert [(job.state, job.outcome) for job in node.rows(jobs_table)] == [("reported", "absent")]


@pytest.mark.parametrize("another_process", [False, True])
def test_a_slice_that_cannot_be_read_again_does_not_cost_the_report(
    tmp_path: Path, beside_a_thick_cup: list[Dataset], monkeypatch: pytest.MonkeyPatch, another_process: bool
) -> None:
    node = robust_node(tmp_path)
    node.accept(*beside_a_thick_cup)
    worker = node.worker(FakeClassifier(0.02))
    node.work(worker)

    def broken(*_: object) -> None:
        raise UnreadableSlice("not any more")

    monkeypatch.setattr(ct.CTObject, "slice", broken)
    node.tick_after(31)
    node.work(node.worker(FakeClassifier(0.02), owner="worker-2") if another_process else worker)
    assert [job.state for job in node.rows(jobs_table)] == ["reported"]
    assert all(one.parts is None and one.left_out is None for one in kept(node).values())


def test_the_map_of_a_slice_is_of_what_was_judged(
    tmp_path: Path, beside_a_thick_cup: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = robust_node(tmp_path)
    node.accept(*beside_a_thick_cup)
    finish(node)
    node.tick_after(31)
    finish(node)
    model = FakeClassifier(0.9)
    asked: list[np.ndarray] = []

    def relevance(inputs: np.ndarray) -> np.ndarray:
        asked.append(inputs[0])
        return np.zeros(inputs.shape, np.float32)

    monkeypatch.setattr(model, "relevance", relevance)
    reader = SliceReader(model, node.spool, brace_removal="robust", batch=4)
    wanted = expected(node, beside_a_thick_cup)
    with node.database.read() as connection:
        files = {i.id: i.file for i in series.instances_of(connection, 1)}
    refined = [one for one in kept(node).values() if one.parts is not None]
    for one in refined:
        reader.show(files[one.instance_id], one.frame, with_relevance=True, parts=one.parts)
        assert (asked[-1] == wanted[one.instance_number or 0].input).all()
    assert refined


class Seeing(FakeClassifier):
    """Says of each slice how bright it is shown to the model."""

    def predict(self, inputs: npt.NDArray[np.uint8]) -> Predictions:
        found = super().predict(inputs)
        found.presence = brightness(inputs)
        return found


def brightness(inputs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return inputs.mean(axis=(1, 2)) / 255


def test_the_second_look_is_at_each_frame_that_has_a_place_and_only_where_its_neighbours_tell_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = robust_node(tmp_path)
    heads = head_series()
    placeless = changed(heads[10], ImagePositionPatient=None)
    unreadable = changed(heads[11], BitsAllocated=12, BitsStored=12, HighBit=11)
    node.accept(enhanced(heads[6:10]), placeless, unreadable)
    with node.database.read() as connection:
        known = {i.id: i for i in series.instances_of(connection, 1)}
    image = ct.CTObject(node.spool.read(known[1].file))
    frames = [image.slice(index) for index in range(4)]

    def look(found: list[results.SliceResult], told: frozenset[int] | None) -> list[results.SliceResult]:
        """Again, where the neighbours tell this of each; with nothing remembered."""
        monkeypatch.setattr(brace, "retrace", lambda those: [told] * len(those))
        reader = SliceReader(Seeing(), node.spool, brace_removal="robust", batch=3)
        return reader.refine(anatomy.in_order(found), known, lambda: None)

    reader = SliceReader(Seeing(), node.spool, brace_removal="robust", batch=3)
    found = [one for rows in reader.read(iter([list(known.values())]), lambda: None) for one in rows]
    assert len(found) == 6
    assert look(found, None) == []
    refined = look(found, frozenset({1}))
    assert [(one.instance_id, one.frame, one.parts) for one in refined] == [(1, n, (1,)) for n in range(1, 5)]
    seen = brightness(np.stack([preprocess.prepare(one, "robust", frozenset({1})).input for one in frames]))
    assert [one.presence for one in refined] == list(seen)
    assert len({*seen}) == 4
    others = [one for one in found if one.instance_id != 1]
    assert look([*refined, *others], frozenset({1})) == []
    taken_back = look([*refined, *others], None)  # as where a late slice tells them otherwise
    assert anatomy.in_order(taken_back) == anatomy.in_order([one for one in found if one.instance_id == 1])
    for number, one in enumerate(frames, 1):
        assert (reader.show(known[1].file, number, with_relevance=False).hu == one.hu).all()
