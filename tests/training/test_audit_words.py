"""The words of an audit follow from its figures by the rules of docs/audit.md; each at the bound where they turn."""

import math

import pytest

from train.audit import phantoms, probes
from train.audit.figures import Figure, Goal, Row, Section
from train.audit.words import paragraph, verdict


def worded(shares, *, gap=0.0, probe=0.5):
    """Sections with the shares of flips of two healers, two blenders, then of their shams; one probe tells apart."""
    names = ("healed.membrane", "healed.patchwork", "transplanted.poisson", "transplanted.opaque")
    goals = [Goal(0.8, at_most=False)] * 4 + [Goal(0.05, at_most=True)] * 4
    keys = [f"{name}.{key}" for key in ("flipped", "sham_flipped") for name in names]
    flips = [said(key, share, goal) for key, share, goal in zip(keys, shares, goals, strict=True)]
    left = [said(f"{name}.slice_auc", 0.5) for name in probes.PROBES if name != "noise"]
    left += [said("noise.slice_auc", probe), said("noise.gap", gap)]
    return [Section("counterfactuals", "", "", tuple(flips)), Section("probes", "", "", tuple(left))]


def said(key, value, goal=None):
    return Row(key, "", Figure(value, value, value, 9, 9), goal)


ALL_MET = "It looks at blood: every goal of the audit is met."
ONE_MISSED = "It looks at blood, but 1 of the audit's goals is missed."
LESS = "Blood moves it, but less or less surely than it should; it uses none of the shortcuts that were tried."
BESIDES = "It looks at blood, and at something that goes with it here: elsewhere it will do worse than here."
SHORTCUT = "It does not go by blood: it tells this data apart by something else, and will not do so elsewhere."
NEITHER = "It goes neither by blood nor by any of the shortcuts that were tried: by something unknown, or by nothing."
UNKNOWN = "Parts of the audit were not run or could not be measured, so there is no verdict on the whole."
STILL = [0.05] * 4
USED = {"gap": 0.05, "probe": 0.61}


@pytest.mark.parametrize(
    ("shares", "probe", "expected"),
    [
        ([0.8] * 4 + STILL, {}, ALL_MET),
        ([0.9, 0.79, 0.9, 0.9, *STILL], {}, LESS),  # the worse of two healers counts
        ([0.9, 0.9, 0.9, 0.79, *STILL], {}, LESS),
        ([0.9, 0.9, 0.9, 0.9, 0, 0, 0, 0.06], {}, LESS),
        ([0.9, 0.9, 0.9, 0.9, 0.06, 0, 0, 0], USED, BESIDES),
        ([0.5, 0.9, 0.1, 0.1, *STILL], {}, LESS),  # either of healing and transplanting is enough
        ([0.1, 0.1, 0.9, 0.5, *STILL], USED, BESIDES),
        ([0.49, 0.9, 0.9, 0.49, *STILL], {}, NEITHER),
        ([0.49, 0.9, 0.9, 0.49, *STILL], USED, SHORTCUT),
        ([0.49, 0.9, 0.9, 0.49, *STILL], {"gap": 0.049, "probe": 0.9}, NEITHER),  # decides too few calls
        ([0.49, 0.9, 0.9, 0.49, *STILL], {"gap": 0.5, "probe": 0.6}, NEITHER),
        ([0.9, 0.9, 0.9, math.nan, *STILL], {}, UNKNOWN),
        ([0.9, 0.9, 0.9, 0.9, 0.05, math.nan, 0, 0], {}, UNKNOWN),
        ([0.9] * 4 + STILL, {"probe": math.nan}, UNKNOWN),
    ],
)
def test_the_verdict_goes_by_the_worse_of_two_ways(shares, probe, expected):
    assert verdict(worded(shares, **probe)) == expected


def test_a_verdict_counts_the_goals_that_are_missed():
    steady = worded([0.9] * 4 + STILL)
    large = Section("phantoms", "", "", (said("auc_over_5_ml", 0.97, phantoms.GOAL),))
    unknown = Section("probes", "", "", (said("more", math.nan, phantoms.GOAL),))
    assert verdict([*steady, large, unknown]) == ONE_MISSED
    shortcut = worded([0.9] * 4 + STILL, **USED)
    assert verdict([*shortcut, large]) == BESIDES


def test_a_goal_that_could_not_be_measured_is_not_counted_as_met():
    """As where six synthetic heads are asked for, and none of their bleeds is over 5 ml."""
    none_large = Section("phantoms", "", "", (said("auc_over_5_ml", math.nan, phantoms.GOAL),))
    told = verdict([*worded([0.9] * 4 + STILL), none_large])
    assert told == "It looks at blood: every goal that could be measured is met; 1 could not."


def test_a_goal_whose_interval_does_not_meet_it_is_told_with_the_verdict():
    row = Row("auc_over_5_ml", "", Figure(0.99, 0.9, 1.0, 9, 9), phantoms.GOAL)
    wide = Section("phantoms", "", "", (row,))
    assert verdict([*worded([0.8] * 4 + STILL), wide]) == f"{ALL_MET[:-1]}, 1 of them not beyond doubt."


@pytest.mark.parametrize(("patients", "told"), [(59, True), (60, False)])
def test_few_patients_are_told_in_the_end(patients, told):
    row = Row("untouched.patient_auc", "", Figure(0.9, 0.8, 1.0, 4 * patients, patients))
    last = paragraph([Section("probes", "", "", (row,))])[-1]
    assert (last == f"All of this rests on {patients} patients, so read the intervals before the sentences.") is told


def sentences(part, **figures):
    return " ".join(paragraph([Section(part, "", "", tuple(said(key, value) for key, value in figures.items()))])[1:])


def test_a_lookalike_is_named_by_what_it_adds_to_the_same_slices_without_it():
    told = sentences(
        "phantoms",
        **{
            "auc_over_5_ml": 0.98,
            "lookalikes.lime.false_alarms": 0.625,
            "lookalikes.lime.without": 0.5,
            "lookalikes.falx.false_alarms": 0.9,
            "lookalikes.falx.without": 0.85,
            "lookalikes.fleck.false_alarms": 0.1,
            "lookalikes.fleck.without": 0,
        },
    )
    assert told.endswith("It takes for blood what is not: lime (+12 %), fleck (+10 %).")
    none = {"auc_over_5_ml": 0.98, "lookalikes.falx.false_alarms": 0.9, "lookalikes.falx.without": 0.85}
    assert sentences("phantoms", **none).endswith("No look-alike adds a tenth or more to its false alarms.")


def test_a_harmless_change_is_named_by_its_middle_strength():
    told = sentences("stability", **{"scale.1.flipped": 0, "scale.2.flipped": 0.1, "blur.2.flipped": 0.09})
    assert told.endswith("flip a tenth of its calls or more: scale (10 %).")
    told = sentences("stability", **{"scale.2.flipped": 0.04, "scale.3.flipped": 0.9, "blur.2.flipped": 0.09})
    assert told.endswith("flips a tenth of its calls (most: blur, 9 %).")


@pytest.mark.parametrize(
    ("hits", "chance", "verb"),
    [(0.5, 0.25, "falls"), (0.5, 0.26, "does not reliably fall"), (0.49, 0.1, "does not reliably fall")],
)
def test_a_map_falls_on_the_bleed_if_half_of_its_maxima_do_and_twice_as_many_as_by_chance(hits, chance, verb):
    told = sentences("pointing", **{"patients.hits": hits, "patients.hits_by_chance": chance})
    assert told.startswith(f"Its relevance map {verb} on the segmented bleed")


def test_of_two_blenders_the_lesser_is_told():
    keys = ("called", "called_over_15_ml")
    shares = {"poisson": (0.7, 0.95), "opaque": (0.8, 0.9)}
    figures = {
        f"bleeds.{name}.{key}": value for name, of in shares.items() for key, value in zip(keys, of, strict=True)
    }
    told = sentences("implants", **figures, **{"untouched.false_alarms": 0.02})
    assert "70 % are called (the lesser of two blenders), of those over 15 ml 90 %" in told
    assert told.endswith("of the same heads' slices as they are, 2 %.")


@pytest.mark.parametrize(
    ("flips", "shams", "healed", "transplanted"),
    [
        (0.8, 0.05, "its call follows the blood.", ("sees", "was put in.")),
        (0.8, 0.06, "but the treatment itself moves it too.", ("sees", "which is too many.")),
        (0.7, 0.05, "rest on something other than the segmented bleed.", ("overlooks too many of", "was put in.")),
        (0.7, 0.06, "some of its calls stand without the bleed.", ("overlooks too many of", "which is too many.")),
    ],
)
def test_flips_and_shams_are_told_by_the_worse_of_two_ways(flips, shams, healed, transplanted):
    for kind, ways, ends in (
        ("healed", ("membrane", "patchwork"), ("", healed)),
        ("transplanted", ("opaque", "poisson"), transplanted),
    ):
        for first, second in (ways, ways[::-1]):
            told = sentences(
                "counterfactuals",
                **{
                    f"{kind}.{first}.flipped": flips,
                    f"{kind}.{first}.sham_flipped": 0,
                    f"{kind}.{second}.flipped": 0.99,
                    f"{kind}.{second}.sham_flipped": shams,
                },
            )
            assert ends[0] in told
            assert told.endswith(ends[1])


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (0.5, 0.61, "Slices of bleeding patients score higher than normals even when healed (AUC 0.61)."),
        (0.6, 0.5, "Healed, they score like normals (AUC 0.60)."),
        (0.4, 0.3, "Healed, they score like normals (AUC 0.40)."),
        (0.39, 0.3, "Healed, they score lower than normals (AUC 0.39)."),
    ],
)
def test_the_healed_are_like_normals_between_two_bounds(first, second, told):
    flips = {f"healed.{name}.{key}": 0 for name in ("membrane", "patchwork") for key in ("flipped", "sham_flipped")}
    areas = {"healed.membrane.vs_normal_auc": first, "healed.patchwork.vs_normal_auc": second}
    assert sentences("counterfactuals", **flips, **areas).endswith(told)


LOW = "That is low, so there is little that a shortcut could have given it."
ALIKE = "Without blood it cannot tell them apart: the highest AUC of any probe is 0.60 (the noise of the brain)."
APART = "It can tell them apart without blood: the noise of the brain alone gives an AUC of 0.61 per slice."
FEW = "But no probe moves its probabilities by 5 points: that decides few calls."
MOVED = "Its probabilities move by 5 points or more with: the noise of the brain."
TURNED = "Shown only the noise of the brain, normals score higher than bleeding patients (AUC 0.39)"


@pytest.mark.parametrize(
    ("known", "probe", "gap", "expected"),
    [
        (0.7, 0.6, 0.05, {ALIKE}),
        (0.69, 0.6, 0.05, {LOW, ALIKE}),
        (0.9, 0.61, 0.049, {APART, FEW}),
        (0.9, 0.61, 0.05, {APART, MOVED}),
        (0.9, 0.4, -0.5, {"Without blood it cannot tell them apart"}),
        (0.9, 0.39, -0.5, {TURNED}),
    ],
)
def test_a_probe_is_told_by_how_far_it_goes(known, probe, gap, expected):
    areas = dict.fromkeys((f"{name}.slice_auc" for name in probes.PROBES), 0.5)
    told = sentences("probes", **{"untouched.patient_auc": known, **areas, "noise.slice_auc": probe, "noise.gap": gap})
    for sentence in (LOW, ALIKE, APART, FEW, MOVED, TURNED, "Without blood it cannot tell them apart"):
        is_part = any(sentence in each for each in expected)
        assert (sentence in told) is is_part


@pytest.mark.parametrize(
    ("high", "gap", "expected"),
    [
        (0.49, -0.05, "the wrong way round."),
        (0.49, -0.049, "though by too little to decide many calls."),
        (0.5, -0.5, ""),
    ],
)
def test_told_apart_the_wrong_way_round_must_be_more_than_a_guess(high, gap, expected):
    areas = [said(f"{name}.slice_auc", 0.5) for name in probes.PROBES if name != "noise"]
    found = Row("noise.slice_auc", "", Figure(0.39, 0.2, high, 9, 9))
    rows = (said("untouched.patient_auc", 0.9), *areas, found, said("noise.gap", gap))
    told = " ".join(paragraph([Section("probes", "", "", rows)]))
    assert ("Shown only the noise of the brain" in told) is bool(expected)
    assert expected in told


def test_a_phantom_goal_that_is_just_met_is_met():
    assert sentences("phantoms", auc_over_5_ml=0.98).startswith(
        "It tells synthetic heads with a bleed over 5 ml from the same heads without it with an AUC of 0.98. "
    )
