"""Absent must be earned: whole series in which some of the brain is not seen, judged as the node judges them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from made import FakeClassifier, Made, changed, grey_series, head_series, part10
from pydicom import uid
from pydicom.dataset import Dataset

from dicom_node.store.series import set_ruled_out
from dicom_node.store.tables import jobs
from dtvit import ct, preprocess
from dtvit.masking import robust

HEALTHY = FakeClassifier(0.01)


def concluded(node: Made, datasets: list[Dataset]) -> tuple[str, str]:
    """Outcome and reasons that the node gives where the model sees nothing in any slice."""
    assert set(node.accept(*datasets)) == {0}
    node.tick_after(31)
    node.work(node.worker(HEALTHY))
    job = node.rows(jobs)[-1]
    return job.outcome, "; ".join(job.findings["reasons"])


def repictured(ds: Dataset, pixels: np.ndarray) -> Dataset:
    """The image with other pixels, at its place and with its spacing."""
    rows, columns = pixels.shape
    return changed(ds, PixelData=pixels.astype("<i2").tobytes(), Rows=rows, Columns=columns)


def pixels_of(ds: Dataset) -> np.ndarray:
    return np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns)


def tilted(ds: Dataset, degrees: float) -> Dataset:
    """The image as if the gantry had leaned; its place along its own normal stays."""
    angle = math.radians(degrees)
    x, y, z = (float(v) for v in ds.ImagePositionPatient)
    at = (z - y * math.sin(angle)) / math.cos(angle)
    orientation = [1, 0, 0, 0, round(math.cos(angle), 6), round(-math.sin(angle), 6)]
    return changed(ds, ImageOrientationPatient=orientation, ImagePositionPatient=[x, y, round(at, 4)])


def test_a_whole_head_in_which_nothing_is_found_is_absent(node: Made) -> None:
    assert concluded(node, head_series()) == ("absent", "")


def test_a_hole_is_told_by_the_images_beside_it(node: Made) -> None:
    series = head_series()
    outcome, reason = concluded(node, [*series[:9], *series[10:]])
    assert outcome == "undetermined"
    assert "slices are missing between images 9 and 11" in reason


@pytest.mark.parametrize("lost", [slice(8, 9), slice(8, 11), slice(9, 10)])
def test_slices_without_a_position_are_looked_at_and_blur_no_end_of_the_brain(node: Made, lost: slice) -> None:
    series = head_series()
    series[lost] = [changed(ds, ImagePositionPatient=None) for ds in series[lost]]
    outcome, reasons = concluded(node, series)
    assert outcome == "undetermined"
    assert "no usable position" in reasons
    assert "end" not in reasons
    assert "less head or brain" not in reasons
    slices = node.rows(jobs)[-1].findings["slices"]
    assert {s["region"] for s in slices if s["position_mm"] is None} == {"brain"}


def test_images_that_share_their_number_are_told_by_their_position(node: Made) -> None:
    series = [changed(ds, InstanceNumber=1) for ds in head_series()]
    outcome, reasons = concluded(node, [*series[:9], *series[10:]])
    assert outcome == "undetermined"
    assert "slices are missing between -17.0 and 1.0 mm" in reasons
    assert {s["instance_number"] for s in node.rows(jobs)[-1].findings["slices"]} == {None}


def test_a_field_of_view_that_cuts_the_brain_is_not_absent(node: Made) -> None:
    middle = slice(32, 96)
    outcome, reasons = concluded(node, [repictured(ds, pixels_of(ds)[middle, middle]) for ds in head_series()])
    assert outcome == "undetermined"
    assert "outside the area shown to the network" in reasons


@pytest.mark.parametrize(("degrees", "expected"), [(25.0, "undetermined"), (2.0, "undetermined"), (0.5, "absent")])
def test_slices_that_are_not_parallel_are_not_absent(node: Made, degrees: float, expected: str) -> None:
    datasets = head_series()
    outcome, reasons = concluded(node, [tilted(ds, degrees) for ds in datasets[:10]] + datasets[10:])
    assert outcome == expected
    assert ("not parallel" in reasons) == (expected == "undetermined")


def test_slices_of_two_coordinate_systems_are_no_volume(node: Made) -> None:
    series = head_series()
    series[10:] = [changed(ds, FrameOfReferenceUID="1.2.3.4") for ds in series[10:]]
    outcome, reasons = concluded(node, series)
    assert outcome == "undetermined"
    assert "2 frames of reference" in reasons


def test_one_slice_that_names_no_frame_of_reference_contradicts_none(node: Made) -> None:
    series = head_series()
    series[10] = changed(series[10], FrameOfReferenceUID=None)
    assert concluded(node, series) == ("absent", "")


def enhanced(datasets: list[Dataset]) -> Dataset:
    """The same images as the frames of one Enhanced CT."""
    first = datasets[0]
    per_frame = []
    for ds in datasets:
        position, orientation, frame = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient, orientation.ImageOrientationPatient = (
            ds.ImagePositionPatient,
            ds.ImageOrientationPatient,
        )
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [position], [orientation]
        per_frame.append(frame)
    measures, values, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = first.RescaleSlope, first.RescaleIntercept, "HU"
    shared.PixelMeasuresSequence, shared.PixelValueTransformationSequence = [measures], [values]
    return changed(
        first,
        SOPClassUID=uid.EnhancedCTImageStorage,
        NumberOfFrames=len(datasets),
        PixelData=b"".join(ds.PixelData for ds in datasets),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=per_frame,
        **dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "PixelSpacing")),
    )


def test_a_multi_frame_head_is_judged_like_any_other(node: Made) -> None:
    assert concluded(node, [enhanced(head_series())]) == ("absent", "")


@pytest.mark.parametrize("said", [None, 10])
def test_a_false_number_of_frames_costs_none(node: Made, said: int | None) -> None:
    assert concluded(node, [changed(enhanced(head_series()), NumberOfFrames=said)]) == ("absent", "")


def test_frames_that_did_not_come_are_left_out_by_name(node: Made) -> None:
    whole = enhanced(head_series())
    outcome, reasons = concluded(node, [changed(whole, PixelData=whole.PixelData[: -9 * 128 * 128 * 2])])
    assert outcome == "undetermined"
    assert "9 slices of unknown content" in reasons
    left_out = {s["frame"]: s["left_out"] for s in node.rows(jobs)[-1].findings["slices"] if s["region"] == "unknown"}
    assert list(left_out) == list(range(14, 23))
    assert all("cut short" in why for why in left_out.values())


def test_frames_that_parts_of_a_concatenation_number_alike_are_told_by_their_position(node: Made) -> None:
    datasets = head_series()
    second = changed(enhanced(datasets[10:]), InstanceNumber=datasets[0].InstanceNumber)
    outcome, reasons = concluded(node, [enhanced(datasets[:9]), second])
    assert outcome == "undetermined"
    assert "slices are missing between -17.0 and 1.0 mm" in reasons


def test_frames_that_are_not_parallel_are_not_absent(node: Made) -> None:
    datasets = head_series()
    outcome, reasons = concluded(node, [enhanced([tilted(ds, 25.0) for ds in datasets[:10]] + datasets[10:])])
    assert outcome == "undetermined"
    assert "not parallel" in reasons


def test_a_frame_that_is_not_axial_is_left_out_by_name(node: Made) -> None:
    datasets = head_series()
    coronal = changed(datasets[8], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    outcome, _ = concluded(node, [enhanced([*datasets[:8], coronal, *datasets[9:]])])
    assert outcome == "undetermined"
    slices = node.rows(jobs)[-1].findings["slices"]
    assert [(s["frame"], s["left_out"]) for s in slices if s["region"] == "unknown"] == [(9, "not axial")]


def test_what_was_doubtful_about_a_slice_is_kept_with_it(node: Made) -> None:
    datasets = head_series()
    concluded(node, [*datasets[:-1], repictured(datasets[-1], np.full((128, 128), -1000))])
    slices = node.rows(jobs)[-1].findings["slices"]
    assert slices[-1]["doubts"] == [robust.NO_HEAD]
    assert slices[8]["doubts"] == []


def test_a_blank_slice_is_no_end_of_the_brain(node: Made) -> None:
    datasets = head_series()
    blank = repictured(datasets[16], np.full((128, 128), -1000))
    outcome, reasons = concluded(node, [*datasets[:16], blank])
    assert outcome == "undetermined"
    assert "the upper end of the brain (vertex) is not in the series" in reasons
    assert "the brain does not taper off towards its upper end" in reasons


@pytest.mark.parametrize(
    ("rows", "said"), [(64, "less head or brain than those on both sides"), (0, "1 slice inside the brain left out")]
)
def test_half_a_picture_or_none_within_the_brain_is_not_absent(node: Made, rows: int, said: str) -> None:
    datasets = head_series()
    part = pixels_of(datasets[12]).copy()
    part[rows:] = -1000
    outcome, reasons = concluded(node, [*datasets[:12], repictured(datasets[12], part), *datasets[13:]])
    assert outcome == "undetermined"
    assert said in reasons


@pytest.mark.parametrize("geometry", preprocess.GEOMETRIES)
def test_brain_cut_by_the_field_of_view_is_known_in_every_geometry(geometry: str) -> None:
    def unseen(cut: slice) -> float:
        slices = []
        for ds in head_series():
            pixels = pixels_of(ds)
            slices += ct.read(part10(repictured(ds, pixels[cut, cut].copy())))
        return max(preprocess.prepare(one, geometry=geometry).content.unseen_cm2 for one in slices)

    assert unseen(slice(None)) == 0
    assert unseen(slice(32, 96)) > 1


def test_a_field_of_view_that_cuts_every_slice_on_one_side_is_not_absent(node: Made) -> None:
    """Outside it there is padding: a scan whose circle lies beside the head, a reformat beyond its volume."""

    def cut(ds: Dataset) -> Dataset:
        pixels = pixels_of(ds).copy()
        pixels[:, :38] = -1024
        return repictured(ds, pixels)

    outcome, reasons = concluded(node, [cut(ds) for ds in head_series()])
    assert outcome == "undetermined"
    assert "slices end inside the head" in reasons


def test_neighbouring_slices_of_which_the_last_rows_did_not_come_are_not_absent(node: Made) -> None:
    def torn(ds: Dataset) -> Dataset:
        pixels = pixels_of(ds).copy()
        pixels[88:] = 0
        return repictured(ds, pixels)

    datasets = head_series()
    outcome, reasons = concluded(node, [*datasets[:11], *map(torn, datasets[11:13]), *datasets[13:]])
    assert outcome == "undetermined"
    assert "2 slices end inside the head, as if part of it were cut off (images 12, 13)" in reasons


@pytest.mark.parametrize(
    ("intercept", "said"),
    [(1024, "Rescale Intercept had been lost"), (-1024, "Rescale Intercept had been added twice")],
)
def test_shifted_values_are_refused_with_the_cause(node: Made, intercept: int, said: str) -> None:
    assert set(node.accept(*head_series(RescaleIntercept=intercept))) == {0}
    node.tick_after(31)
    while node.worker(HEALTHY).step():
        pass
    (job,) = node.rows(jobs)
    assert job.state == "refused"
    assert said in job.reason


@pytest.mark.parametrize("wrong", [{"RescaleSlope": "0.5"}, {"RescaleSlope": "2"}, {"RescaleIntercept": "-24"}])
def test_slightly_wrong_values_are_not_absent(node: Made, wrong: dict[str, str]) -> None:
    outcome, reasons = concluded(node, head_series(**wrong))
    assert outcome == "undetermined"
    assert "the values may be wrong throughout" in reasons


@pytest.mark.parametrize("frozen", [range(9, 12), (10, 14)])
def test_one_picture_at_two_places_is_not_absent(node: Made, frozen: Sequence[int]) -> None:
    """As where a program filled the places of images that it lacked, or wrote one over and over."""
    datasets = head_series()
    for i in frozen:
        datasets[i] = changed(datasets[i], PixelData=datasets[frozen[0]].PixelData)
    outcome, reasons = concluded(node, datasets)
    assert outcome == "undetermined"
    assert f"{len(frozen)} slices hold the same picture as a slice at another position" in reasons
    assert f"(images {', '.join(str(i + 1) for i in frozen)})" in reasons


def test_images_that_came_twice_at_one_place_are_no_harm(node: Made) -> None:
    datasets = head_series()
    again = [
        changed(ds, SOPInstanceUID=f"{ds.SOPInstanceUID}.2", InstanceNumber=100 + i) for i, ds in enumerate(datasets)
    ]
    assert concluded(node, [*datasets, *again[9:13]]) == ("absent", "")


@pytest.mark.parametrize(("unreadable", "state"), [(2, "refused"), (3, "reported")])
def test_as_many_images_as_a_head_needs_may_hide_one_where_they_cannot_be_read(
    node: Made, unreadable: int, state: str
) -> None:
    datasets = grey_series(10)
    hidden = [changed(ds, BitsAllocated=12, BitsStored=12, HighBit=11) for ds in datasets[:unreadable]]
    node.accept(*hidden, *datasets[unreadable:])
    node.tick_after(31)
    node.work(node.worker(HEALTHY))
    assert [job.state for job in node.rows(jobs)] == [state]


def test_what_was_looked_at_before_it_was_ruled_out_is_left_out_once_and_does_not_count(node: Made) -> None:
    """As where the rules were changed, and the series is judged again."""
    datasets = head_series()
    node.accept(*datasets)
    worker = node.worker(FakeClassifier(0.95))
    while worker.step():
        node.clock.advance(0.1)
    with node.database.write() as connection:
        for number in range(6, 14):
            set_ruled_out(connection, number, "a rule")
    node.tick_after(31)
    node.work(worker)
    found = node.rows(jobs)[-1].findings
    left_out = {s["sop_instance_uid"]: s["left_out"] for s in found["slices"] if s["outcome"] == "not evaluated"}
    assert [left_out.get(ds.SOPInstanceUID) for ds in datasets[5:13]] == ["a rule"] * 8
    assert len(found["slices"]) == len(datasets)
