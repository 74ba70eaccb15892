"""Which series is a head CT to look at, and the sentence that says why not."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from made import ct, encoded
from pydicom import uid
from pydicom.dataset import Dataset

from dicom_node.config import Eligibility
from dicom_node.headers import header
from dicom_node.headers.eligibility import ByHeader, Candidate, candidate, choose, is_another_scan, judge, ruled_out
from dicom_node.headers.facts import Facts

RULES = Eligibility()
CT = str(uid.CTImageStorage)


AGENT = Dataset()
AGENT.CodeValue, AGENT.CodingSchemeDesignator, AGENT.CodeMeaning = "109219001", "SCT", "Iohexol"


def facts(**changed: Any) -> Facts:
    ds = ct(**changed)
    return header.read(
        encoded(ds),
        transfer_syntax_uid=str(uid.ExplicitVRLittleEndian),
        sop_class_uid=CT,
        sop_instance_uid=str(ds.SOPInstanceUID),
    ).facts


def why(rules: Eligibility = RULES, **changed: Any) -> str | None:
    return ruled_out(CT, facts(**changed), rules)


@pytest.mark.parametrize(
    ("told", "years"),
    [
        ({"PatientAge": "017Y"}, 17),
        ({"PatientAge": "018M"}, 1),
        ({"PatientAge": "051W"}, 0),
        ({"PatientAge": "364D"}, 0),
        ({"PatientAge": "104Y"}, 89),  # a higher one may tell who it is
        ({"PatientAge": "017Y", "PatientBirthDate": "19500101"}, 17),  # what was entered for this study
        ({"PatientAge": "000Y", "PatientBirthDate": "19500101"}, 76),  # not known
        ({"PatientAge": "17", "PatientBirthDate": "20090228"}, 17),
        ({"PatientBirthDate": "20080301"}, 18),  # on the birthday
        ({"PatientBirthDate": "20080302"}, 17),
        ({"PatientBirthDate": "19010101"}, 89),
        ({"PatientBirthDate": "20080301", "AcquisitionDate": "20260228", "AcquisitionTime": "235900"}, 17),
        ({"PatientBirthDate": "20270101"}, None),
        ({"PatientBirthDate": ""}, None),
        ({"PatientBirthDate": "20080230"}, None),
        ({"PatientBirthDate": "20080301", "StudyDate": None}, None),
    ],
)
def test_the_age_is_that_at_the_time_of_the_scan(told: dict[str, Any], years: int | None) -> None:
    assert facts(**told).age_years == years


def test_the_young_are_refused_where_a_site_says_so() -> None:
    adults = Eligibility(min_age_years=18)
    assert why(adults, PatientAge="017Y") == "the patient is under 18 years old"
    for told in ({"PatientAge": "018Y"}, {"PatientBirthDate": ""}):  # an unknown age is no reason
        assert why(adults, **told) is None
    assert why(PatientAge="002D") is None


def members(count: int, reason: str | None = None, **changed: Any) -> list[ByHeader]:
    return [ByHeader(facts(number=number, **changed), reason) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"]},
        {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MPR"]},
        {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]},
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "RESAMPLED"]},
        {"ConvolutionKernel": None},
        {"ConvolutionKernel": "SOFT"},
        {"ConvolutionKernel": "STANDARD"},
        {"ConvolutionKernel": "UB"},
        {"ConvolutionKernel": "FC21"},
        {"ConvolutionKernel": ["Hr36f", "3"]},
        {"ConvolutionKernel": "J40s"},
        {"BodyPartExamined": None},
        {"BodyPartExamined": "BRAIN"},
        {"BodyPartExamined": "HEAD_NECK"},
        {"Modality": "ct"},
        {"Modality": None},
        {"ImageOrientationPatient": None},
        {"ImageOrientationPatient": [1, 0, 0, 0, 0.9063078, -0.4226183]},  # gantry tilted by 25 degrees
        {"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]},
        {"ContrastBolusAgent": ""},
        {"ContrastBolusAgent": "NONE"},
        {"ContrastBolusAgent": "No IV contrast"},
        {"ContrastBolusAgent": "w/o"},
        {"ContrastBolusAgent": "ohne KM"},
        {"ContrastBolusAgent": "ohne Kontrastmittel"},
        {"ContrastBolusAgent": "NO_CONTRAST_AGENT"},
        {"ContrastBolusAgent": "N/A"},
        {"ContrastBolusAgentSequence": []},
        {"ContrastBolusAgentSequence": [Dataset()]},
        {"ContrastBolusAgent": "NONE", "ContrastBolusAgentSequence": [AGENT]},
    ],
)
def test_a_soft_tissue_axial_head_is_looked_at(changed: dict[str, Any]) -> None:
    assert why(**changed) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"Modality": "PT"}, "modality is PT, not CT"),
        ({"Modality": "DOE^JANE"}, "modality is ?, not CT"),  # the reason is logged
        ({"RescaleType": "JANE DOE, BORN 19500101"}, "Rescale Type says ?: not Hounsfield units"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "LOCALIZER"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "MIP"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"]}, "says MIP"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MIP_TRA"]}, "says MIP"),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CSA MIP THIN"]}, "says MIP"),
        ({"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE", "VRT"]}, "PROJECTION IMAGE"),
        ({"ImageType": ["DERIVED", "SECONDARY", "PROJECTION_IMAGE"]}, "PROJECTION_IMAGE"),
        ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "MIN IP"]}, "MIN IP"),
        ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "MinIP"]}, "MINIP"),
        ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "MaxIP THIN"]}, "MAXIP"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "90 degrees"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "90 degrees"),
        ({"ContrastBolusAgent": "Iomeprol"}, "contrast agent"),
        ({"ContrastBolusAgent": "NON IONIC"}, "contrast agent"),
        ({"ContrastBolusAgent": "NONE OMNIPAQUE 350"}, "contrast agent"),
        ({"ContrastBolusAgent": "NATIV_UND_KM"}, "contrast agent"),
        ({"ContrastBolusAgent": "NON_CONTRAST_AND_POST_CONTRAST"}, "contrast agent"),
        ({"ContrastBolusAgent": "N"}, "contrast agent"),
        ({"ConvolutionKernel": "BONE"}, "BONE"),
        ({"ConvolutionKernel": "BONEPLUS"}, "BONEPLUS"),
        ({"ConvolutionKernel": "bone"}, "bone"),
        ({"ConvolutionKernel": "H60s"}, "H60s"),
        ({"ConvolutionKernel": ["Hr68h", "3"]}, "Hr68h"),
        ({"ConvolutionKernel": "J70h"}, "J70h"),
        ({"ConvolutionKernel": "YC"}, "YC"),
        ({"ConvolutionKernel": "FC30"}, "FC30"),
        ({"ConvolutionKernel": "FC81"}, "FC81"),
        ({"BodyPartExamined": "CHEST"}, "CHEST"),
        ({"BodyPartExamined": "LSPINE"}, "LSPINE"),
    ],
)
def test_anything_else_is_ruled_out_by_a_reason_that_names_it(changed: dict[str, Any], said: str) -> None:
    reason = why(**changed)
    assert reason is not None
    assert said in reason


@pytest.mark.parametrize(
    "sop_class", [uid.SecondaryCaptureImageStorage, uid.MRImageStorage, uid.XRayRadiationDoseSRStorage]
)
def test_what_is_no_ct_image_is_ruled_out_by_its_class(sop_class: str) -> None:
    assert "SOP class" in (ruled_out(str(sop_class), facts(), RULES) or "")


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize("undefined_length", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_an_enhanced_image_tells_its_contrast_agent_in_a_sequence(
    syntax: str, undefined_length: bool, given: bool
) -> None:
    ds = ct(ContrastBolusAgentSequence=[AGENT] if given else [])
    ds["ContrastBolusAgentSequence"].is_undefined_length = undefined_length
    named = {"sop_class_uid": CT, "sop_instance_uid": str(ds.SOPInstanceUID)}
    read = header.read(encoded(ds, syntax), transfer_syntax_uid=str(syntax), **named)
    assert read.facts.contrast == given


def test_one_who_does_not_know_the_sequence_may_have_passed_it_on() -> None:
    """As UN, its items in implicit VR (PS3.5 6.2.2)."""
    element = bytes.fromhex("18001200")
    items = encoded(ct(ContrastBolusAgentSequence=[AGENT]), uid.ImplicitVRLittleEndian).split(element)[1]
    length, agent = items[:4], items[4 : 4 + int.from_bytes(items[:4], "little")]
    plain = encoded(ct(ContrastBolusAgent="Iohexol"))
    at = plain.index(bytes.fromhex("18001000"))
    told = plain[:at] + element + b"UN\0\0" + length + agent + plain[at + 8 + len("Iohexol ") :]
    assert header.read_facts(told, str(uid.ExplicitVRLittleEndian)).contrast


def shared_by_frames(*within: str, **values: str) -> Dataset:
    """Functional groups that all frames share, with these values at the bottom of these sequences."""
    inner = Dataset()
    for keyword, value in values.items():
        setattr(inner, keyword, value)
    for keyword in reversed(within):
        outer = Dataset()
        setattr(outer, keyword, [inner])
        inner = outer
    return inner


ANATOMY = ("FrameAnatomySequence", "AnatomicRegionSequence")


MEASURES, PLANE = "PixelMeasuresSequence", "PlaneOrientationSequence"
PLACE = ("ImageOrientationPatient", "ImagePositionPatient", "SliceThickness")


@pytest.mark.parametrize("keyword", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (shared_by_frames(MEASURES, SliceThickness="0.3"), "slices are 0.3 mm thick; eligibility allows 0.4 to 10 mm"),
        (shared_by_frames(MEASURES, SliceThickness="5"), None),
        (
            shared_by_frames(PLANE, ImageOrientationPatient="1\\0\\0\\0\\0\\-1"),
            "not axial: 90 degrees from the axial plane",
        ),
        (shared_by_frames(PLANE, ImageOrientationPatient="1\\0\\0\\0\\1\\0"), None),
        (shared_by_frames(PLANE), None),
    ],
)
def test_thickness_and_plane_of_an_enhanced_image_are_those_of_its_frames(
    groups: Dataset, said: str | None, keyword: str
) -> None:
    ds = ct(NumberOfFrames=30, **dict.fromkeys(PLACE), **{keyword: [groups]})
    of = header.read_facts(encoded(ds), str(uid.ExplicitVRLittleEndian))
    reason = ruled_out(str(uid.EnhancedCTImageStorage), of, RULES)
    assert (reason or judge([ByHeader(of, reason)], RULES)) == said


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize("undefined_length", [True, False])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (shared_by_frames("CTReconstructionSequence", ConvolutionKernel="BONE"), "not a soft-tissue kernel: BONE"),
        (shared_by_frames("CTReconstructionSequence", ConvolutionKernelGroup="LUNG"), "not a soft-tissue kernel: LUNG"),
        (
            shared_by_frames("UnassignedSharedConvertedAttributesSequence", ConvolutionKernel="H60s"),
            "not a soft-tissue kernel: H60s",
        ),
        (
            shared_by_frames("UnassignedPerFrameConvertedAttributesSequence", ConvolutionKernel="H60s"),
            "not a soft-tissue kernel: H60s",
        ),
        (shared_by_frames("CTReconstructionSequence", ConvolutionKernel="STANDARD"), None),
        (shared_by_frames(*ANATOMY, CodeMeaning="Chest"), "body part is Chest"),
        (shared_by_frames(*ANATOMY, CodeMeaning="Head"), None),
        (shared_by_frames("CTReconstructionSequence"), None),
        (Dataset(), None),
    ],
)
def test_kernel_and_body_part_of_an_enhanced_image_are_those_of_its_frames(
    syntax: str, undefined_length: bool, each: bool, groups: Dataset, said: str | None
) -> None:
    """Whether all share them or, as some scanners write all groups, each has its own."""
    shared, per_frame = ([Dataset()], [deepcopy(groups) for _ in range(3)]) if each else ([groups], [Dataset()] * 3)
    ds = ct(ConvolutionKernel=None, BodyPartExamined=None, SharedFunctionalGroupsSequence=shared)
    ds.PerFrameFunctionalGroupsSequence = per_frame
    for one in (ds, *(item for e in ds.iterall() if e.VR == "SQ" for item in e.value)):
        for element in one:
            element.is_undefined_length = undefined_length and element.VR == "SQ"
    named = {"sop_class_uid": CT, "sop_instance_uid": str(ds.SOPInstanceUID)}
    read = header.read(encoded(ds, syntax), transfer_syntax_uid=str(syntax), **named)
    assert ruled_out(str(uid.EnhancedCTImageStorage), read.facts, RULES) == said


@pytest.mark.parametrize(
    ("frames", "said"),
    [(["BONE"] * 5 + ["SOFT"], "not a soft-tissue kernel: BONE"), (["SOFT"] * 5 + ["BONE"], None)],
)
def test_frames_of_several_kernels_are_judged_by_what_most_have(frames: list[str], said: str | None) -> None:
    groups = [shared_by_frames("CTReconstructionSequence", ConvolutionKernel=kernel) for kernel in frames]
    assert why(ConvolutionKernel=None, PerFrameFunctionalGroupsSequence=groups) == said


@pytest.mark.timeout(60)
def test_a_thousand_frames_are_asked_though_they_say_more_than_any_text() -> None:
    """And each has groups that nobody asks for."""
    frames = []
    for number in range(1000):
        groups = shared_by_frames("CTReconstructionSequence", ConvolutionKernel="BONE")
        for sequence in ("FrameContentSequence", "PlanePositionSequence", "CTExposureSequence", "CTGeometrySequence"):
            item = Dataset()
            item.ImagePositionPatient, item.FrameLabel, item.FrameComments = [0, 0, number], "x" * 16, "x" * 64
            setattr(groups, sequence, [item])
        frames.append(groups)
    ds = ct(ConvolutionKernel=None, NumberOfFrames=1000, PerFrameFunctionalGroupsSequence=frames)
    data_set, named = encoded(ds), {"sop_class_uid": CT, "sop_instance_uid": str(ds.SOPInstanceUID)}
    read = header.read(data_set, transfer_syntax_uid=str(uid.ExplicitVRLittleEndian), **named)
    assert read.facts.kernel == "BONE"


FRAME_TYPE = "CTImageFrameTypeSequence"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"VolumetricProperties": "SAMPLED"}, "SAMPLED"),
        ({"VolumeBasedCalculationTechnique": "MAX_IP"}, "MAX_IP"),
        ({"VolumeBasedCalculationTechnique": "MIN_IP"}, "MIN_IP"),
        ({"VolumetricProperties": "DISTORTED", "VolumeBasedCalculationTechnique": "CURVED_MPR"}, "DISTORTED"),
        ({"ImageType": ["DERIVED", "PRIMARY", "VOLUME", "MAXIMUM"]}, "MAXIMUM"),
        ({"ImageType": ["DERIVED", "PRIMARY", "VOLUME", "MINIMUM"]}, "MINIMUM"),
        ({"SharedFunctionalGroupsSequence": [shared_by_frames(FRAME_TYPE, VolumetricProperties="SAMPLED")]}, "SAMPLED"),
        (
            {"SharedFunctionalGroupsSequence": [shared_by_frames(FRAME_TYPE, FrameType="DERIVED\\PRIMARY\\LOCALIZER")]},
            "LOCALIZER",
        ),
        ({"VolumetricProperties": "VOLUME", "VolumeBasedCalculationTechnique": "MPR"}, None),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "VolumetricProperties": "VOLUME"}, None),
        ({"ImageType": ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"], "VolumetricProperties": "VOLUME"}, None),
        ({"VolumetricProperties": "MIXED"}, None),
    ],
)
def test_an_enhanced_image_that_is_a_projection_is_ruled_out(values: dict[str, Any], said: str | None) -> None:
    ds = ct(**values)
    named = {"sop_class_uid": CT, "sop_instance_uid": str(ds.SOPInstanceUID)}
    read = header.read(encoded(ds), transfer_syntax_uid=str(uid.ExplicitVRLittleEndian), **named)
    reason = ruled_out(str(uid.EnhancedCTImageStorage), read.facts, RULES)
    assert reason == (None if said is None else f"Image Type says {said}")


@pytest.mark.parametrize("nothing", [(), ("",), (" ",)])
def test_a_list_that_names_no_image_type_refuses_none(nothing: tuple[str, ...]) -> None:
    assert why(Eligibility(refused_image_types=nothing), ImageType=["DERIVED", "SECONDARY", "MIP"]) is None


def test_contrast_is_looked_at_where_it_is_asked_for() -> None:
    assert why(Eligibility(contrast=True), ContrastBolusAgent="Iomeprol") is None


def test_a_series_is_refused_for_the_reason_most_of_its_instances_have() -> None:
    assert judge([*members(3, "a"), *members(9, "b")], RULES) == "b"
    assert judge([], RULES) == "no instance was received"


def test_a_localizer_in_a_series_does_not_cost_the_series() -> None:
    assert judge([*members(2, "Image Type says LOCALIZER"), *members(20)], RULES) is None


def test_too_few_slices_are_refused_and_the_frames_of_an_enhanced_image_count() -> None:
    assert "only 7 slices" in (judge(members(7), RULES) or "")
    assert judge(members(8), RULES) is None
    assert judge(members(1, NumberOfFrames=30), RULES) is None


@pytest.mark.parametrize(("thickness", "refused"), [("0.3", True), ("0.4", False), ("10", False), ("10.5", True)])
def test_thickness_is_judged_by_what_most_slices_have(thickness: str, refused: bool) -> None:
    mixed = [*members(9, SliceThickness=thickness), *members(4, SliceThickness="5")]
    assert (judge(mixed, RULES) is not None) == refused
    assert judge(members(9, SliceThickness=None), RULES) is None


@pytest.mark.parametrize(
    ("first", "second", "another"),
    [
        ("083000", "090000", False),
        ("083000", "090001", True),
        ("090001", "083000", True),
        ("083000", None, False),
        (None, "083000", False),
        (None, None, False),
    ],
)
def test_series_half_an_hour_apart_are_of_one_scan_and_those_further_apart_are_not(
    first: str | None, second: str | None, another: bool
) -> None:
    """By when each began: a reconstruction must not have a second result, nor a scan after an operation none."""

    def taken(at: str | None) -> list[ByHeader]:
        untold, last = members(1), members(1, AcquisitionDate="20260301", AcquisitionTime="235900")
        return untold if at is None else untold + last + members(2, AcquisitionDate="20260301", AcquisitionTime=at)

    assert is_another_scan(taken(first), taken(second)) == another


def test_the_series_that_gives_the_result_is_chosen_by_the_stated_order() -> None:
    soft5 = Candidate(4, 5.0, slices=30, kernel_known=True, series_number=2)
    for worse in (
        Candidate(1, 5.0, 30, kernel_known=False, series_number=2),
        Candidate(1, 1.0, 300, kernel_known=True, series_number=2),
        Candidate(1, None, 300, kernel_known=True, series_number=2),
        Candidate(1, 5.0, 29, kernel_known=True, series_number=2),
        Candidate(1, 5.0, 30, kernel_known=True, series_number=3),
        Candidate(1, 5.0, 30, kernel_known=True, series_number=None),
        Candidate(5, 5.0, 30, kernel_known=True, series_number=2),
    ):
        assert choose([worse, soft5], RULES) is soft5
        assert choose([soft5, worse], RULES) is soft5
    nominally5 = Candidate(1, 5.04, slices=31, kernel_known=True, series_number=3)
    assert choose([soft5, nominally5], RULES) is nominally5


def test_a_candidate_is_described_by_its_usable_slices_alone() -> None:
    found = candidate(7, [*members(3, "LOCALIZER", SliceThickness="1", SeriesNumber=1), *members(9)])
    assert found == Candidate(7, 5.0, slices=9, kernel_known=True, series_number=2)
