"""What scanners of every vendor write of a head CT, and what the node makes of it.

The facts are from what vendors say of their scanners, and from what others met with in archives:
  PS3.3          C.8.2.1.1.1 (Image Type, also of multi-energy CT), C.8.16.1 (of Enhanced CT), C.11.1.1.2 (units)
  Siemens guide  SOMATOM Sensation and Emotion application guides: kernels; U70u and up for bone, B50s and up for spine
  Siemens names  vendor's description of kernel names (H head, B body, Q quantitative, U ultra high; r, f, v, s; index)
  GE             LightSpeed and Discovery conformance statement DOC0500644: contrast is told only where it was given
  stroke         lists by which a stroke registry sorts its CT of five vendors by kernel and description
  surgery        kernels that an open planner of operations takes for soft tissue, and for bone
  ear            counts of kernels in an archive of temporal bones; GE HD, UIH
  cohort         kernels that a public module for lung cancer cohorts takes for soft, and for sharp
  archive        Image Type as it stands in published data sets and in lists for pseudonymisation
  spectral       what a handbook of a Philips spectral scanner calls its results, and their units
"""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset
from test_eligibility import RULES, facts, shared_by_frames, why

from dicom_node.headers.eligibility import ByHeader, judge

SOFT = [
    *("H30s", "H31s", "H40f", "Hf38s", ["Hr38s", "3"], ["Hr40f", "3"]),  # Siemens: stroke
    *(["J30s", "2"], ["J40f", "4"], ["J45s", "4"], ["I31f", "3"]),  # Siemens, iterative: stroke
    *(["Qr40s", "3"], "Q34s", ["Hr32s", "3"], "D26f"),  # Siemens, dual energy: stroke
    *("C30s", "B30s", "Br36s", "H47s", "Hr48f"),  # Siemens: guide, names
    *("SOFT", "SOFT#", "STANDARD", "STANDARD2", "STND", "Standard"),  # GE: stroke, surgery
    *(
        "UA",
        "UB",
        "UC",
        "A",
        "B",
        "SA",
        "IMR1,Brain Routi",
        "IMR1,Soft Tissue",
        "Brain Sharp",
        "IMR1,Brain Sharp",
    ),  # Philips: stroke
    *("FC21", "FC23", "FC26", "FC63", "FC64", "FC68", "FC08", "FC07", "FC15", "BRAIN_LCD"),  # Canon: stroke, surgery
    *("H_SOFT_A", "H_SOFT_B", "32", "10", "SB"),  # UIH: ear; others: surgery
]
BONE = [
    *("H60f", "H60s", ["Hr56s", "3"], ["Hr64h", "2"], "Hr68h", ["Hr69d", "3"], "H70h", "H90s"),  # Siemens: stroke
    *(["J70h", "1"], ["I70f", "3"], ["Br59d", "3"], ["Br62f", "3"], ["Ur73u", "1"], ["Ur77u", "3"]),  # stroke, ear
    *("U75u", "U90u", "B50s", "B60s", "B80s", "D70f", "C60s"),  # Siemens: guide, ear, surgery
    *("BONE", "BONEPLUS", "BONEPLUS2", "BoneHD", "BonePlusHD", "Edge", "EdgeHD"),  # GE: ear
    *("DETAIL", "DETAIL2", "DetailHD", "LUNG", "LungHD", "UltraHD"),  # GE: ear, cohort
    *("YA", "YB", "YC", "YD", "YE", "YF", "D", "E", "EA", "EB", "L"),  # Philips: cohort, surgery
    *("FC30", "FC31", "FC35", "FC51", "FC52", "FC55", "FC81", "FC86"),  # Canon: stroke, cohort
    *("H_SHARP_B", "H_SHARP_C", "H_VSHARP_C", "BODY_SHARP"),  # UIH: ear; Canon: stroke
]


@pytest.mark.parametrize("kernel", SOFT, ids=str)
def test_a_kernel_for_soft_tissue_is_looked_at(kernel: str | list[str]) -> None:
    assert why(ConvolutionKernel=kernel) is None


@pytest.mark.parametrize("kernel", BONE, ids=str)
def test_a_kernel_for_bone_lung_or_detail_is_not(kernel: str | list[str]) -> None:
    named = kernel if isinstance(kernel, str) else kernel[0]
    assert (why(ConvolutionKernel=kernel) or "").startswith(f"not a soft-tissue kernel: {named}")


LOOKED_AT = [
    r"ORIGINAL\PRIMARY\AXIAL",  # GE, Canon
    r"ORIGINAL\PRIMARY\AXIAL\CT_SOM5 SEQ",  # Siemens: archive
    r"ORIGINAL\PRIMARY\AXIAL\CT_SOM5 SPI",
    r"DERIVED\PRIMARY\AXIAL\CT_SOM5 SPO",  # turned to the plane of the gantry
    r"DERIVED\PRIMARY\AXIAL\CT_SOM5 MPR",
    r"DERIVED\SECONDARY\MPR\CSA MPR\\CSAPARALLEL",
    r"DERIVED\SECONDARY\OTHER\CSA RESAMPLED",
    r"DERIVED\PRIMARY\AXIAL\CT_SOM5 SPI\JP2K LOSSY 6:1",
    r"ORIGINAL\PRIMARY\AXIAL\CT_SOM7 SPI DUAL\STD\SNRG\DET_AB",  # both tubes together, as one of 120 kV
    r"DERIVED\SECONDARY\AXIAL\CT_SOM8 DEOC",  # the same, the contrast of tissues enhanced
    r"ORIGINAL\PRIMARY\AXIAL\CT_SOM10 DET3D\T1\COUNT_2SRC\CONVCT",  # photon counting
    r"ORIGINAL\PRIMARY\AXIAL\HELIX",  # Philips: archive
    r"DERIVED\SECONDARY\AXIAL\HELICAL",  # Neusoft: archive
    r"DERIVED\PRIMARY\MPR",  # Canon: archive
    r"DERIVED\SECONDARY\REFORMATTED\AVERAGE",  # GE: archive
    r"DERIVED\PRIMARY\VOLUME\MEAN",  # Enhanced CT, slices put together: PS3.3
    r"ORIGINAL\PRIMARY\VOLUME\ENERGY_PROP_WT",  # Enhanced CT, both energies together: PS3.3
]
NEVER = {
    "LOCALIZER": [
        r"ORIGINAL\PRIMARY\LOCALIZER\CT_SOM5 TOP",  # Siemens: archive
        r"ORIGINAL\PRIMARY\LOCALIZER\ES",
    ],
    "MIP": [r"DERIVED\SECONDARY\AXIAL\CT_SOM5 MIP"],
    "VPCT": [rf"DERIVED\SECONDARY\AXIAL\CT_SOM7 VPCT\{what}" for what in ("AVG", "BF", "MIP")],
    "PERFUSION": [r"ORIGINAL\PRIMARY\PERFUSION\NONE", r"DERIVED\PRIMARY\PERFUSION\QUANTITY"],  # PS3.3
    "DYNAMIC": [r"ORIGINAL\PRIMARY\DYNAMIC\NONE"],  # PS3.3
    "DOSE_INFO": [r"DERIVED\SECONDARY\DOSE_INFO"],  # Neusoft: archive
    "3DANGIO": [r"DERIVED\SECONDARY\AXIAL\3DANGIO\SUB"],  # a Siemens angiography suite: archive
    "FUSION": [r"DERIVED\SECONDARY\AXIAL\MPR FUSION"],  # syngo.via: archive
    "SUBTRACTION": [r"DERIVED\PRIMARY\VOLUME\SUBTRACTION"],  # of bone, or of the native scan: PS3.3
    "MASKED": [r"DERIVED\PRIMARY\VOLUME\MASKED"],
    "STD_DEVIATION": [r"DERIVED\PRIMARY\VOLUME\STD_DEVIATION"],
    "VMI": [r"DERIVED\PRIMARY\AXIAL\VMI"],  # this and the following, of multi-energy CT: PS3.3
    "MAT_SPECIFIC": [r"DERIVED\PRIMARY\AXIAL\MAT_SPECIFIC"],  # iodine, calcium
    "MAT_REMOVED": [r"DERIVED\PRIMARY\AXIAL\MAT_REMOVED"],  # virtual non-contrast
    "MAT_MODIFIED": [r"DERIVED\PRIMARY\AXIAL\MAT_MODIFIED"],
    "MAT_FRACTIONAL": [r"DERIVED\PRIMARY\AXIAL\MAT_FRACTIONAL"],
    "MAT_VALUE_BASED": [r"DERIVED\PRIMARY\AXIAL\MAT_VALUE_BASED"],
    "EFF_ATOMIC_NUM": [r"ORIGINAL\PRIMARY\AXIAL\EFF_ATOMIC_NUM"],
    "ELECTRON_DENSITY": [r"DERIVED\PRIMARY\AXIAL\ELECTRON_DENSITY"],
    # This and the next were not met in that place; they are what everybody calls such pictures.
    "IODINE": [r"DERIVED\SECONDARY\AXIAL\IODINE MAP"],
    "VNC": [r"DERIVED\SECONDARY\AXIAL\VNC"],
}


@pytest.mark.parametrize("image_type", LOOKED_AT)
def test_an_image_type_of_slices_is_looked_at(image_type: str) -> None:
    assert why(ImageType=image_type.split("\\")) is None


@pytest.mark.parametrize(("word", "image_type"), [(word, each) for word, of in NEVER.items() for each in of])
def test_an_image_type_of_anything_else_is_not(word: str, image_type: str) -> None:
    assert why(ImageType=image_type.split("\\")) == f"Image Type says {word}"


CALCULATED = {
    "VMI": [
        *("MonoE 40keV[HU]", "Monoenergetic Plus 40 keV", "VMI 70", "GSI MONO_E 65", "Monochromatic 50keV"),
        *("VMI_70", "Head_40_keV", "MonoE40"),
    ],
    "IODINE": ["Iodine no Water[mg/ml*]", "IODINE DENSITY", "DE_Head iodine overlay", "DE_IODINE"],
    "VNC": ["VNC[HU*]", "Virtual Non-Contrast", "DE_Head VNC 5.0", "DE_VNC_5.0"],
    "EFF_ATOMIC_NUM": ["Z Effective[]", "Z-eff", "DE_ZEFF"],
    "ELECTRON_DENSITY": ["Electron Density[%EDW]"],
    "PERFUSION": ["Neuro CBF", "RAPID Tmax", "MTT 5.0", "RAPID_TMAX_MAP", "CBF_5.0"],
}


@pytest.mark.parametrize(("term", "description"), [(term, each) for term, of in CALCULATED.items() for each in of])
def test_a_description_of_what_is_calculated_is_taken_at_its_word(term: str, description: str) -> None:
    """Philips writes it there and in the unit alone: spectral; others as a stroke registry and an archive sort them."""
    assert why(SeriesDescription=description) == f"Series Description says {term}"
    assert description not in str(facts(SeriesDescription=description).to_json())


@pytest.mark.parametrize(
    "description",
    [
        *("Head 5.0 H31s", "DE_Head  0.75  Hr32  3  F_0.5", "DE_Head 1.5 Q34s 3 Optimum Contrast#0 (Auto)"),
        *("ROUTINE HEAD WO", "Ax 5mm (send to RAPID)", "Head for CTA/perfusion", "Sch\u00e4del nativ", "monitoring"),
        *("NCCT in CTP protocol", "Kopf Mono", "monocyte", "120 kV", "SBI(C_SC_PE_N_B_U)"),
        *("Kopf mono EKG", "TC CRANEO MONO ENTRADA", "Kopf dynamisch"),
    ],
)
def test_no_other_description_costs_a_series_its_result(description: str) -> None:
    assert why(SeriesDescription=description) is None


@pytest.mark.parametrize("unit", ["HU", "hu", "US", "", None])
def test_values_in_hounsfield_units_are_looked_at(unit: str | None) -> None:
    """And those whose unit nobody names: PS3.3 C.11.1.1.2."""
    assert why(RescaleType=unit) is None


@pytest.mark.parametrize(
    "unit",
    [
        *("HU_MOD", "MGML", "Z_EFF", "ED", "EDW", "PCT"),  # PS3.3: a material taken out, iodine, atoms, electrons
        *("HU*", "mg/ml", "mg/ml*", "%EDW"),  # spectral
    ],
)
def test_values_in_any_other_unit_are_not(unit: str) -> None:
    said = f"Rescale Type says {unit}: not Hounsfield units"
    assert why(RescaleType=unit) == said
    frames = [shared_by_frames("PixelValueTransformationSequence", RescaleType=unit)] * 3
    assert why(RescaleType=None, PerFrameFunctionalGroupsSequence=frames) == said


def test_coloured_pixels_are_no_ct() -> None:
    """Maps of perfusion and fused pictures come as CT images, too."""
    assert why(SamplesPerPixel=3, PhotometricInterpretation="RGB") == "the pixels are coloured"


@pytest.mark.parametrize(
    "agent",
    [
        *("", "NONE", "0", "No", "without", "N.A.", "NA", "n/a", "None given", "0 ml", "0.0", "0ML"),
        *("NON CON", "NONCON", "non-contrast", "W/O", "WO CONTRAST", "NO IV CONTRAST", "No contrast media", "nil"),
        *("ohne KM", "kein Kontrastmittel", "nativ", "Nativ", "sans injection", "sans contraste", "sin contraste"),
        *("senza mdc", "sem contraste", "zonder contrast", "blanco", "bez kontrastu", "geen", "geen contrast", "brak"),
        *("aucun", "ninguno", "nessuno", "nenhum", "uden kontrast", "uten kontrast", "utan kontrast", "ingen"),
        *("None used", "NONE.", "no i.v.", "W/O IV", "NONE\\NONE", "NONE\\"),
    ],
)
def test_no_contrast_is_no_contrast_in_whatever_words(agent: str | None) -> None:
    """Where it is told at all; GE leaves the attribute out."""
    assert why(ContrastBolusAgent=agent) is None


@pytest.mark.parametrize(
    "given",
    [
        *({"ContrastBolusAgent": agent} for agent in ("Omnipaque 350", "APPLIED", "CE", "Yes", "IV", "+C", "mdc")),
        *({"ContrastBolusAgent": agent} for agent in ("non-ionic", "IV.", "NONE\\Omnipaque", "used", "ingenol")),
        {"ContrastBolusAgent": "Gastrografin & Omnipaque"},  # by mouth and by vein: GE
        {"ContrastBolusAgent": "Optiray 320", "ContrastBolusVolume": "0"},
        {"ContrastBolusAgent": "", "ContrastBolusVolume": "80"},
        {"ContrastBolusVolume": "60.0"},
    ],
)
def test_contrast_is_contrast_though_nobody_names_the_agent(given: dict[str, Any]) -> None:
    assert why(**given) == "contrast agent given"


def test_a_volume_of_nothing_is_none() -> None:
    assert why(ContrastBolusVolume="0") is None
    assert why(ContrastBolusAgent="NONE", ContrastBolusVolume="50") is None  # as the protocol had it ready


@pytest.mark.parametrize(
    "body_part",
    [*("HEAD", "BRAIN", "SKULL", "HEADNECK", "Head^Routine", "HEAD_CSPINE", "HEAD AND C-SPINE", "WHOLEBODY", "NECK")],
)
def test_a_body_part_that_may_have_a_head_is_looked_at(body_part: str) -> None:
    assert why(BodyPartExamined=body_part) is None


def at(*places: float, times: int = 1, **values: Any) -> list[ByHeader]:
    """`times` images at each of these places along the body."""
    return [
        ByHeader(facts(ImagePositionPatient=[-40, -40, place], **values), None)
        for _ in range(times)
        for place in places
    ]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (at(*range(0, 40, 5), times=20), "20 images at each of 8 positions: perfusion, not a volume"),
        (at(*range(0, 160, 5), times=19), "19 images at each of 32 positions: perfusion, not a volume"),
        (at(-40, times=14), "all 14 images are at one position: bolus tracking, or their positions are wrong"),
        (at(*range(0, 150, 5), times=5), "5 images at each of 30 positions: perfusion, not a volume"),
        (at(*range(0, 150, 5), times=4), None),  # reconstructions
        (at(*range(0, 150, 5), times=2), None),  # soft and thin in one series, or a repeat for movement
        ([*at(*range(0, 150, 5)), *at(40, times=12)], None),  # and a few images more of one place
        (at(*range(0, 150, 5), times=6, ImageOrientationPatient=None), None),  # where they lie is not known
    ],
)
def test_a_series_that_shows_the_same_places_again_and_again_is_no_volume(
    members: list[ByHeader], said: str | None
) -> None:
    """Stroke protocols bring perfusion and bolus tracking beside the native head, and not all name the contrast."""
    assert judge(members, RULES) == said


def test_a_dose_report_that_comes_as_a_ct_image_is_no_head() -> None:
    """NeuroLogica's mobile head scanner: archive."""
    assert "only 1 slice" in (judge(at(0, ImageType=["ORIGINAL", "PRIMARY", "DOSE"]), RULES) or "")


def test_an_agent_that_some_frames_were_taken_before_is_contrast() -> None:
    agent = Dataset()
    agent.ContrastBolusAgentNumber = 1
    frames = [shared_by_frames("ContrastBolusUsageSequence", ContrastBolusAgentAdministered="NO")] * 3
    assert why(ContrastBolusAgentSequence=[agent], PerFrameFunctionalGroupsSequence=frames) == "contrast agent given"
