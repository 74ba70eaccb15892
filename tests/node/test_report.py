"""The Structured Report: what it says for every outcome, and that others' software finds it valid."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dciodvfy
import pytest
from click.testing import CliRunner, Result
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from report_cases import CT, DOUBT, ENHANCED_CT, NOTICE, OUTCOMES, SERIES, STUDY, context, findings, headers
from rich.console import Console
from rich.text import Text

from dicom_node.cli import main
from dicom_node.report import codes, provenance, readback, screen, sr, text
from dicom_node.report.context import Algorithm, Reference, UnusableFindings
from dtvit.findings import LOCATIONS, Outcome, SeriesFindings

DSRDUMP = shutil.which("dsrdump")
PARTIAL = {"whole": False, "partial_because": "slices stopped arriving in the middle of the brain"}
SUPERSEDING = {"run": 2, "predecessors": (Reference(STUDY, "2.25.301", sr.SR_CLASSES[0], "2.25.300"),)}


def items(ds: Dataset) -> Iterator[Dataset]:
    for item in ds.get("ContentSequence") or []:
        yield item
        yield from items(item)


def name(item: Dataset) -> tuple[str, str]:
    code = item.ConceptNameCodeSequence[0]
    return code.CodeValue, code.CodingSchemeDesignator


def referenced(ds: Dataset) -> set[str]:
    return {str(i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for i in items(ds) if i.ValueType == "IMAGE"}


def in_evidence(ds: Dataset) -> list[str]:
    return [
        str(sop.ReferencedSOPInstanceUID)
        for study in ds.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for sop in series.ReferencedSOPSequence
    ]


@pytest.fixture(params=[*OUTCOMES, "partial", "superseding", "AIR title"])
def report(request: pytest.FixtureRequest) -> Dataset:
    """A report as it was written and read again, for every outcome and every kind of circumstance."""
    kind = request.param
    given = {
        "partial": (findings("gap"), context(**PARTIAL)),
        "superseding": (findings("lobar"), context(**SUPERSEDING)),
        "AIR title": (findings("absent"), context(title="imaging-measurement-report")),
    }
    what, who = given[kind] if kind in given else (findings(kind), context())
    return dcmread(io.BytesIO(provenance.to_bytes(sr.build(headers(), what, who))))


@dciodvfy.needed
def test_every_report_passes_dciodvfy_without_an_error_in_each_sr_class(report: Dataset, tmp_path: Path) -> None:
    kinds = ("Comprehensive3DSR", "ComprehensiveSR", "EnhancedSR")
    for sop_class, kind in zip(sr.SR_CLASSES, kinds, strict=True):
        file = tmp_path / f"{sop_class}.dcm"
        file.write_bytes(provenance.to_bytes(sr.as_sop_class(report, sop_class, "2.25.7", "2.25.8")))
        assert dciodvfy.errors(file, kind) == []


@dciodvfy.needed
@pytest.mark.parametrize("kind", OUTCOMES)
def test_every_outcome_passes_dciodvfy_under_the_title_of_air_too(kind: str, tmp_path: Path) -> None:
    circumstances = {"title": "imaging-measurement-report", **PARTIAL, **SUPERSEDING}
    file = tmp_path / "report.dcm"
    file.write_bytes(provenance.to_bytes(sr.build(headers(), findings(kind), context(**circumstances))))
    assert dciodvfy.errors(file, "Comprehensive3DSR") == []


@pytest.mark.peer
@pytest.mark.skipif(DSRDUMP is None, reason="dsrdump (DCMTK) is not installed")
def test_every_report_is_read_by_dcmtk(report: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "report.dcm"
    file.write_bytes(provenance.to_bytes(report))
    done = subprocess.run([str(DSRDUMP), str(file)], capture_output=True, text=True, timeout=60)
    said = (done.stdout + done.stderr).splitlines()
    assert any(said)
    assert [line for line in said if line.startswith(("E:", "F:"))] == []


def test_every_report_is_read_again_by_highdicom(report: Dataset) -> None:
    from highdicom.sr import Comprehensive3DSR

    groups = Comprehensive3DSR.from_dataset(report).content.get_image_measurement_groups()
    assert len(groups) == 1 + len(headers())


def test_a_reader_of_the_template_finds_the_image_of_each_group() -> None:
    from highdicom.sr import srread

    built = sr.build(headers(), findings("deep"), context())
    whole, *groups = srread(io.BytesIO(provenance.to_bytes(built))).content.get_image_measurement_groups()
    assert whole.source_images == []
    assert [[i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in g.source_images] for g in groups] == [
        [ds.SOPInstanceUID] for ds in headers()
    ]


def test_a_report_that_named_the_image_of_each_group_as_source_of_a_document_is_read_like_any_other() -> None:
    """As all did before: they lie in PACS and spool, and `report show` reads them."""
    built = sr.build(headers(), findings("deep"), context())
    older = deepcopy(built)
    for item in items(older):
        if name(item) == codes.SOURCE_IMAGE.key:
            item.ConceptNameCodeSequence[0].CodeValue = codes.SOURCE_OF_DOCUMENT.value
    assert readback.parse(older) == readback.parse(built)
    assert text.render(older) == text.render(built)


def test_every_report_is_fit_for_viewers(report: Dataset) -> None:
    containers = [report, *(i for i in items(report) if i.ValueType == "CONTAINER")]
    assert {c.ContinuityOfContent for c in containers} == {"SEPARATE"}
    assert all(name(item) for item in items(report)), "an item without a name crashes OHIF"
    assert {name(c) for c in containers[1:]} <= {codes.IMAGING_MEASUREMENTS.key, codes.MEASUREMENT_GROUP.key}
    numbers = [i for i in items(report) if i.ValueType == "NUM"]
    units = {i.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue for i in numbers}
    assert units <= {"%", "{images}"}
    assert report.SeriesDescription.startswith(("AI: ", "AI v2: "))


def test_every_report_lists_every_image_once_and_refers_to_no_other(report: Dataset) -> None:
    expected = {str(ds.SOPInstanceUID) for ds in headers()}
    assert sorted(in_evidence(report)) == sorted(expected)
    assert referenced(report) <= expected
    assert {s.sop_instance_uid for s in readback.parse(report).slices} == expected


def test_every_report_declares_its_own_scheme_and_uses_no_undocumented_code(report: Dataset) -> None:
    assert [i.CodingSchemeDesignator for i in report.CodingSchemeIdentificationSequence] == [codes.SCHEME]
    known = {c.key for c in codes.every()}
    assert {name(i) for i in [report, *items(report)]} <= known
    values = {
        (i.ConceptCodeSequence[0].CodeValue, i.ConceptCodeSequence[0].CodingSchemeDesignator)
        for i in items(report)
        if i.ValueType == "CODE"
    }
    assert values <= known
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"


def test_every_report_has_the_rows_that_its_templates_require(report: Dataset) -> None:
    """TID 1500 and 1501, of which dciodvfy asks for none of these."""
    assert {name(i) for i in report.ContentSequence} >= {
        codes.LANGUAGE.key,
        codes.OBSERVER_TYPE.key,
        codes.PROCEDURE_REPORTED.key,
        codes.IMAGING_MEASUREMENTS.key,
    }
    groups = [i.ContentSequence for i in items(report) if name(i) == codes.MEASUREMENT_GROUP.key]
    tracked = [{name(i)[0]: i.get("UID") for i in group} for group in groups]
    assert all(codes.TRACKING_IDENTIFIER.value in group for group in tracked)
    assert len({group[codes.TRACKING_UID.value] for group in tracked}) == 1 + len(headers())


@pytest.mark.parametrize(("title", "code"), [("viewer", "ICH-REPORT"), ("imaging-measurement-report", "126000")])
def test_a_report_has_the_title_that_was_asked_for(title: str, code: str) -> None:
    assert name(sr.build(headers(), findings("absent"), context(title=title)))[0] == code


def test_the_conclusion_comes_before_every_other_statement(report: Dataset) -> None:
    first = [i for i in items(report) if i.RelationshipType == "CONTAINS" and i.ValueType != "CONTAINER"][:3]
    assert [name(i) for i in first] == [codes.CONCLUSION.key, codes.NOTICE.key, codes.NOT_ASSESSED.key]


@pytest.mark.parametrize("kind", OUTCOMES)
def test_what_is_read_back_is_what_was_found(kind: str) -> None:
    found = findings(kind)
    ds = sr.build(headers(), found, context())
    told = readback.parse(provenance.to_bytes(ds))
    assert told.outcome is found.outcome
    assert told.location == found.location
    assert told.output == (None if found.presence is None else pytest.approx(found.presence, abs=1e-4))
    highest = max((s.presence for s in found.slices if s.presence is not None), default=None)
    assert told.highest_output == (None if highest is None else pytest.approx(highest, abs=1e-4))
    assert (told.images_received, told.images_evaluated, told.images_positive) == (
        len(found.slices),
        len(found.evaluated),
        len(found.positive),
    )
    assert told.reasons == found.reasons
    assert told.notices == (NOTICE,)
    assert (ds.VerificationFlag, ds.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")  # nobody has looked at it
    for was, now in zip(found.slices, told.slices, strict=True):
        assert now.sop_instance_uid == was.sop_instance_uid
        assert now.outcome is was.outcome
        assert now.output == (None if was.presence is None else pytest.approx(was.presence, abs=1e-4))
        assert now.left_out == was.left_out


def test_a_report_on_images_that_were_not_evaluated_counts_none_without_hemorrhage() -> None:
    reports = {kind: sr.build(headers(), findings(kind), context()) for kind in OUTCOMES}
    said = {kind: "Images with hemorrhage" in text.render(ds) for kind, ds in reports.items()}
    assert said == {kind: kind != "not evaluated" for kind in OUTCOMES}


def test_what_limits_whatever_the_answer_is_is_told_as_such_and_changes_nothing() -> None:
    limited = dataclasses.replace(findings("absent"), limits=("12 of 12 images were lossily compressed",))
    ds = sr.build(headers(), limited, context())
    told = readback.parse(provenance.to_bytes(ds))
    assert told.outcome is Outcome.ABSENT
    assert told.reasons == limited.limits
    assert ds.CompletionFlag == "COMPLETE"


@pytest.mark.parametrize(
    ("kind", "presence", "location"),
    [
        *(("deep", "52101004", "DEEP"), ("lobar", "52101004", "LOBAR"), ("subtentorial", "52101004", "SUBTENTORIAL")),
        *(("absent", "272519000", None), ("undetermined", "373068000", None), ("gap", "373068000", None)),
        ("not evaluated", "373121007", None),
    ],
)
def test_other_programs_find_the_answer_under_its_code(kind: str, presence: str, location: str | None) -> None:
    """Written out here: `parse` reads with the same tables as `build` writes, and would take back what they mix up."""
    ds = sr.build(headers(), findings(kind), context())
    whole, *images = (i.ContentSequence for i in items(ds) if name(i) == codes.MEASUREMENT_GROUP.key)
    coded, coded_of = coded_in(whole), [coded_in(group) for group in images]
    assert coded["ICH-PRESENCE"] == presence
    assert coded.get("ICH-LOCATION") == (f"ICH-{location}" if location else None)
    numbers = {name(i)[0]: i.MeasuredValueSequence[0].NumericValue for i in whole if i.ValueType == "NUM"}
    assert [code[:8] for code, share in numbers.items() if share == 80] == ([f"ICH-{location}"[:8]] if location else [])
    below, seventh, above = coded_of[0], coded_of[6], coded_of[11]
    assert seventh.get("ICH-PRESENCE") == (presence if kind not in ("gap", "not evaluated") else None)
    if kind == "gap":
        left_out = [one["EVALUABILITY"] for one in (below, seventh, above)]
        assert left_out == ["OUT-BELOW", "OUT-UNKNOWN", "OUT-ABOVE"]


def coded_in(group: Sequence[Dataset]) -> dict[str, str]:
    return {name(i)[0]: i.ConceptCodeSequence[0].CodeValue for i in group if i.ValueType == "CODE"}


@pytest.mark.parametrize("kind", OUTCOMES)
def test_a_location_is_told_only_where_hemorrhage_is_present(kind: str) -> None:
    told = readback.parse(sr.build(headers(), findings(kind), context()))
    assert (told.location is not None) == (told.outcome is Outcome.PRESENT)
    assert bool(told.location_outputs) == (told.outcome is Outcome.PRESENT)
    for s in told.slices:
        assert (s.location in LOCATIONS and len(s.location_outputs) == 3) == (s.outcome is Outcome.PRESENT)


def test_several_locations_are_told_slice_by_slice() -> None:
    told = readback.parse(sr.build(headers(), findings("mixed"), context()))
    assert {s.location for s in told.slices} - {None} == set(LOCATIONS)


@pytest.mark.parametrize("kind", ["gap", "not evaluated"])
def test_a_slice_left_out_gives_its_reason_and_never_a_presence(kind: str) -> None:
    ds = sr.build(headers(), findings(kind), context())
    groups = [i for i in items(ds) if i.ValueType == "CONTAINER" and name(i) == codes.MEASUREMENT_GROUP.key][1:]
    seen = 0
    for group, slice_ in zip(groups, findings(kind).slices, strict=True):
        told = {name(i) for i in group.ContentSequence}
        if slice_.left_out:
            seen += 1
            assert told.isdisjoint({codes.PRESENCE.key, codes.IMAGE_OUTPUT.key, codes.LOCATION.key})
            assert codes.EVALUABILITY.key in told
        else:
            assert codes.PRESENCE.key in told
    assert seen >= 4
    assert "the pixel data could not be decoded" in readback.parse(ds).left_out


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("4", "9 of 12 images of series 4 evaluated"),
        (" 007 ", "9 of 12 images of series 7 evaluated"),
        ("", "9 of 12 images evaluated"),
        ("two", "9 of 12 images evaluated"),
        (None, "9 of 12 images evaluated"),
    ],
)
def test_the_conclusion_names_the_series_whose_numbers_the_images_have(number: str | None, said: str) -> None:
    """A study has several reconstructions, and image 7 of another one is another place."""
    given = headers()
    for ds in given:
        if number is not None:
            ds.add(DataElement("SeriesNumber", "LO" if number == "two" else "IS", number))
    assert any(
        line.startswith(said) for line in readback.parse(sr.build(given, findings("deep"), context())).conclusion
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("deep", ("PRESENT, DEEP", "images 6-8", "9 of 12 images evaluated")),
        ("absent", ("HEMORRHAGE: ABSENT", "9 of 12 images evaluated")),
        ("undetermined", ("UNDETERMINED", "between the two thresholds")),
        ("gap", ("UNDETERMINED", "image 7 inside the brain was not evaluated", "8 of 12")),
        ("not evaluated", ("NOT EVALUATED", "no statement", "could not be decoded", "0 of 12")),
    ],
)
def test_the_conclusion_says_in_words_what_was_found_where_and_what_was_not_looked_at(
    kind: str, words: tuple[str, ...]
) -> None:
    ds = sr.build(headers(), findings(kind), context())
    conclusion = "\n".join(readback.parse(ds).conclusion)
    assert all(word in conclusion for word in words), conclusion
    assert ("PRESENT" in conclusion) == (kind == "deep")
    assert readback.parse(ds).conclusion[0] in text.render(ds)


def test_a_finding_is_coded_only_where_hemorrhage_is_present() -> None:
    for kind in OUTCOMES:
        found = findings(kind)
        told = {name(i) for i in items(sr.build(headers(), found, context()))}
        assert (codes.FINDING.key in told) == (found.outcome is Outcome.PRESENT)


@pytest.mark.parametrize(
    ("kind", "summary"),
    [
        ("deep", codes.CAD_WITH_FINDINGS),
        ("absent", codes.CAD_WITHOUT_FINDINGS),
        ("not evaluated", codes.CAD_NOTHING_SUCCEEDED),
        ("undetermined", None),
        ("gap", None),
    ],
)
def test_the_summary_in_the_words_of_cad_is_given_where_one_is_true(kind: str, summary: codes.Concept | None) -> None:
    assert summary_of(findings(kind)) == ([] if summary is None else [summary.value])


def test_not_all_succeeded_where_a_positive_series_has_an_image_that_could_not_be_read() -> None:
    found = findings("deep")
    unread = dataclasses.replace(
        found.slices[9], presence=None, location=None, left_out="unreadable", outcome=Outcome.NOT_EVALUATED
    )
    some = dataclasses.replace(found, slices=(*found.slices[:9], unread, *found.slices[10:]))
    assert summary_of(some) == [codes.CAD_PARTLY_WITH_FINDINGS.value]


def summary_of(found: SeriesFindings) -> list[str]:
    told = items(sr.build(headers(), found, context()))
    return [i.ConceptCodeSequence[0].CodeValue for i in told if name(i) == codes.CAD_SUMMARY.key]


def test_a_partial_report_says_why() -> None:
    ds = sr.build(headers(), findings("gap"), context(**PARTIAL))
    assert ds.CompletionFlag == "PARTIAL"
    told = readback.parse(ds)
    assert told.partial_because == PARTIAL["partial_because"]
    assert f"Partial report: {told.partial_because}." in told.conclusion
    assert ds.CompletionFlagDescription == PARTIAL["partial_because"]
    long = context(whole=False, partial_because="Sch\u00e4del\\ fehlt; " + "no vertex " * 9)
    described = str(sr.build(headers(), findings("gap"), long).CompletionFlagDescription)
    assert described.startswith("Schadel/ fehlt; no vertex")
    assert described.endswith(" no ...")
    assert len(described) <= 64
    with pytest.raises(ValueError, match="why it is partial"):
        context(whole=False)


def test_a_superseding_report_names_the_one_it_replaces() -> None:
    ds = sr.build(headers(), findings("lobar"), context(**SUPERSEDING))
    told = readback.parse(ds)
    assert told.predecessor == "2.25.300"
    assert told.conclusion[1].startswith("Version 2, replaces")
    assert ds.SeriesDescription == "AI v2: ICH PRESENT lobar", "a list of series tells the newer from the older"


def test_the_algorithm_is_named_alike_in_the_tree_and_in_the_header() -> None:
    ds = sr.build(headers(), findings("absent"), context())
    equipment = ds.ContributingEquipmentSequence[0]
    told = readback.parse(ds).algorithm
    assert (equipment.ManufacturerModelName, equipment.SoftwareVersions) == (told["name"], told["version"])
    assert equipment.DeviceUID == "2.25.100"
    assert "weights = sha256:" + "ab" * 32 in equipment.ContributionDescription
    assert told["window"] == "0..80 HU"
    accented = Algorithm("dtvit", "1", "project", {"checkpoint": "r\u00e9seau\u2192\x07"})
    ds = sr.build(headers(), findings("absent"), context(algorithm=accented))
    assert ds.ContributingEquipmentSequence[0].ContributionDescription == "checkpoint = reseau? "
    assert readback.parse(ds).algorithm["checkpoint"] == "reseau? "


def test_the_same_input_gives_the_same_bytes_and_images_come_in_any_order() -> None:
    once = provenance.to_bytes(sr.build(headers(), findings("deep"), context()))
    again = provenance.to_bytes(sr.build(headers(), findings("deep"), context()))
    assert once == again
    turned = sr.build(headers()[::-1], findings("deep"), context())
    assert readback.parse(turned).slices == readback.parse(once).slices


def test_frames_of_a_multi_frame_image_are_named_and_listed_once() -> None:
    found = findings("deep")
    uid = f"{SERIES}.1"
    frames = tuple(
        dataclasses.replace(s, sop_class_uid=ENHANCED_CT, sop_instance_uid=uid, instance_number=1, frame=i + 1)
        for i, s in enumerate(found.slices)
    )
    ds = sr.build(headers(1, SOPClassUID=ENHANCED_CT), dataclasses.replace(found, slices=frames), context())
    told = readback.parse(provenance.to_bytes(ds))
    assert [s.frame for s in told.slices] == list(range(1, 13))
    assert "frames 6-8" in " ".join(told.conclusion)
    assert in_evidence(ds) == [uid]


def one_changed(found: SeriesFindings, index: int, **values: Any) -> SeriesFindings:
    """The findings with other values of one slice."""
    slices = list(found.slices)
    slices[index] = dataclasses.replace(slices[index], **values)
    return dataclasses.replace(found, slices=tuple(slices))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, 1.5])
def test_an_output_that_is_no_probability_is_refused(bad: float) -> None:
    found = findings("deep")
    for broken in (
        one_changed(found, 5, presence=bad),
        one_changed(found, 5, location=(0.5, 0.5, bad)),
        dataclasses.replace(found, presence=bad),
        dataclasses.replace(found, location_probabilities=(bad, 0.5, 0.5)),
    ):
        with pytest.raises(UnusableFindings, match="between 0 and 1"):
            sr.build(headers(), broken, context())


@pytest.mark.parametrize("certain", [0.0, 1.0])
def test_an_output_of_which_the_model_is_certain_is_reported(certain: float) -> None:
    told = readback.parse(sr.build(headers(), one_changed(findings("deep"), 5, presence=certain), context()))
    assert told.slices[5].output == certain


CONTRADICTIONS = {
    "an image left out has an output": one_changed(findings("absent"), 0, presence=0.5),
    "an image left out has an outcome": one_changed(findings("absent"), 0, outcome=Outcome.ABSENT),
    "an evaluated image has no output": one_changed(findings("absent"), 5, presence=None),
    "an evaluated image has no outcome": one_changed(findings("absent"), 5, outcome=Outcome.NOT_EVALUATED),
    "a series has an outcome without output": dataclasses.replace(findings("absent"), presence=None),
    "a series not evaluated has an output": dataclasses.replace(findings("not evaluated"), presence=0.5),
    "what is absent has a place": dataclasses.replace(findings("absent"), location="deep"),
    "what is undetermined has a place": dataclasses.replace(findings("undetermined"), location="deep"),
}


@pytest.mark.parametrize("found", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_findings_that_contradict_themselves_are_refused(found: SeriesFindings) -> None:
    with pytest.raises(UnusableFindings):
        sr.build(headers(), found, context())


def test_our_times_stand_in_the_time_zone_of_the_images() -> None:
    ds = sr.build(headers(TimezoneOffsetFromUTC="+0900"), findings("absent"), context())
    assert (ds.ContentDate, ds.ContentTime[:4]) == ("20260302", "0830")
    assert (ds.TimezoneOffsetFromUTC, ds.StudyTime) == ("+0900", "091500")
    without = sr.build(headers(), findings("absent"), context())
    assert "TimezoneOffsetFromUTC" not in without
    assert (without.ContentDate, without.ContentTime[:4]) == ("20260301", "2330")
    with pytest.raises(ValueError, match="time zone"):
        context(content_datetime=datetime(2026, 3, 1, tzinfo=UTC).replace(tzinfo=None))


def test_another_sr_class_is_an_object_of_its_own_with_the_same_content() -> None:
    ds = sr.build(headers(), findings("deep"), context())
    other = sr.as_sop_class(ds, sr.SR_CLASSES[2], "2.25.7", "2.25.8")
    told, before = readback.parse(provenance.to_bytes(other)), readback.parse(ds)
    assert (told.sop_class_uid, told.sop_instance_uid, told.series_instance_uid) == (
        sr.SR_CLASSES[2],
        "2.25.7",
        "2.25.8",
    )
    assert told.slices == before.slices
    assert before.sop_instance_uid == "2.25.200"
    with pytest.raises(ValueError, match="not one of the SR classes"):
        sr.as_sop_class(ds, CT, "2.25.7", "2.25.8")


@pytest.mark.parametrize("what", [b"", b"not DICOM at all", headers()[0]])
def test_what_is_no_report_is_refused(what: bytes | Dataset) -> None:
    with pytest.raises(readback.NotAReport):
        readback.parse(what)


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_report_is_read_or_refused_and_one_cut_short_always_refused() -> None:
    whole = provenance.to_bytes(sr.build(headers(4), findings("absent", 4), context()))
    rng = random.Random(1)
    for _ in range(60):
        with pytest.raises(readback.NotAReport):
            readback.parse(whole[: rng.randrange(len(whole) - 1)])
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        with contextlib.suppress(readback.NotAReport):
            assert readback.parse(bytes(damaged)).images_received == 4


def test_a_report_without_one_of_its_slices_is_refused() -> None:
    ds = sr.build(headers(), findings("absent"), context())
    del ds.ContentSequence[-1].ContentSequence[-1]
    with pytest.raises(readback.NotAReport, match="as many images"):
        readback.parse(ds)


def test_readable_renderings_hold_every_statement_and_escape_what_they_show() -> None:
    ds = sr.build(headers(PatientName="<b>&^X"), findings("gap"), context())
    plain, page = text.render(ds), text.html(ds)
    for word in ("UNDETERMINED", "NOT FOR CLINICAL USE", "Image 7", "could not be decoded", "Does not exclude"):
        assert word in plain
        assert word in page
    assert "<b>&^X" in plain
    assert "<b>&^X" not in page
    assert "&lt;b&gt;&amp;^X" in page
    assert max(map(len, plain.splitlines())) <= text.WIDTH


def on_a_terminal(ds: Dataset) -> str:
    out = io.StringIO()
    screen.show(Console(file=out, force_terminal=True, color_system="truecolor", width=110), ds)
    return Text.from_ansi(out.getvalue()).plain


@pytest.mark.parametrize("kind", OUTCOMES)
def test_a_terminal_shows_all_that_the_plain_text_says(kind: str) -> None:
    ds = sr.build(headers(PatientName="[red]X^[/]"), findings(kind), context())
    shown, told = on_a_terminal(ds), readback.parse(ds)
    words = " ".join(shown.replace("\u2502", " ").split())
    for line in told.conclusion:
        assert line in words
    for s in told.slices:
        assert s.name in shown
    for said in (NOTICE, "[red]X^[/]", "Does not exclude", "sha256", "Series taken as complete because"):
        assert said in words
    assert words.count(told.conclusion[0]) == 1


@pytest.mark.parametrize("ours", [True, False])
def test_no_report_steers_the_terminal_that_shows_it(ours: bool) -> None:
    steering = "Doe\x1b[2J\x9b2J\u202eenaJ"
    ds = sr.build(headers(), findings("deep"), context())
    ds.PatientName = ds.StudyDescription = steering
    conclusion = next(i for i in ds.ContentSequence[-1].ContentSequence[0].ContentSequence if i.ValueType == "TEXT")
    conclusion.TextValue = steering
    if not ours:
        ds.ConceptNameCodeSequence[0].CodeMeaning = steering
        ds.ContentSequence[-1].ConceptNameCodeSequence[0].CodeValue = "1"
    shown = Console(file=io.StringIO(), color_system=None, width=100)
    screen.show(shown, ds)
    for said in (shown.file.getvalue(), text.render(ds)):
        assert "Doe" in said
        assert not set("\x1b\x9b\u202e") & set(said)


def test_a_terminal_shows_the_report_of_others_as_text() -> None:
    ds = sr.build(headers(), findings("absent"), context())
    ds.ContentSequence[-1].ConceptNameCodeSequence[0].CodeValue = "other"
    assert on_a_terminal(ds).split() == text.render(ds).split()


def test_the_command_draws_on_a_terminal_and_prints_plain_lines_elsewhere(tmp_path: Path) -> None:
    ds = sr.build(headers(), findings("deep"), context())
    file, other = tmp_path / "report.dcm", tmp_path / "notes.txt"
    file.write_bytes(provenance.to_bytes(ds))
    other.write_text("no report")

    def show(*arguments: object, **environment: str) -> Result:
        return CliRunner().invoke(main, ["report", "show", *map(str, arguments)], env=environment)

    assert show(file, FORCE_COLOR="").output.strip() == text.render(ds).strip()
    drawn = show(file, FORCE_COLOR="1", COLUMNS="110").output
    assert "\u256d" in drawn
    assert "INTRACEREBRAL HEMORRHAGE: PRESENT, DEEP." in Text.from_ansi(drawn).plain
    assert show(file, "--html", FORCE_COLOR="1").output.startswith("<!doctype html>")
    refused = show(other)
    assert refused.exit_code != 0
    assert "notes.txt" in refused.output
    assert "no such file" in show(tmp_path / "reprot.dcm").output


def test_a_doubt_about_the_head_is_told_with_its_image() -> None:
    ds = sr.build(headers(), findings("absent"), context())
    told = readback.parse(ds)
    assert [s.name for s in told.slices if s.doubts] == ["Image 5"]
    assert told.slices[4].doubts == (DOUBT,)
    line = next(line for line in text.render(ds).splitlines() if "Image 5" in line)
    assert line.endswith(DOUBT)


def test_docs_codes_md_is_current() -> None:
    document = Path(__file__).resolve().parents[2] / "docs" / "codes.md"
    assert document.read_text() == codes.as_markdown(), "run: python -m dicom_node.report.codes > docs/codes.md"


def test_no_code_stands_twice_and_standard_codes_are_what_dicom_says() -> None:
    from pydicom.sr.codedict import codes as dictionary

    concepts = codes.every()
    assert len({c.key for c in concepts}) == len(concepts)
    meanings: dict[tuple[str, str], set[str]] = {}
    for scheme in (dictionary.DCM, dictionary.SCT):
        for keyword in scheme.dir():
            code = getattr(scheme, keyword)
            meanings.setdefault((code.value, code.scheme_designator), set()).add(
                code.meaning.removesuffix(" (attribute)")
            )
    checked = [c for c in concepts if c.scheme in ("DCM", "SCT") and c is not codes.CEREBRAL_HEMORRHAGE]
    assert len(checked) > 25
    for c in checked:
        assert c.meaning in meanings[c.key], f"{c.key} means {meanings[c.key]}"


def test_the_report_package_is_light_to_import() -> None:
    code = "import sys, dicom_node.report.sr, dicom_node.report.text; print('highdicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
