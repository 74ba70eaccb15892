"""The sentences: short, exact about images, and never surer than the numbers."""

from __future__ import annotations

import dataclasses

import pytest
from report_cases import ENHANCED_CT, OUTCOMES, SERIES, THRESHOLDS, findings

from dicom_node.report import wording
from dtvit.findings import LOCATIONS, Coverage, Outcome, Region, SliceFinding, conclude

SLICE = findings("absent").slices[5]


def numbered(*numbers: int | None) -> list[SliceFinding]:
    return [
        dataclasses.replace(SLICE, instance_number=n, sop_instance_uid=f"1.2.{i}") for i, n in enumerate(numbers, 1)
    ]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((14,), "14"),
        ((3, 2, 1), "1-3"),
        ((1, 2, 4, 6, 7, 8), "1-2, 4, 6-8"),
        ((5, 5), "5 (2 images)"),
        ((1, 1, 1, 2, 3, 7, 7), "2-3, 1 (3 images), 7 (2 images)"),
        ((5, None, None), f"5, 2 without a number of their own, at {SLICE.position_mm:.1f} mm"),
        ((), ""),
    ],
)
def test_images_are_named_by_their_instance_numbers(numbers: tuple[int | None, ...], said: str) -> None:
    assert wording.labels(numbered(*numbers)) == said


def test_images_without_a_number_are_told_by_where_they_lie() -> None:
    (one,) = numbered(None)
    placed = [dataclasses.replace(one, position_mm=mm) for mm in (15.0, 5.0, 10.0)]
    assert wording.images(placed) == "3 images without a number of their own, at 5.0 to 15.0 mm"
    nowhere = dataclasses.replace(placed[0], position_mm=None)
    assert wording.labels([*placed, nowhere]) == "4 without a number of their own"


def test_frames_are_named_as_frames() -> None:
    frames = [dataclasses.replace(SLICE, sop_class_uid=ENHANCED_CT, frame=f) for f in (4, 5, 6, 9)]
    number = SLICE.instance_number
    assert wording.images(frames) == f"frames 4-6, 9 of image {number}"
    assert wording.images(frames[:1]) == f"frame 4 of image {number}"
    other = dataclasses.replace(frames[0], sop_instance_uid="1.2.99", instance_number=2, frame=1)
    assert wording.images([*frames, other]) == f"frames 4-6, 9 of image {number}, frame 1 of image 2"
    assert wording.label(frames[0]) == f"{SLICE.instance_number}/4"


@pytest.mark.parametrize(
    ("probability", "said"),
    [(0.0, "under 1 %"), (0.004, "under 1 %"), (0.034, "3 %"), (0.5, "50 %"), (0.994, "over 99 %"), (1.0, "over 99 %")],
)
def test_an_output_is_never_said_to_be_certain(probability: float, said: str) -> None:
    assert wording.percent(probability) == said


def test_whatever_is_said_is_said_in_plain_ascii() -> None:
    assert wording.plain("M\u00fcller\u2019s na\u00efve \u5c71\r\nnext\x00\tline") == "Muller?s naive ?\r\nnext  line"


def test_an_image_without_a_number_is_told_by_its_position() -> None:
    assert wording.label(dataclasses.replace(SLICE, instance_number=None, position_mm=-12.25)) == "at -12.2 mm"
    assert wording.label(dataclasses.replace(SLICE, instance_number=None, position_mm=None)) == "?"


def test_as_many_reasons_as_images_are_not_listed() -> None:
    found = findings("deep")
    unread = dataclasses.replace(SLICE, outcome=Outcome.NOT_EVALUATED, presence=None, location=None, left_out="")
    slices = [
        dataclasses.replace(unread, region=Region.UNKNOWN, left_out=f"short by {i}") if s.evaluated and i % 2 else s
        for i, s in enumerate([*found.slices] * 4)
    ]
    said = wording.counts(dataclasses.replace(found, slices=tuple(slices)))
    assert "(each for the reason given with it)" in said
    assert "short by" not in said
    assert "(below the brain)" in said


@pytest.mark.parametrize("kind", OUTCOMES)
def test_the_answer_is_in_the_first_line_and_in_what_a_list_shows(kind: str) -> None:
    found = findings(kind)
    first = wording.conclusion(found)[0]
    word = found.outcome.value.upper()
    assert word in first
    assert word in wording.series_description(found)[:22]
    assert all(o.value.upper() not in first for o in Outcome if o is not found.outcome)
    assert len(wording.series_description(found)) <= 64
    assert all(line.isascii() and line.endswith(".") for line in wording.conclusion(found))


def test_what_the_findings_say_already_is_not_said_twice() -> None:
    gap = findings("gap")
    said = wording.standing(gap, run=1, replaces=False, partial_because=gap.reasons[0])
    assert said == ()
    said = wording.standing(gap, run=3, replaces=True, partial_because="fewer images arrived than were announced.")
    assert said == (
        "Version 3, replaces the earlier report of this series",
        "Partial report: fewer images arrived than were announced",
    )


def test_gaps_in_the_brain_are_named_before_slices_left_out_on_purpose() -> None:
    said = wording.counts(findings("gap"))
    assert said.index("7 (the pixel data could not be decoded)") < said.index("1-2 (below the brain)")


def test_present_with_missing_slices_says_what_limits_it() -> None:
    found = findings("deep")
    limited = conclude(
        found.slices, Coverage(False, 40.0, True, False, ("the vertex is not in the series",)), THRESHOLDS
    )
    assert limited.outcome is Outcome.PRESENT
    assert "Limits: the vertex is not in the series." in wording.conclusion(limited)


LOSSY = "12 of 12 images were lossily compressed (ratio 8)"


@pytest.mark.parametrize("kind", ["deep", "absent", "undetermined", "gap"])
def test_what_limits_whatever_the_answer_is_stands_in_a_line_of_its_own(kind: str) -> None:
    found = findings(kind)
    said = wording.conclusion(dataclasses.replace(found, limits=(LOSSY,)))
    assert f"Limits: {LOSSY}." in said
    assert [line for line in said if line != f"Limits: {LOSSY}."] == list(wording.conclusion(found))


def test_what_limits_an_answer_of_present_is_told_together() -> None:
    limited = dataclasses.replace(findings("deep"), reasons=("the vertex is not in the series",), limits=(LOSSY,))
    assert f"Limits: the vertex is not in the series; {LOSSY}." in wording.conclusion(limited)


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ({1: 8.0, 2: 12.5, 3: None}, "3 of 12 images were lossily compressed (ratio 8 to 12.5)"),
        ({1: 10.0, 2: 10.01}, "2 of 12 images were lossily compressed (ratio 10)"),
        ({1: None}, "1 of 12 images was lossily compressed"),
        ({99: 10.0}, None),
        ({}, None),
    ],
)
def test_how_many_images_were_compressed_and_how_much(ratios: dict[int, float | None], said: str | None) -> None:
    given = {f"{SERIES}.{number}": ratio for number, ratio in ratios.items()}
    assert wording.lossy(findings("absent"), given) == (() if said is None else (said,))


@pytest.mark.parametrize(
    ("ages", "told"),
    [([17, None], True), ([0, 0], True), ([18], False), ([17, 18], False), ([None], False), ([], False)],
)
def test_a_child_is_one_by_every_age_that_is_known(ages: list[int | None], told: bool) -> None:
    assert bool(wording.child(findings("deep"), ages)) is told


def test_nothing_limits_what_was_not_looked_at() -> None:
    assert wording.lossy(findings("not evaluated"), {f"{SERIES}.1": 10.0}) == ()
    assert wording.child(findings("not evaluated"), [3]) == ()


def test_no_image_illustrates_what_was_not_found() -> None:
    assert wording.best(findings("absent")) == ()
    assert wording.best(findings("gap")) == ()
    assert wording.best(findings("not evaluated")) == ()
    assert [s.outcome for s in wording.best(findings("deep"))] == [Outcome.PRESENT] * 3
    assert wording.best(findings("undetermined"))


def test_several_locations_are_told_by_their_images() -> None:
    said = wording.conclusion(findings("mixed"))
    assert "More than one location, image by image: deep in image 7; lobar in image 8; subtentorial in image 6." in said
    assert not any("More than one" in line for line in wording.conclusion(findings("lobar")))


@pytest.mark.parametrize(
    ("places", "said"),
    [
        (("deep", "deep", "deep", "lobar"), "PRESENT, DEEP."),  # one image is noise
        (("deep", "deep", "deep", "lobar", "lobar"), "PRESENT, DEEP, ALSO LOBAR."),
        (("subtentorial", "subtentorial", "subtentorial", "lobar", "lobar", "deep", "deep"), "ALSO DEEP AND LOBAR."),
    ],
)
def test_the_answer_names_a_second_place_that_is_seen_in_two_images(places: tuple[str, ...], said: str) -> None:
    found = findings("deep")
    like = found.positive[0]
    bleeds = [
        dataclasses.replace(
            like, instance_number=n, location=tuple(0.8 if name == place else 0.1 for name in LOCATIONS)
        )
        for n, place in enumerate(places)
    ]
    found = dataclasses.replace(found, slices=tuple(bleeds), location=places[0])
    assert wording.conclusion(found)[0].endswith(said)
    assert said.lower().removeprefix("present, ").rstrip(".") in wording.in_short(found)
