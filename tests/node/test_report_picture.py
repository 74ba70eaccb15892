"""The summary picture: every outcome can be told from it, whatever the pictures and reasons look like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from report_cases import NOTICE, OUTCOMES, THRESHOLDS, findings

from dicom_node.report import picture, strip
from dicom_node.report.context import UnusableFindings
from dicom_node.report.page import GROUND, MARGIN, PANEL, TALLEST
from dicom_node.report.picture import Shown
from dicom_node.report.wording import COLOURS
from dtvit.findings import Outcome, SeriesFindings

GREY = Shown(np.full((64, 64), 40.0, dtype=np.float32))


def draw(found: SeriesFindings, **given: object) -> Image.Image:
    arguments = {"algorithm": "dtvit 0.1.0", "notice": NOTICE, "thresholds": THRESHOLDS, **given}
    return picture.compose(found, arguments.pop("pictures", every(found, GREY)), **arguments)  # type: ignore[arg-type]


def every(found: SeriesFindings, one: Shown) -> dict[int, Shown]:
    return dict.fromkeys(picture.to_show(found), one)


def share_of(image: Image.Image, colour: tuple[int, int, int]) -> float:
    return float((np.asarray(image) == colour).all(axis=-1).mean())


@pytest.mark.parametrize("kind", OUTCOMES)
def test_the_colour_of_the_answer_is_seen_in_a_thumbnail(kind: str) -> None:
    found = findings(kind)
    page = draw(found)
    assert page.width == 1024
    top = np.asarray(page.resize((128, 128 * page.height // page.width)))[2].astype(int)
    wanted = COLOURS[found.outcome]
    others = [c for o, c in COLOURS.items() if o is not found.outcome]
    distance = [float(np.abs(np.median(top, axis=0) - c).sum()) for c in (wanted, *others)]
    assert distance[0] == min(distance)


@pytest.mark.parametrize("kind", OUTCOMES)
def test_no_word_of_the_answer_lies_where_a_viewer_has_its_player(kind: str) -> None:
    found = findings(kind)
    covered = np.asarray(draw(found))[64:136, 380:642]
    assert (covered == COLOURS[found.outcome]).all()


def test_outcomes_differ_without_colour_too() -> None:
    pages = [np.asarray(draw(findings(kind)).convert("L"))[:200].tobytes() for kind in OUTCOMES]
    absent, undetermined = pages[OUTCOMES.index("absent")], pages[OUTCOMES.index("undetermined")]
    assert len({*pages[:3], absent, undetermined, pages[OUTCOMES.index("not evaluated")]}) == 6


def test_the_strip_shows_every_slice_and_hatches_those_left_out() -> None:
    hatched = strip.HATCHED
    some, all_out = draw(findings("deep")), draw(findings("not evaluated"))
    assert 0 < share_of(some, hatched) < share_of(all_out, hatched)
    present = COLOURS[Outcome.PRESENT]
    below = np.asarray(draw(findings("absent")))[150:]
    assert not (below == present).all(axis=-1).any(), "a picture of an absent hemorrhage shows nothing in its colour"


def test_slices_with_the_highest_output_are_shown_highest_first_in_the_brain_window() -> None:
    found = findings("deep")
    outputs = [found.slices[i].presence for i in picture.to_show(found)]
    assert outputs == sorted((s.presence for s in found.evaluated), reverse=True)[: picture.COLUMNS]
    page = draw(found)
    assert share_of(page, (128, 128, 128)) > 0.2, "40 HU is the middle of 0..80"
    black = draw(found, pictures=every(found, Shown(np.full((64, 32), -1000.0))))
    assert share_of(black, (0, 0, 0)) > 0.2


def test_a_later_version_says_so_on_top() -> None:
    first, second = (np.asarray(draw(findings("absent"), run=run, replaces=run > 1)) for run in (1, 2))
    assert (first[:40] != second[:40]).any()
    assert len(second) > len(first), "a line says that it replaces the earlier result"


@pytest.mark.parametrize("named", [{"instance_number": None}, {"instance_number": 2147483647, "frame": 1025}])
@pytest.mark.parametrize("kind", ["deep", "undetermined"])
def test_what_is_said_of_one_slice_never_runs_into_the_next(kind: str, named: dict[str, int | None]) -> None:
    found = findings(kind)
    slices = tuple(replace(s, position_mm=-200.5, **named) for s in found.slices)  # type: ignore[arg-type]
    page = np.asarray(draw(replace(found, slices=slices)))
    is_bar = (page[:, MARGIN] == COLOURS[found.outcome]).all(axis=-1) & (page[:, 0] == GROUND).all(axis=-1)
    caption = page[is_bar.argmax() - 30 : is_bar.argmax()]
    assert (caption[:, MARGIN : MARGIN + picture.SIDE] != GROUND).any()
    for column in range(picture.COLUMNS):
        end = MARGIN + column * (picture.SIDE + picture.GAP) + picture.SIDE
        assert (caption[:, end + 2 : end + picture.GAP] == GROUND).all()


def test_a_missing_picture_leaves_a_place() -> None:
    assert share_of(draw(findings("deep"), pictures={}), PANEL) > 0.2


def test_relevance_stands_beside_the_slice_and_never_over_it() -> None:
    found = findings("deep")
    without = draw(found)
    with_maps = draw(found, pictures=every(found, replace(GREY, relevance=np.eye(8))))
    assert with_maps.height > without.height + 200
    assert share_of(with_maps, (128, 128, 128)) * with_maps.height == pytest.approx(
        share_of(without, (128, 128, 128)) * without.height, rel=0.02
    )
    assert share_of(with_maps, (38, 38, 38)) > 0.1, "below, the map lies over the slice darkened"


SUPINE, PRONE, MIRRORED = (1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), (-1, 0, 0, 0, 1, 0)
TILTED, SAGITTAL = (1, 0, 0, 0, 0.94, -0.34), (0, 1, 0, 0, 0, -1)


@pytest.mark.parametrize(
    ("orientation", "right", "bottom"),
    [(SUPINE, "L", "P"), (TILTED, "L", "P"), (PRONE, "R", "A"), (MIRRORED, "R", "P"), (SAGITTAL, "P", "F")],
)
def test_the_edges_are_named_as_the_standard_names_them(
    orientation: tuple[float, ...], right: str, bottom: str
) -> None:
    assert picture.edge(orientation[:3]) == right
    assert picture.edge(orientation[3:]) == bottom


def test_left_and_right_are_marked_in_every_slice_shown() -> None:
    """A mirrored picture, or one of a prone patient, looks like any other."""
    found = findings("deep")

    def page(orientation: tuple[float, ...] | None) -> bytes:
        return draw(found, pictures=every(found, replace(GREY, orientation=orientation))).tobytes()

    assert len({page(one) for one in (SUPINE, PRONE, MIRRORED, None)}) == 4


@pytest.mark.parametrize(
    ("orientation", "left", "right", "top"),
    [(SUPINE, "R", "L", "A"), (PRONE, "L", "R", "P"), (MIRRORED, "L", "R", "A")],
)
def test_each_letter_stands_at_the_edge_that_it_names(
    orientation: tuple[float, ...], left: str, right: str, top: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, at = findings("deep"), dict[str, tuple[float, float]]()
    first = picture.to_show(found)[0]
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _, xy, text, **__: at.setdefault(text, xy))
    draw(found, pictures={first: replace(GREY, orientation=orientation)})
    assert at[left][0] + 250 < at[right][0]
    assert at[top][1] + 100 < at[left][1] == at[right][1]
    assert at[left][0] < at[top][0] < at[right][0]


def test_a_slice_is_shown_the_way_round_that_its_rows_and_columns_have() -> None:
    found = findings("deep")
    hu = np.full((64, 64), 20.0, dtype=np.float32)
    hu[:32, :16] = 80.0  # the upper left, taller than wide
    page = np.asarray(draw(found, pictures={picture.to_show(found)[0]: Shown(hu)}))
    rows, columns = np.nonzero((page == 255).all(axis=-1))
    shade = np.nonzero((page == 64).all(axis=-1))
    assert (rows.min(), columns.min()) == (shade[0].min(), MARGIN)
    assert np.ptp(rows) > 1.8 * np.ptp(columns)
    assert shade[1].max() > columns.max() + 200


def test_what_the_word_of_the_answer_leaves_open_stands_under_it() -> None:
    for kind in ("deep", "undetermined", "not evaluated"):
        banner = np.asarray(draw(findings(kind)))[140:190, :600]
        assert (banner == GROUND).all(axis=-1).any(), f"a line under the answer {kind}"


def test_long_reasons_and_thousands_of_slices_still_fit() -> None:
    found = findings("gap", 40)
    slices = tuple(replace(s, instance_number=1000 + i) for i, s in enumerate(found.slices * 50))
    long = replace(found, slices=slices, reasons=tuple(f"reason {i} " + "word " * 30 for i in range(8)))
    page = draw(long)
    assert page.height < TALLEST
    assert share_of(page, picture.WARNING) > 0, "the notice is still on the page"


def test_a_number_that_is_no_probability_draws_nothing() -> None:
    with pytest.raises(UnusableFindings):
        draw(replace(findings("deep"), presence=float("nan")))
