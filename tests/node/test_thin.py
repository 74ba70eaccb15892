"""A series of thin slices: each is judged as the mean of its neighbours once the series is complete."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from made import Made, changed, head_series, made_node, part10, peer
from pydicom.dataset import Dataset
from test_readers import in_processes
from test_refining import Seeing, brightness

from dicom_node import anatomy
from dicom_node.administering.retrying import judge_again
from dicom_node.config import Backlog, Eligibility, Model
from dicom_node.preparing.drawing import draw
from dicom_node.preparing.finding import find
from dicom_node.store import results, series
from dicom_node.store.tables import instances as instances_table
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.working.readers import Readers
from dicom_node.working.slices import SliceReader
from dtvit import ct, preprocess, slabs
from dtvit.findings import Region, SeriesFindings

AGAIN_DIES = """
from dicom_node.working import reading
from dicom_node.store.spool import Spool
read, look_again = Spool.read, reading.look_again
again = []
def reads(self, name):
    if again and name == {name!r}:
        import os, signal
        os.kill(os.getpid(), signal.SIGSEGV)
    return read(self, name)
def looks(*given):
    again.append(True)
    yield from look_again(*given)
    again.clear()
Spool.read, reading.look_again = reads, looks
"""
WHY = "are thin; each was judged as part of a slab of 5 mm"


def thin_series() -> list[Dataset]:
    """The head of `head_series`, pressed together: 2 mm from slice to slice."""
    return [
        changed(ds, SliceThickness=2.0, ImagePositionPatient=[*ds.ImagePositionPatient[:2], 2.0 * number])
        for number, ds in enumerate(head_series())
    ]


@pytest.fixture
def node(tmp_path: Path) -> Made:
    return made_node(tmp_path, peers=[peer(104)], model=Model(brace_removal="robust"))


def ordered(node: Made) -> list[results.SliceResult]:
    with node.database.read() as connection:
        version = results.Version("f" * 64, preprocess.preprocessing("robust"))
        return anatomy.in_order(results.of_series(connection, 1, version))


def expected(datasets: list[Dataset], at: int) -> float:
    """What the model says of a slice and its neighbours, seen together."""
    before, one, after = (ct.read(part10(ds))[0] for ds in datasets[at - 1 : at + 2])
    mean = (0.3 * before.hu + 0.4 * one.hu + 0.3 * after.hu).astype(np.float32)
    return float(brightness(preprocess.prepare(one, "robust", slab=mean).input[None])[0])


def test_the_report_goes_by_the_mean_of_neighbours(node: Made) -> None:
    datasets = thin_series()
    node.accept(*datasets)
    node.work(node.worker(Seeing()))
    alone = ordered(node)
    assert {r.averaged for r in alone} == {1}
    node.tick_after(31)
    node.work(node.worker(Seeing()))
    found = ordered(node)
    brain = [i for i, region in enumerate(anatomy.regions(found)) if region is Region.BRAIN]
    assert len(brain) > 5
    for i, after in enumerate(found):
        if i in brain:
            assert after.averaged == 3
            assert after.presence == pytest.approx(expected(datasets, i), abs=0.002)  # the order of sums differs
        elif i < brain[0] - 3:  # neck; nearer by, the neighbours may tell that it is no brain
            assert after.averaged == 1
    assert [found[i].presence for i in brain] != [alone[i].presence for i in brain]
    (job,) = node.rows(jobs_table)
    told = SeriesFindings.from_json(job.findings)
    assert {each.averaged for each in told.evaluated} == {3}
    assert f"{len(brain)} of {len(found)} images {WHY}" in told.limits


def test_two_scans_that_are_centred_otherwise_are_not_averaged_into_one_another(node: Made) -> None:
    datasets = thin_series()
    for ds in datasets[12:]:
        x, *rest = ds.ImagePositionPatient
        ds.ImagePositionPatient = [float(x) + 20.0, *rest]
    node.accept(*datasets)
    node.tick_after(31)
    node.work(node.worker(Seeing()))
    assert [r.averaged for r in ordered(node)[10:14]] == [3, 2, 2, 3]


def test_thick_slices_are_judged_as_they_are(node: Made) -> None:
    node.accept(*head_series())
    node.tick_after(31)
    node.work(node.worker(Seeing()))
    assert {r.averaged for r in ordered(node)} == {1}
    (job,) = node.rows(jobs_table)
    assert job.findings["limits"] == []


def test_backlog_makes_way_between_two_batches_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = made_node(
        tmp_path,
        model=Model(brace_removal="robust", batch=4),
        backlog=Backlog(senders=["CT1"]),
    )
    node.accept(*thin_series())
    node.tick_after(31)
    worker = node.worker(Seeing())
    batches: list[int] = []
    in_slabs = SliceReader.in_slabs

    def counted(*given: object) -> object:
        for batch in in_slabs(*given):  # type: ignore[arg-type]
            batches.append(len(batch))
            yield batch

    monkeypatch.setattr(SliceReader, "in_slabs", counted)
    monkeypatch.setattr(type(worker._classifying), "is_something_live", lambda _: len(batches) == 1)
    assert worker.step()
    assert batches == [4]
    assert [row.state for row in node.rows(jobs_table)] == ["ready"]
    assert [r.averaged > 1 for r in ordered(node)].count(True) == 4
    node.work(worker)
    assert [row.state for row in node.rows(jobs_table)] == ["delivered"]
    assert sum(batches) == sum(r.averaged > 1 for r in ordered(node))  # none a second time
    assert [row.tries for row in node.rows(jobs_table)] == [1]


def test_no_slab_keeps_the_pixels_of_an_image_that_was_decided_against(node: Made) -> None:
    datasets = thin_series()
    other = changed(datasets[8], PixelData=bytes(len(datasets[8].PixelData)))  # under the same UID
    node.accept(*datasets[:8], other, *datasets[9:])
    node.tick_after(31)
    node.work(node.worker(Seeing()))
    assert ordered(node)[8].averaged == 3
    node.accept(datasets[8])
    with node.database.write() as connection:
        series.decide_for(connection, 1, "last")
        judge_again(connection, 1, node.config.eligibility, now=node.clock())
    node.tick_after(31)
    node.work(node.worker(Seeing()))
    found = ordered(node)
    assert [found[i].presence for i in (7, 8, 9)] == pytest.approx(
        [expected(datasets, i) for i in (7, 8, 9)], abs=0.002
    )


def test_after_a_try_that_failed_thin_slices_are_seen_together_all_the_same(
    node: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.accept(*thin_series())
    node.tick_after(31)

    def fails(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as broken:
        broken.setattr(SliceReader, "in_slabs", fails)
        node.worker(Seeing()).step()
    node.clock.advance(60)
    node.work(node.worker(Seeing()))
    (job,) = node.rows(jobs_table)
    assert job.tries == 2
    assert any(WHY in limit for limit in job.findings["limits"])


def test_a_neighbour_that_cannot_be_read_again_is_missing_from_the_mean_alone(node: Made) -> None:
    datasets = thin_series()
    node.accept(*datasets)
    node.work(node.worker(Seeing()))
    alone = ordered(node)
    node.spool.path(node.rows(instances_table)[8].file).unlink()
    node.tick_after(31)
    node.work(node.worker(Seeing()))
    found = ordered(node)
    assert [r.averaged for r in found[6:11]] == [3, 2, 1, 2, 3]
    assert found[8].presence == alone[8].presence
    (job,) = node.rows(jobs_table)
    assert (job.state, job.tries) == ("reported", 1)


@pytest.mark.parametrize("readers", [1, 2])
def test_readers_make_the_slabs_that_are_made_here(tmp_path: Path, readers: int) -> None:
    told = []
    for count in (0, readers):
        node = made_node(tmp_path / str(count), peers=[peer(104)], model=Model(brace_removal="robust"))
        node.accept(*thin_series())
        node.tick_after(31)
        with closing(node.worker(Seeing(), readers=count)) as worker:
            node.makes_report(worker)
        told.append(ordered(node))
    assert told[0] == told[1]
    assert max(r.averaged for r in told[0]) == 3


@pytest.mark.parametrize("same_worker", [True, False])
def test_a_slice_that_ends_its_reader_at_the_second_look_costs_no_more_than_its_slabs(
    node: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_worker: bool
) -> None:
    """A decoder may fail by chance, and a file may go bad after it was read."""
    node.accept(*thin_series())
    poison = node.rows(instances_table)[8]
    in_processes(AGAIN_DIES.format(name=poison.file), tmp_path / "site", monkeypatch)
    with closing(node.worker(Seeing(), readers=2)) as first:
        node.work(first)
        alone = ordered(node)
        node.tick_after(31)
        if same_worker:
            node.makes_report(first)
    if not same_worker:  # it remembers nothing of the first look
        with closing(node.worker(Seeing(), readers=2)) as second:
            node.makes_report(second)
    found = ordered(node)
    assert {r.left_out for r in found} == {None}
    assert [r.averaged for r in found[5:12]] == [3, 3, 1, 1, 1, 3, 3]
    assert [found[i].presence for i in (7, 8, 9)] == [alone[i].presence for i in (7, 8, 9)]
    (job,) = node.rows(jobs_table)
    assert (job.state, job.tries) == ("reported", 1)


def test_of_a_long_series_only_a_little_is_held_at_a_time(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = [
        changed(ds, SOPInstanceUID=f"{ds.SOPInstanceUID}.{part}", SliceThickness=1.0, ImagePositionPatient=[
            *ds.ImagePositionPatient[:2], 4.0 * number + part
        ])
        for number, ds in enumerate(head_series())
        for part in range(4)
    ]  # fmt: skip
    node.accept(*datasets)
    node.tick_after(31)
    held: list[int] = []
    go_on = Readers.go_on

    def watched(readers: Readers, wait_s: float = 0.0) -> None:
        go_on(readers, wait_s)
        held.append(sum(file.startswith("[") for file in readers._answers))

    monkeypatch.setattr(Readers, "go_on", watched)
    with closing(node.worker(Seeing(), readers=1)) as worker:
        node.makes_report(worker)
    assert sum(r.averaged > 1 for r in ordered(node)) > 40
    assert 1 < max(held) <= 3  # runs of eight


def test_the_map_is_of_the_slab(node: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    node.accept(*thin_series())
    model, asked = Seeing(), []

    def relevance(inputs: np.ndarray) -> np.ndarray:
        asked.append(inputs[0])
        return np.zeros(inputs.shape, np.float32)

    monkeypatch.setattr(model, "relevance", relevance)
    reader = SliceReader(model, node.spool, brace_removal="robust", batch=4)
    with node.database.read() as connection:
        files = [each.file for each in series.instances_of(connection, 1)]
    shown = reader.show(
        files[8], None, with_relevance=True, slab=[(files[7], 0, 0.3), (files[8], 0, 0.4), (files[9], 0, 0.3)]
    )
    slices = [ct.read(node.spool.read(file))[0] for file in files[7:10]]
    mean = slabs.slab(slices[1], list(zip(slices, (0.3, 0.4, 0.3), strict=True))).hu
    assert (shown.hu == slices[1].hu).all()  # the image itself is what people see
    assert (asked[0] == preprocess.prepare(slices[1], "robust", slab=mean).input).all()


def test_prepared_pictures_are_what_the_node_would_see(tmp_path: Path) -> None:
    for number, ds in enumerate(thin_series()):
        (tmp_path / f"{number:02}.dcm").write_bytes(part10(ds))
    (found,), _ = find(tmp_path, Eligibility(), tmp_path / "output")
    drawn = draw(found.instances, "robust").pictures
    middle = len(drawn) // 2
    read = [ct.read(each.instance.path)[0] for each in drawn[middle - 1 : middle + 2]]
    mean = slabs.slab(read[1], list(zip(read, (0.3, 0.4, 0.3), strict=True))).hu
    mask = preprocess.prepare(read[1], "robust").mask
    assert (drawn[middle].pixels == preprocess.picture(mean, mask)).all()
    assert (drawn[middle].pixels != preprocess.picture(read[1].hu, mask)).any()
