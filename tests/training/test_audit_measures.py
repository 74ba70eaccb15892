"""What an audit counts, on slices whose answers are written down: each figure is the one worked out by hand.

Row 0 of a picture tells in percent what the model says of it (column 0), and what it will say once it is changed
(the columns after it); 255 where it cannot be changed.
"""

import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from audited import quiet
from drawn import labelled
from untrained import metadata

from dtvit.findings import LOCATIONS, Thresholds
from dtvit.inference import Predictions
from dtvit.preprocess import preprocessing
from train.audit import counterfactuals, implants, phantoms, pointing, probes, sheets, stability
from train.audit.figures import Goal, area, gap, mean, patient_area
from train.audit.heads import Pairs
from train.audit.implants import _Implant, _Study
from train.audit.subject import Subject
from train.audit.tissue import Anatomy, dilated
from train.audit.trust import GOOD
from train.errors import UnusableData

SEED = 5
CANNOT = 255
WHOLE = np.ones((256, 256), bool)
BLOOD = np.zeros((256, 256), bool)
BLOOD[100:110, 100:110] = True
AROUND = np.zeros((256, 256), bool)
AROUND[80:130, 80:130] = True
NONE = np.zeros((256, 256), bool)


class Told:
    """Says what is written in the picture; 60 % is its first yes."""

    cut = 0.6

    def presence(self, pictures):
        return pictures[:, 0, 0] / 100

    def predict(self, pictures):
        """The locations in the last columns."""
        return Predictions(self.presence(pictures), pictures[:, 0, -len(LOCATIONS) :] / 100)


def drawn(rows):
    pictures = np.full((len(rows), 256, 256), 100, np.uint8)
    for picture, row in zip(pictures, rows, strict=True):
        picture[0, : len(row)] = row
    return pictures


def slices(rows, presence, patient):
    """`rows`: what is written in each."""
    return labelled(presence, pictures=drawn(rows), patient=patient)


def pairs(rows, healthy, head, kind, volume_ml, density_hu):
    masks = np.repeat(BLOOD[None], len(rows), 0)
    made = (np.array(values, kind) for values, kind in ((volume_ml, np.float32), (density_hu, np.float32)))
    return Pairs(drawn(rows), drawn(healthy), masks, np.array(head, np.int32), np.array(kind, np.int8), *made)


def turned_to(picture, column):
    if picture[0, column] == CANNOT:
        return None
    after = picture.copy()
    after[0, 0] = picture[0, column]
    return after


def by_key(rows):
    return {row.key: row.figure for row in rows}


def same(figure, expected):
    """To the last digit, NaN included: value, interval, slices, patients."""
    told = [(each.value, each.low, each.high, each.slices, each.patients) for each in (figure, expected)]
    assert told[0] == pytest.approx(told[1], nan_ok=True)


def share(said, patients):
    return mean(np.array(said), np.array(patients), SEED)


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    """No figure is read from a plate."""
    for name in ("write", "bars"):
        monkeypatch.setattr(sheets, name, lambda path, *_, **__: path)


# before, then healed and sham of the first healer, then of the second
BLEEDING = [
    (90, 10, 90, 60, 20),  # the sham of the second flips it
    (60, 59, 60, 90, 90),
    (59, 10, 10, 10, 10),  # missed: cannot flip
    (80, 70, CANNOT, 10, 80),
    (95, CANNOT, 95, 20, 95),
]
OF_BLEEDING = [1, 1, 1, 2, 3]
# before, then with blood and with tissue by the first blender, then by the second
NORMAL = [
    (10, 60, 10, 59, 10),
    (70, 90, 90, 90, 90),  # called as it is: cannot flip
    (59, 80, 60, CANNOT, 59),
    (20, 30, CANNOT, 80, 20),
]
OF_NORMAL = [4, 4, 5, 6]


@pytest.fixture
def changed(monkeypatch, tmp_path):
    """The counterfactuals of these slices: by key, donors tried and places of shams, the counts, the section."""
    tried, places = set(), []

    def healer(column):
        def heal(anatomy, mask, _):
            sham = not (mask & BLOOD).any()
            places.extend([mask] if sham else [])
            return turned_to(anatomy.picture, column + sham)

        return heal

    def blender(column):
        return lambda given, recipient, _: turned_to(recipient.picture, column + (not given.bleeds))

    def graft(donor, _mask, _recipient):
        tried.add(int(donor.picture[0, 0]))
        return SimpleNamespace(bleeds=True, mask=BLOOD)

    monkeypatch.setattr(counterfactuals, "HEALERS", {"membrane": healer(1), "patchwork": healer(3)})
    monkeypatch.setattr(counterfactuals, "BLENDERS", {"poisson": blender(1), "opaque": blender(3)})
    monkeypatch.setattr(counterfactuals, "graft", graft)
    monkeypatch.setattr(counterfactuals, "sham", lambda *_: SimpleNamespace(bleeds=False, mask=BLOOD))
    monkeypatch.setattr(counterfactuals, "verdict", lambda anatomy: GOOD if anatomy.blood.any() else "doubted")
    seen = {10: BLOOD, 59: BLOOD, 70: BLOOD}  # a bleed is still seen where the first healer left these
    monkeypatch.setattr(
        counterfactuals, "look", lambda picture: SimpleNamespace(blood=seen.get(int(picture[0, 0]), NONE))
    )
    rows = [*BLEEDING, *NORMAL, (90, 10, 10, 10, 10), (90, 90, 90, 90, 90)]  # a doubtful bleed; a normal without brain
    given = slices(rows, [1] * 5 + [0] * 4 + [1, 0], [*OF_BLEEDING, *OF_NORMAL, 7, 8])
    anatomies = [Anatomy(each, *((AROUND, BLOOD) if n < 5 else (WHOLE, NONE))) for n, each in enumerate(given.pictures)]
    anatomies[-1] = Anatomy(given.pictures[-1], NONE, NONE)
    made = counterfactuals.run(Told(), given, anatomies, 50, SEED, tmp_path, quiet)
    return by_key(made.rows), (tried, places), dict(made.counts), made


def test_only_a_call_that_was_right_can_be_healed_away(changed):
    found, *_ = changed
    same(found["healed.membrane.flipped"], share([True, True, False], [1, 1, 2]))
    same(found["healed.membrane.sham_flipped"], share([False, False, False], [1, 1, 3]))
    same(found["healed.patchwork.flipped"], share([False, False, True, True], [1, 1, 2, 3]))
    same(found["healed.patchwork.sham_flipped"], share([True, False, False, False], [1, 1, 2, 3]))


def test_only_a_normal_that_was_not_called_can_be_flipped_by_a_transplant(changed):
    found, *_ = changed
    same(found["transplanted.poisson.flipped"], share([True, True, False], [4, 5, 6]))
    same(found["transplanted.poisson.sham_flipped"], share([False, True], [4, 5]))
    same(found["transplanted.opaque.flipped"], share([False, True], [4, 6]))
    same(found["transplanted.opaque.sham_flipped"], share([False, False, False], [4, 5, 6]))


def test_the_change_of_a_probability_has_its_sign_and_counts_every_slice(changed):
    found, *_ = changed
    same(found["healed.membrane.change"], share([-0.8, -0.01, -0.49, -0.1], [1, 1, 1, 2]))
    same(found["healed.membrane.sham_change"], share([0, 0, -0.49, 0], [1, 1, 1, 3]))
    same(found["transplanted.opaque.change"], share([0.49, 0.2, 0.6], [4, 4, 6]))
    same(found["transplanted.opaque.sham_change"], share([0, 0.2, 0, 0], OF_NORMAL))


def test_the_healed_are_held_against_the_normals_as_they_are(changed):
    found, *_ = changed
    normals = [0.1, 0.7, 0.59, 0.2]

    def against(scores, patients):
        truth = np.arange(len(scores) + 4) < len(scores)
        return area(np.array([*scores, *normals]), truth, np.array([*patients, *OF_NORMAL]), SEED)

    same(found["healed.membrane.vs_normal_auc"], against([0.1, 0.59, 0.1, 0.7], [1, 1, 1, 2]))
    same(found["healed.patchwork.vs_normal_auc"], against([0.6, 0.9, 0.1, 0.1, 0.2], OF_BLEEDING))
    same(found["untouched.slice_auc"], against([0.9, 0.6, 0.59, 0.8, 0.95], OF_BLEEDING))


def test_what_the_model_says_of_the_slices_as_they_are_stands_beside_the_flips(changed):
    found, *_ = changed
    same(found["untouched.found"], share([True, True, False, True, True], OF_BLEEDING))
    same(found["untouched.false_alarms"], share([False, True, False, False], OF_NORMAL))
    same(found["healed.membrane.still_segmented"], share([True] * 4, [1, 1, 1, 2]))
    same(found["healed.patchwork.still_segmented"], share([False, False, True, True, False], OF_BLEEDING))


def test_only_trusted_bleeds_that_were_called_are_transplanted_and_what_is_left_out_is_counted(changed):
    _, (tried, _), counts, _ = changed
    assert tried <= {90, 60, 80, 95}
    assert counts == {
        "slices with hemorrhage": 6,
        "of these left out: doubted": 1,
        "trusted": 5,
        "of these used": 5,
        "normal slices that show brain, used": 4,
    }


def test_a_sham_heals_a_place_of_the_same_size_well_away_from_the_bleed(changed):
    _, (_, places), *_ = changed
    assert len(places) == 2 * len(BLEEDING)
    for place in places:
        assert place.sum() == BLOOD.sum()
        assert not (place & (dilated(BLOOD, 6) | ~AROUND)).any()


def test_the_goals_are_those_of_the_page(changed):
    *_, section = changed
    goals = {row.key: row.goal for row in section.rows if row.goal}
    flips, shams, healed = Goal(0.8, at_most=False), Goal(0.05, at_most=True), Goal(0.6, at_most=True)
    ways = ("healed.membrane", "healed.patchwork", "transplanted.poisson", "transplanted.opaque")
    assert goals == {
        **{f"{way}.flipped": flips for way in ways},
        **{f"{way}.sham_flipped": shams for way in ways},
        **{f"{way}.vs_normal_auc": healed for way in ways[:2]},
    }
    assert Goal(0.98, at_most=False) == phantoms.GOAL
    assert {name: goal for name, (_, _, goal) in probes.PROBES.items() if goal} == {
        "blanked": Goal(0.6, at_most=True),
        "blanked_noise": Goal(0.6, at_most=True),
    }


def test_a_harmless_change_flips_a_call_in_either_direction(monkeypatch, tmp_path):
    def change(picture, strength, _):
        return turned_to(picture, strength)

    monkeypatch.setattr(stability, "CHANGES", {"made": ("Made", change, (1, 2, 3), ("a", "b", "c"))})
    rows = [(90, 59, 90, 60), (60, 10, 61, 70), (59, 60, 50, 40), (10, 10, 90, 0), (20, 30, 20, 30)]
    ich, patient = [1, 1, 1, 0, 0], [1, 1, 2, 3, 4]
    found = by_key(stability.run(Told(), slices(rows, ich, patient), SEED, tmp_path, quiet).rows)

    before, *after = np.array(rows).T / 100
    flipped = [[1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    truth = np.array(ich) == 1
    same(found["untouched.slice_auc"], area(before, truth, np.array(patient), SEED))
    for step in range(3):
        same(found[f"made.{step + 1}.flipped"], share(np.array(flipped[step]) == 1, patient))
        same(found[f"made.{step + 1}.change"], share(np.abs(after[step] - before), patient))
        same(found[f"made.{step + 1}.slice_auc"], area(after[step], truth, np.array(patient), SEED))


NIL = ([0] * 5, [0] * 5)
# Synthetic bleeds: with blood and without
FOUND = [(60,), (59,), (90,), (40,), (80,), (70,)]
WITHOUT = [(10,), (59,), (60,), (50,), (0,), (70,)]
OF_HEAD, PLACE = [0, 0, 1, 2, 3, 3], [0, 0, 1, 2, 0, 0]
VOLUME, DENSITY = [2, 2.5, 5, 15, 16, 5.5], [55, 56, 65, 70, 40, 66]


@pytest.fixture
def synthetic(tmp_path):
    bleeds = pairs(FOUND, WITHOUT, OF_HEAD, PLACE, VOLUME, DENSITY)
    for row, words in enumerate(([50, 30, 20], [40, 45, 15], [30, 40, 30], [0, 0, 9], [1, 2, 1], [34, 33, 33])):
        bleeds.with_it[row, 0, -3:] = words
    kinds = [0, 0, 0, 1, 1]
    others = pairs([(60,), (59,), (90,), (10,), (60,)], [(60,), (10,), (0,), (0,), (0,)], [7, 7, 8, 7, 8], kinds, *NIL)
    return by_key(phantoms.run(Told(), bleeds, others, 4, SEED, tmp_path).rows)


def told_apart(chosen):
    """The AUC of these slices with their bleed against the same without."""
    scores = [FOUND[i][0] / 100 for i in chosen] + [WITHOUT[i][0] / 100 for i in chosen]
    return area(
        np.array(scores), np.arange(len(scores)) < len(chosen), np.array([OF_HEAD[i] for i in chosen] * 2), SEED
    )


def test_phantoms_are_told_apart_by_the_size_and_density_of_the_bleed(synthetic):
    expected = {
        "auc": range(6),
        "auc_over_5_ml": [3, 4, 5],
        "auc_by_volume.0_to_2_ml": [0],
        "auc_by_volume.2_to_5_ml": [1, 2],
        "auc_by_volume.5_to_15_ml": [3, 5],
        "auc_by_volume.over_15_ml": [4],
        "auc_by_density.0_to_55_HU": [0, 4],
        "auc_by_density.55_to_65_HU": [1, 2],
        "auc_by_density.over_65_HU": [3, 5],
    }
    for key, chosen in expected.items():
        same(synthetic[key], told_apart(list(chosen)))
    same(synthetic["ranked_right"], share([True, False, True, False, True, False], OF_HEAD))


def test_the_location_is_the_likeliest_of_the_three(synthetic):
    right = [True, False, True, True, False, True]
    same(synthetic["location.accuracy"], share(right, OF_HEAD))
    for place, name in enumerate(LOCATIONS):
        own = [i for i in range(6) if PLACE[i] == place]
        same(synthetic[f"location.{name}"], share([right[i] for i in own], [OF_HEAD[i] for i in own]))


def test_a_lookalike_is_counted_by_its_kind_with_it_and_without(synthetic):
    first, second = (each.what.lower().replace(" ", "_") for each in phantoms.DISTRACTORS[:2])
    same(synthetic[f"lookalikes.{first}.false_alarms"], share([True, False, True], [7, 7, 8]))
    same(synthetic[f"lookalikes.{first}.without"], share([True, False, False], [7, 7, 8]))
    same(synthetic[f"lookalikes.{second}.false_alarms"], share([False, True], [7, 8]))
    same(synthetic[f"lookalikes.{second}.without"], share([False, False], [7, 8]))


# Slices implanted into: as they are
AS_THEY_ARE, OF_PATIENT = [(10,), (65,), (20,)], [1, 1, 2]
# (slice, donor, probability with the piece and with its sham by the first blender, by the second)
PUT_IN = [(0, 0, 60, 10, 59, 10), (1, 1, 90, 60, 90, 90), (2, 2, 59, 20, 60, 60), (2, 1, 70, 59, CANNOT, 20)]


@pytest.fixture
def implanted(monkeypatch):
    """What was put in, and the study of it."""

    def blender(column):
        return lambda piece, *_: turned_to(piece, column)

    monkeypatch.setattr(implants, "BLENDERS", {"poisson": blender(1), "opaque": blender(2)})
    given = slices(AS_THEY_ARE, [0, 0, 0], OF_PATIENT)
    anatomies = [Anatomy(each, WHOLE, NONE) for each in given.pictures]
    study = _Study(Told(), given, anatomies, np.array(AS_THEY_ARE)[:, 0] / 100, SEED)
    placed = [
        _Implant(of, donor, *drawn([(0, first, second), (0, sham, other_sham)]))
        for of, donor, first, sham, second, other_sham in PUT_IN
    ]
    return study, placed


def test_an_implant_counts_for_the_patient_it_is_put_into_and_by_the_bleed_it_brings(implanted, tmp_path):
    study, placed = implanted
    donors = pairs([(0,)] * 3, [(0,)] * 3, [0, 1, 2], [2, 0, 1], [2, 15, 3], [60] * 3)
    found = by_key(study.bleeds(placed, donors, tmp_path)[0])

    same(found["bleeds.poisson.called"], share([True, True, False, True], [1, 1, 2, 2]))
    same(found["bleeds.poisson.sham_called"], share([False, True, False, False], [1, 1, 2, 2]))
    same(found["bleeds.opaque.called"], share([False, True, True], [1, 1, 2]))
    same(found["bleeds.opaque.sham_called"], share([False, True, True], [1, 1, 2]))
    scores = np.array([0.6, 0.9, 0.59, 0.7, 0.1, 0.65, 0.2, 0.2])
    same(found["bleeds.poisson.auc"], area(scores, np.arange(8) < 4, np.array([1, 1, 2, 2] * 2), SEED))
    same(found["bleeds.poisson.called_0_to_2_ml"], share([True], [1]))
    same(found["bleeds.poisson.called_2_to_5_ml"], share([False], [2]))
    same(found["bleeds.poisson.called_5_to_15_ml"], share([True, True], [1, 2]))
    assert math.isnan(found["bleeds.poisson.called_over_15_ml"].value)
    same(found[f"bleeds.poisson.called_{LOCATIONS[0]}"], share([True, True], [1, 2]))
    same(found[f"bleeds.poisson.called_{LOCATIONS[1]}"], share([False], [2]))
    same(found[f"bleeds.poisson.called_{LOCATIONS[2]}"], share([True], [1]))


def test_an_implanted_lookalike_is_counted_by_its_kind(implanted, tmp_path):
    study, placed = implanted
    donors = pairs([(0,)] * 3, [(0,)] * 3, [0, 1, 2], [1, 0, 1], [0] * 3, [0] * 3)
    found = by_key(study.others(placed, donors, tmp_path)[0])

    first, second = (each.what.lower().replace(" ", "_") for each in implants.DISTRACTORS[:2])
    same(found[f"lookalikes.{first}.poisson.called"], share([True, True], [1, 2]))
    same(found[f"lookalikes.{second}.poisson.called"], share([True, False], [1, 2]))
    same(found[f"lookalikes.{first}.opaque.called"], share([True], [1]))
    same(found[f"lookalikes.{second}.opaque.called"], share([False, True], [1, 2]))


def test_bleeds_are_implanted_in_slices_without_hemorrhage_each_as_often_as_the_others(monkeypatch, tmp_path):
    """The sham is the same piece of the head before it bled. A slice that bleeds or shows no brain gets none."""
    given = slices([(40,), (60,), (90,), (90,)], [0, 0, 1, 0], [1, 2, 3, 4])
    anatomies = [Anatomy(each, WHOLE, NONE) for each in given.pictures]
    anatomies[3] = Anatomy(given.pictures[3], NONE, NONE)
    donors = pairs([(0, 80), (0, 80)], [(0, 20), (0, 20)], [0, 1], [0, 0], [3, 3], [60, 60])
    nothing = donors.take(np.zeros(2, bool))
    monkeypatch.setattr(implants, "inside_skull", lambda _: WHOLE)
    monkeypatch.setattr(implants, "graft", lambda donor, *_: donor.picture)
    monkeypatch.setattr(
        implants, "BLENDERS", dict.fromkeys(("poisson", "opaque"), lambda piece, *_: turned_to(piece, 1))
    )
    made = implants.run(Told(), given, anatomies, donors, nothing, 5, SEED, tmp_path, quiet)
    found = by_key(made.rows)

    same(found["untouched.false_alarms"], share([False, True], [1, 2]))
    same(found["bleeds.poisson.called"], share([True] * 5, [1, 2, 1, 2, 1]))
    same(found["bleeds.poisson.sham_called"], share([False] * 5, [1, 2, 1, 2, 1]))
    assert dict(made.counts) == {
        "slices without hemorrhage that show brain, used": 2,
        "bleeds that found room": 5,
        "look-alikes that found room": 0,
    }
    with pytest.raises(UnusableData, match="none of the 0 slices without hemorrhage"):
        implants.run(Told(), given.take(np.array([2])), anatomies[2:3], donors, nothing, 5, SEED, tmp_path, quiet)


def test_a_slice_gets_the_bleed_of_the_synthetic_slice_most_like_it_or_none_if_there_is_no_room(monkeypatch, tmp_path):
    """Four slices: bright on the left, again, on the right, and without room."""
    given = slices([(1,)] * 4, [0] * 4, [1, 2, 3, 4])
    donors = pairs([(1, 80), (1, 20)], [(1,)] * 2, [0, 1], [0, 0], [3, 3], [60, 60])
    given.pictures[:2, 1:, :128] = given.pictures[2:, 1:, 128:] = 200
    donors.without[0, 1:, :128] = donors.without[1, 1:, 128:] = 200
    anatomies = [Anatomy(each, WHOLE, NONE) for each in given.pictures]
    monkeypatch.setattr(implants, "inside_skull", lambda _: WHOLE)
    monkeypatch.setattr(
        implants, "graft", lambda donor, _, where: None if where is anatomies[3] else (donor.picture, where)
    )
    monkeypatch.setattr(implants, "BLENDERS", {"poisson": lambda piece, *_: turned_to(piece[0], 1)})
    nothing = donors.take(np.zeros(2, bool))
    made = implants.run(Told(), given, anatomies, donors, nothing, 4, SEED, tmp_path, quiet)

    assert dict(made.counts)["bleeds that found room"] == 3
    same(by_key(made.rows)["bleeds.poisson.called"], share([True, True, False], [1, 2, 3]))


class Points(Told):
    """Its map is bright in one pixel, of which (row, column) is written in the picture, and half as bright in
    another at the bleed's corner."""

    def relevance(self, pictures, masks):
        inputs = pictures.copy()
        inputs[:, 128:] = 0  # the lower half is no head
        maps = np.zeros(pictures.shape, np.float32)
        for each, picture in zip(maps, pictures, strict=True):
            each[picture[0, 1], picture[0, 2]] = 1
            each[100, 100] = 0.5
        return inputs, maps, masks


def test_a_map_that_points_within_a_patch_of_the_bleed_hits_it(monkeypatch, tmp_path):
    """Of the slices that are called, and of patients those that bleed beyond doubt."""
    monkeypatch.setattr(pointing, "verdict", lambda anatomy: GOOD if anatomy.blood.any() else "doubted")
    rows = [(60, 105, 125), (90, 105, 126), (90, 105, 105), (59, 105, 105), (90, 105, 105), (90, 105, 105)]
    given = slices(rows, [1, 1, 1, 1, 0, 1], [1, 1, 2, 2, 3, 4])
    anatomies = [Anatomy(each, WHOLE, BLOOD) for each in given.pictures]
    anatomies[5] = Anatomy(given.pictures[5], WHOLE, NONE)
    bleeds = pairs(
        [(59, 5, 5), (60, 5, 5), (70, 105, 105)], [(90, 105, 105)] * 3, [0, 1, 2], [0] * 3, [9] * 3, [60] * 3
    )
    found = by_key(pointing.run(Points(), given, anatomies, bleeds, 50, SEED, tmp_path, quiet).rows)

    near = int(dilated(BLOOD, 16)[:128].sum())
    same(found["patients.hits"], share([True, False, True], [1, 1, 2]))
    same(found["patients.hits_by_chance"], share([near / (128 * 256)] * 3, [1, 1, 2]))
    same(found["patients.relevance_inside"], share([1 / 3, 1 / 3, 1], [1, 1, 2]))
    same(found["patients.area"], share([100 / (128 * 256)] * 3, [1, 1, 2]))
    same(found["phantoms.hits"], share([False, True], [1, 2]))
    same(found["phantoms.relevance_inside"], share([1 / 3, 1], [1, 2]))


def test_a_probe_is_measured_by_what_the_model_says_of_what_is_left(monkeypatch, tmp_path):
    """A slice without blood of a patient who bleeds is normal as a slice, and bleeding as a patient, even if the one
    with blood shows no brain."""
    goal = Goal(0.6, at_most=True)
    left = {name: (name, lambda each, _, at=at: turned_to(each.picture, at), goal) for at, name in ((1, "a"), (2, "b"))}
    monkeypatch.setattr(probes, "PROBES", left)
    rows = [(99, 99, 99), (90, 60, 10), (80, 10, 20), (70, 59, 30), (60, 80, 60), (50, 20, 40), (10, 30, 59)]
    ich, patient = [1, 1, 0, 0, 0, 1, 0], [2, 1, 1, 2, 3, 4, 4]
    given = slices(rows, ich, patient)
    anatomies = [Anatomy(each, WHOLE, NONE) for each in given.pictures]
    anatomies[0] = Anatomy(given.pictures[0], NONE, NONE)
    made = probes.run(Told(), given, anatomies, SEED, tmp_path, quiet)

    found = by_key(made.rows)
    truth, of, ill = np.array(ich[1:]) == 1, np.array(patient[1:]), np.array([1, 1, 1, 0, 1, 1]) == 1
    for key, scores in zip(("untouched", "a", "b"), np.array(rows[1:]).T / 100, strict=True):
        same(found[f"{key}.slice_auc"], area(scores, truth, of, SEED))
        same(found[f"{key}.patient_auc"], patient_area(scores, ill, of, SEED))
        same(found[f"{key}.gap"], gap(scores, truth, of, SEED))
    same(found["a.called"], share([True, False, False, True, False, False], of))
    same(found["b.called"], share([False, False, False, True, False, False], of))
    assert {row.key for row in made.rows if row.goal} == {
        f"{name}.{key}" for name in "ab" for key in ("slice_auc", "patient_auc")
    }


@pytest.mark.parametrize(
    ("thresholds", "cut"),
    [(Thresholds(0.3, 0.7), 0.5), (Thresholds(0.6, 0.7), 0.6), (Thresholds(0.1, 0.4), 0.4)],
)
def test_a_call_is_even_odds_or_the_nearer_threshold(thresholds, cut):
    made = metadata(slice_thresholds=thresholds, preprocessing=(preprocessing("robust"),))
    assert Subject(SimpleNamespace(checkpoint=SimpleNamespace(metadata=made))).cut == cut


def at_each_strength(name, picture):
    """The picture as each strength leaves it, with four draws of each."""
    _, change, strengths, words = stability.CHANGES[name]
    return [
        (word, change(picture, strength, np.random.default_rng(draw)))
        for strength, word in zip(strengths, words, strict=True)
        for draw in range(4)
    ]


def test_a_change_is_as_strong_as_its_row_says():
    level = np.zeros((256, 256), np.uint8)
    level[60:196, 60:196] = 100
    for word, noisy in at_each_strength("noise", level):
        assert f"{(noisy[level > 0].std() * 80 / 255):.0f} HU" == word
    for word, moved in at_each_strength("shift", level):
        distance = np.hypot(*(np.argwhere(moved).mean(0) - np.argwhere(level).mean(0)))
        assert distance == pytest.approx(float(word.split()[0]), abs=1)
    for word, scaled in at_each_strength("scale", level):
        wider, share = (scaled[128] > 50).sum() / 136, 1 + float(word.split()[0]) / 100
        assert min(abs(wider - share), abs(wider - 1 / share)) < 0.01
    for word, stretched in at_each_strength("window", level):
        hu = int(word.split()[0])
        assert stretched[128, 128] in {
            round(100 * (1 + a * hu / 100) + b * hu * 255 / 80) for a in (1, -1) for b in (1, -1)
        }
    spot = np.zeros((256, 256), np.uint8)
    spot[124:132, 170:178] = 100
    for word, turned in at_each_strength("rotation", spot):
        row, column = np.argwhere(turned > 50).mean(0) - 127.5
        assert abs(np.degrees(np.arctan2(row, column))) == pytest.approx(float(word[:-1]), abs=1)
    corner = np.zeros((256, 256), np.uint8)
    corner[40, 50] = 100
    for word, turned in at_each_strength("flip", corner):
        at = {"left-right": (40, 205), "upside down": (215, 50), "both": (215, 205)}[word]
        assert np.argwhere(turned).tolist() == [[*at]]


def test_a_picture_loses_as_much_as_its_row_says():
    edge = np.full((256, 256), 50, np.uint8)
    edge[:, 128:] = 250
    for word, blurred in at_each_strength("blur", edge):
        slope = np.diff(blurred[128].astype(float)) / 200
        spread = np.sqrt((slope * (np.arange(255) - 127) ** 2).sum())
        assert spread == pytest.approx(float(word.split()[0]), abs=0.1)
    noisy = np.random.default_rng(0).integers(1, 256, (256, 256)).astype(np.uint8)
    for word, coded in at_each_strength("jpeg", noisy):
        _, expected = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, int(word.split()[1])])
        assert (coded == cv2.imdecode(expected, cv2.IMREAD_GRAYSCALE)).all()
    for word, fewer in at_each_strength("resampling", noisy):
        side = round(256 * float(word.split()[0]) / 100)
        small = cv2.resize(noisy, (side, side), interpolation=cv2.INTER_AREA)
        assert fewer.std() == pytest.approx(cv2.resize(small, (256, 256)).std(), rel=0.02)


def test_a_head_that_fits_is_made_larger_as_often_as_smaller_and_one_that_does_not_only_smaller():
    _, scale, strengths, _ = stability.CHANGES["scale"]
    fits, full = (np.pad(np.full((256 - 2 * edge,) * 2, 100, np.uint8), edge) for edge in (60, 18))
    random = np.random.default_rng(0)
    grown, shrunk = (
        {bool((scale(head, strengths[-1], random) > 0).sum() > (head > 0).sum()) for _ in range(20)}
        for head in (fits, full)
    )
    assert grown == {True, False}
    assert shrunk == {False}
