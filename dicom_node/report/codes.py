"""Every coded concept that a report uses, once, with its source. docs/codes.md is this module printed.

    python -m dicom_node.report.codes > docs/codes.md

DICOM, SNOMED CT, LOINC and UCUM are used where they have the term. The rest is the project's own scheme `SCHEME`,
declared in every report (Coding Scheme Identification Sequence, PS3.3 C.12.1). Deliberately not used: (1386000, SCT,
"Intracranial hemorrhage"), which would also claim subdural and subarachnoid blood; (112158, DCM, "Lobar"), a lung term.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from dtvit.findings import LOCATIONS, Outcome, Region

SCHEME = "99DTVIT"
SCHEME_UID = "2.25.158679037713079746844333193633088660627"
SCHEME_NAME = "DTViT intracerebral hemorrhage codes"
SCHEME_OWNER = "dicom-node project"


@dataclass(frozen=True)
class Concept:
    """A code: `value` at most 16 characters, `meaning` at most 64 (Basic Code Sequence Macro, PS3.3 table 8.8-1)."""

    value: str
    scheme: str
    meaning: str
    source: str

    def __post_init__(self) -> None:
        if not 0 < len(self.value) <= 16 or not 0 < len(self.meaning) <= 64:
            raise ValueError(f"a code value has 1 to 16 characters and a meaning 1 to 64: {self.value} {self.meaning}")

    @property
    def key(self) -> tuple[str, str]:
        """What makes two codes the same; the meaning is for people (PS3.16 section 8.3)."""
        return self.value, self.scheme


def _own(value: str, meaning: str, definition: str) -> Concept:
    return Concept(value, SCHEME, meaning, definition)


# --- Document -------------------------------------------------------------------------------------------------------
TITLE_VIEWER = _own(
    "ICH-REPORT",
    "AI report: intracerebral hemorrhage on head CT",
    "Default root title: CID 7021 (20141110) is extensible. Viewers that keep 126000 for drawings show this as text",
)
TITLE_MEASUREMENT_REPORT = Concept("126000", "DCM", "Imaging Measurement Report", "CID 7021; IHE AI Results")
LANGUAGE = Concept("121049", "DCM", "Language of Content Item and Descendants", "TID 1204")
ENGLISH = Concept("en-US", "RFC5646", "English (United States)", "CID 5000")
PROCEDURE_REPORTED = Concept("121058", "DCM", "Procedure reported", "TID 1500")
CT_HEAD = Concept("24725-4", "LN", "CT Head", "LOINC; used where the images carry no procedure code")
IMAGING_MEASUREMENTS = Concept("126010", "DCM", "Imaging Measurements", "TID 1500")
MEASUREMENT_GROUP = Concept("125007", "DCM", "Measurement Group", "TID 1501")
TRACKING_IDENTIFIER = Concept("112039", "DCM", "Tracking Identifier", "TID 1501")
TRACKING_UID = Concept("112040", "DCM", "Tracking Unique Identifier", "TID 1501")
PROCESSING_EQUIPMENT = Concept("109102", "DCM", "Processing Equipment", "CID 7005; Contributing Equipment Sequence")

# --- Observer and algorithm -----------------------------------------------------------------------------------------
OBSERVER_TYPE = Concept("121005", "DCM", "Observer Type", "TID 1002")
DEVICE = Concept("121007", "DCM", "Device", "CID 270")
DEVICE_UID = Concept("121012", "DCM", "Device Observer UID", "TID 1004")
DEVICE_NAME = Concept("121013", "DCM", "Device Observer Name", "TID 1004")
DEVICE_MANUFACTURER = Concept("121014", "DCM", "Device Observer Manufacturer", "TID 1004")
DEVICE_MODEL = Concept("121015", "DCM", "Device Observer Model Name", "TID 1004")
ALGORITHM_NAME = Concept("111001", "DCM", "Algorithm Name", "TID 4019")
ALGORITHM_VERSION = Concept("111003", "DCM", "Algorithm Version", "TID 4019")
ALGORITHM_MANUFACTURER = Concept("122405", "DCM", "Algorithm Manufacturer", "TID 4019")
ALGORITHM_PARAMETERS = Concept("111002", "DCM", "Algorithm Parameters", "TID 4019")

# --- The question and its answers -----------------------------------------------------------------------------------
CONCLUSION = Concept("121077", "DCM", "Conclusion", "CID 7002")
FINDING = Concept("121071", "DCM", "Finding", "TID 1501")
CEREBRAL_HEMORRHAGE = Concept(
    "274100004",
    "SCT",
    "Cerebral hemorrhage",
    "SNOMED CT, International Edition, concept Cerebral hemorrhage (disorder); not in PS3.16",
)
PRESENCE = _own(
    "ICH-PRESENCE",
    "Intracerebral hemorrhage, supra- or infratentorial",
    "The question: is blood seen within the brain itself (cerebrum, cerebellum or brain stem)?",
)
PRESENT = Concept("52101004", "SCT", "Present", "CID 240")
ABSENT = Concept("272519000", "SCT", "Absent", "CID 240")
UNDETERMINED = Concept("373068000", "SCT", "Undetermined", "CID 240")
NOT_EVALUATED = Concept("373121007", "SCT", "Not Evaluated", "CID 3703")
CAD_SUMMARY = Concept("111017", "DCM", "CAD Processing and Findings Summary", "TID 4001")
CAD_WITHOUT_FINDINGS = Concept("111241", "DCM", "All algorithms succeeded; without findings", "CID 6047")
CAD_WITH_FINDINGS = Concept("111242", "DCM", "All algorithms succeeded; with findings", "CID 6047")
CAD_PARTLY_WITH_FINDINGS = Concept(
    "111244",
    "DCM",
    "Not all algorithms succeeded; with findings",
    "CID 6047; an image that may show brain was not evaluated",
)
CAD_NOTHING_SUCCEEDED = Concept("111245", "DCM", "No algorithms succeeded; without findings", "CID 6047")

# --- Location (never without hemorrhage) ----------------------------------------------------------------------------
LOCATION = _own("ICH-LOCATION", "Location of the hemorrhage", "The class with the highest location output")
DEEP = _own("ICH-DEEP", "Deep", "Basal ganglia, thalamus, internal capsule; Fan et al. 2024, section 2.1")
LOBAR = _own("ICH-LOBAR", "Lobar", "Cortex and subcortical white matter of a lobe; Fan et al. 2024, section 2.1")
SUBTENTORIAL = _own("ICH-SUBTENTORIAL", "Subtentorial", "Brain stem or cerebellum; Fan et al. 2024, section 2.1")
DEEP_OUTPUT = _own("ICH-DEEP-OUT", "Location output: deep", "In %; the three location outputs sum to 100 %")
LOBAR_OUTPUT = _own("ICH-LOBAR-OUT", "Location output: lobar", "In %; the three location outputs sum to 100 %")
SUBTENTORIAL_OUTPUT = _own("ICH-SUBTENT-OUT", "Location output: subtentorial", "In %; the three sum to 100 %")

# --- Numbers --------------------------------------------------------------------------------------------------------
SERIES_OUTPUT = _own(
    "ICH-SERIES-OUT", "Output for the series", "In %; the highest mean over neighbouring evaluated images"
)
HIGHEST_OUTPUT = _own("ICH-HIGHEST-OUT", "Highest output of one image", "In %")
IMAGE_OUTPUT = _own("ICH-OUTPUT", "Output for this image", "In %; the network's probability of hemorrhage")
IMAGES_RECEIVED = _own("IMAGES-RECEIVED", "Images received", "Images; each frame of a multi-frame image counts")
IMAGES_EVALUATED = _own("IMAGES-EVALUATED", "Images evaluated", "Images put to the network")
IMAGES_POSITIVE = _own(
    "IMAGES-POSITIVE", "Images with hemorrhage", "Images with the outcome Present; left out if no image was evaluated"
)
PERCENT = Concept("%", "UCUM", "percent", "UCUM")
IMAGES = Concept("{images}", "UCUM", "images", "UCUM annotation, as in PS3.16 section 7.2.2, for counts")

# --- What limits the answer -----------------------------------------------------------------------------------------
REASON = _own("ICH-REASON", "Reason", "Why the answer is not a plain present or absent, or what limits it")
COMPLETION_RULE = _own("COMPLETION-RULE", "Series taken as complete because", "The rule by which the node decided")
PARTIAL_BECAUSE = _own("PARTIAL-BECAUSE", "Partial report because", "Why the series is not known to be whole")
NOT_ASSESSED = _own("NOT-ASSESSED", "Not assessed", "What the algorithm does not look for")
NOTICE = _own("NOTICE", "Notice", "What the reader must know before using the report")
SUPERSEDES = _own("SUPERSEDES", "Replaces", "In words; the reference is in Predecessor Documents Sequence")
BEST_ILLUSTRATION = Concept("121080", "DCM", "Best illustration of finding", "CID 7003")
SOURCE_IMAGE = Concept("121112", "DCM", "Source of Measurement", "CID 7551; TID 1501, row 10")
SOURCE_OF_DOCUMENT = Concept("121324", "DCM", "Source image", "CID 7060; Encapsulated PDF")
SOURCE_FOR_MONTAGE = Concept("121329", "DCM", "Source image for montage", "CID 7202; summary picture")

# --- Key Object Selection -------------------------------------------------------------------------------------------
OF_INTEREST = Concept("113000", "DCM", "Of Interest", "CID 7010")
REJECTED_FOR_QUALITY = Concept("113001", "DCM", "Rejected for Quality Reasons", "CID 7010")
REJECTED_FOR_SAFETY = Concept("113037", "DCM", "Rejected for Patient Safety Reasons", "CID 7010; IHE IOCM")
KEY_OBJECT_DESCRIPTION = Concept("113012", "DCM", "Key Object Description", "TID 2010")

# --- A slice that was not evaluated ---------------------------------------------------------------------------------
EVALUABILITY = _own("EVALUABILITY", "Evaluability", "Instead of presence and output, for an image left out")
EVALUABILITY_REASON = _own("WHY-LEFT-OUT", "Reason not evaluated", "The reason in words")
BRACE_REMOVAL = _own("BRACE-REMOVAL", "Head holder removal", "What was doubtful about finding the head in this image")
OUT_BELOW_BRAIN = _own("OUT-BELOW", "Not evaluated: below the brain", "Neck, face, skull base without brain")
OUT_ABOVE_BRAIN = _own("OUT-ABOVE", "Not evaluated: above the brain", "Vertex: scalp and bone without brain")
OUT_NO_HEAD = _own("OUT-NO-HEAD", "Not evaluated: no head in the image", "Air, or only the head holder")
OUT_BRAIN = _own("OUT-BRAIN", "Not evaluated although the image shows brain", "Leaves a gap in what was looked at")
OUT_UNKNOWN = _own("OUT-UNKNOWN", "Not evaluated: image could not be used", "Not readable or not interpretable")

PRESENCE_ANSWERS = {
    Outcome.PRESENT: PRESENT,
    Outcome.ABSENT: ABSENT,
    Outcome.UNDETERMINED: UNDETERMINED,
    Outcome.NOT_EVALUATED: NOT_EVALUATED,
}
LOCATION_CLASSES = dict(zip(LOCATIONS, (DEEP, LOBAR, SUBTENTORIAL), strict=True))
LOCATION_OUTPUTS = dict(zip(LOCATIONS, (DEEP_OUTPUT, LOBAR_OUTPUT, SUBTENTORIAL_OUTPUT), strict=True))
EVALUABILITIES = {
    Region.BELOW_BRAIN: OUT_BELOW_BRAIN,
    Region.ABOVE_BRAIN: OUT_ABOVE_BRAIN,
    Region.NO_HEAD: OUT_NO_HEAD,
    Region.BRAIN: OUT_BRAIN,
    Region.UNKNOWN: OUT_UNKNOWN,
}


def every() -> tuple[Concept, ...]:
    """All concepts of this module, in the order of their definition."""
    return tuple(value for value in globals().values() if isinstance(value, Concept))


def as_markdown() -> str:
    """docs/codes.md."""
    lines = [
        "# Codes used in reports",
        "",
        "Generated by `python -m dicom_node.report.codes > docs/codes.md`; a test keeps it current.",
        "",
        f"`{SCHEME}` is the project's own scheme ({SCHEME_NAME}, UID {SCHEME_UID}), declared in the Coding Scheme",
        "Identification Sequence of every report. The last column says where a standard code is defined, and what a",
        "code of the project means.",
        "",
        "| code | scheme | meaning | source or definition |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {c.value} | {c.scheme} | {c.meaning} | {c.source} |" for c in every()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
