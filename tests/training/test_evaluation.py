"""What is measured: figures that scikit-learn confirms, intervals over patients, thresholds that keep promises."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from drawn import labelled
from scipy.special import softmax
from sklearn import metrics
from untrained import metadata

from dtvit.checkpoint import Checkpoint
from dtvit.findings import Thresholds
from train.card import model_card
from train.evaluation import Logits, auc, calibrate, drift, measure, plain, plots
from train.evaluation.bootstrap import draw, interval
from train.evaluation.calibration import EVEN, Calibration, fit_temperature, fit_thresholds
from train.evaluation.figures import confusion, rates
from train.evaluation.units import answers, of_slices
from train.evaluation.words import summary


def truth(presence, location=None, series=None):
    """Labels without pictures: ten slices per head unless `series` says which belong together."""
    numbers = np.arange(len(presence)) // 10 if series is None else series
    return labelled(
        presence,
        location=[-1] * len(presence) if location is None else location,
        patient=numbers,
        series=numbers,
        volume_ml=[9.0] * len(presence),
    )


def sure(odds, location=None):
    """Logits that are so far apart for presence, and `location` or equal ones for the place."""
    odds = np.asarray(odds, float)
    return Logits(np.stack((-odds, odds), 1), np.zeros((len(odds), 3)) if location is None else location)


def test_auc_is_the_share_of_pairs_in_the_right_order():
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])

    assert auc(scores, labels) == 0.75
    assert auc(-scores, labels) == 0.25
    assert auc(np.zeros(4), labels) == 0.5
    assert np.isnan(auc(scores, np.ones(4, bool)))


@pytest.mark.parametrize("wanted", [0.5, 1.0, 3.0])
def test_the_temperature_that_spoiled_the_logits_is_found(wanted):
    rng = np.random.default_rng(1)
    honest = rng.normal(0, 2, (20000, 3))
    labels = np.array([rng.choice(3, p=p) for p in softmax(honest, axis=1)], np.int8)
    labels[:50] = -1

    found = fit_temperature(honest * wanted, labels)

    assert found == pytest.approx(wanted, rel=0.05)
    assert found == pytest.approx(fit_temperature(honest[50:] * wanted, labels[50:]))


@pytest.mark.parametrize("probabilities", [True, False])
@pytest.mark.parametrize("distance", [0.0, 1.0, 3.0, 20.0])
def test_both_thresholds_keep_their_promise(distance, probabilities):
    rng = np.random.default_rng(2)
    labels = np.arange(4000) % 2 == 0
    scores = 1 / (1 + np.exp(-rng.normal(np.where(labels, distance, -distance), 1.0)))

    cuts = fit_thresholds(scores, labels, probabilities=probabilities)

    assert (scores[labels] >= cuts.absent_below).mean() >= 0.95
    assert (scores[~labels] < cuts.present_at).mean() >= 0.95
    assert 0 < cuts.absent_below <= cuts.present_at < 1
    assert not probabilities or cuts.absent_below <= 0.5 <= cuts.present_at


def test_no_answer_is_against_the_odds_where_faint_positives_and_silent_negatives_leave_room_below_them():
    scores = np.array([0.01] * 95 + [0.15] * 5 + [0.2] * 10 + [0.9] * 90)
    cuts = fit_thresholds(scores, np.arange(200) >= 100)
    assert (cuts.absent_below, cuts.present_at) == (0.2, 0.5)


def test_a_perfect_model_measures_perfect_and_a_blind_one_does_not():
    presence = np.tile([0, 0, 0, 1, 1, 1, 0, 0, 0, 0] + [0] * 10, 30)
    place = np.where(presence == 1, np.arange(600) // 20 % 3, -1)
    labels = truth(presence, place)
    sharp = np.where(presence == 1, 6.0, -6.0)
    perfect = sure(sharp, np.eye(3)[place] * 9)
    rng = np.random.default_rng(3)
    blind = Logits(rng.normal(size=(600, 2)), rng.normal(size=(600, 3)))

    good = measure(perfect, labels, calibrate(perfect, labels))
    bad = measure(blind, labels, calibrate(blind, labels))

    for level in ("slice", "patient"):
        assert good["presence"][level]["auc"] == 1
        for rate in ("accuracy", "precision", "recall", "specificity", "f1"):
            assert good["presence"][level][rate] == good["location"][level][rate] == 1
        assert good["presence"][level]["answers"]["hemorrhage"]["present"] == 1
        assert good["presence"][level]["answers"]["none"]["absent"] == 1
        assert 0.35 < bad["presence"][level]["auc"] < 0.65
        low, high = bad["presence"][level]["auc_ci"]
        assert low < bad["presence"][level]["auc"] < high
    assert good["presence"]["patient"]["positives"] == good["presence"]["patient"]["negatives"] == 30
    assert set(good["strata"]["patient"]["volume_ml"]) == {"5-15"}
    assert good["strata"]["patient"]["volume_ml"]["5-15"]["auc"] == 1


def test_unclear_slices_and_series_do_not_count():
    labels = truth([0, 1, -1, -1], [-1, 0, -1, -1], series=[0, 1, 2, 2])
    wrong_where_unclear = Logits(np.array([[5.0, -5], [-5, 5], [-5, 5], [-5, 5]]), np.tile([9.0, 0, 0], (4, 1)))

    found = measure(wrong_where_unclear, labels, EVEN)

    assert found["presence"]["slice"]["answers"]["none"]["present"] == 0
    assert found["presence"]["patient"]["positives"] == found["presence"]["patient"]["negatives"] == 1
    assert found["presence"]["slice"]["answers"]["unlabelled"]["count"] == 2
    assert found["presence"]["slice"]["answers"]["unlabelled"]["present"] == 1
    assert found["presence"]["patient"]["answers"]["unlabelled"]["count"] == 1


def test_one_high_slice_alone_does_not_make_a_series_positive():
    """The rule of dtvit.findings (two neighbours) is the one that is measured."""
    labels = truth([0] * 20)
    lonely = np.full(20, -6.0)
    lonely[4] = 6.0
    logits = sure(lonely)

    found = measure(logits, labels, Calibration(1.0, 1.0, Thresholds(0.5, 0.5), Thresholds(0.6, 0.6)))

    assert found["presence"]["slice"]["answers"]["none"]["present"] == pytest.approx(1 / 20)
    assert found["presence"]["patient"]["answers"]["none"]["present"] == 0


def test_many_are_answered_as_one_is():
    cuts, scores = Thresholds(0.3, 0.7), np.array([0.0, 0.29, 0.3, 0.69, 0.7, 1.0])
    assert answers(scores, cuts).tolist() == [cuts.judge(score) for score in scores]


def test_rates_are_those_of_scikit_learn():
    rng = np.random.default_rng(4)
    labels, answers = rng.integers(0, 3, (2, 200))

    matrix, _ = confusion(labels, answers, 3, draw(np.arange(200), resamples=2))
    found = rates(matrix)

    precision, recall, f1, _ = metrics.precision_recall_fscore_support(labels, answers)
    assert np.allclose(found["precision"], precision)
    assert np.allclose(found["recall"], recall)
    assert np.allclose(found["f1"], f1)
    assert found["accuracy"] == metrics.accuracy_score(labels, answers)
    others = [metrics.recall_score(labels != each, answers != each) for each in range(3)]
    assert np.allclose(found["specificity"], others)


def test_figures_of_both_heads_are_those_of_an_independent_computation():
    rng = np.random.default_rng(10)
    bleeds, place = rng.random(400) < 0.5, rng.integers(0, 3, 400)
    labels = truth(bleeds.astype(int), np.where(bleeds, place, -1), series=np.arange(400))
    presence = rng.normal(size=(400, 2)) + np.stack((~bleeds, bleeds), 1)
    location = rng.normal(size=(400, 3)) + np.eye(3)[place]
    cuts = Calibration(2.0, 0.5, Thresholds(0.4, 0.6), Thresholds(0.4, 0.6))

    found = measure(Logits(presence, location), labels, cuts, resamples=200)
    here, there = found["presence"]["slice"], found["location"]["slice"]

    score = softmax(presence / 2.0, axis=1)[:, 1]
    places, place = softmax(location / 0.5, axis=1)[bleeds], place[bleeds]
    guess = places.argmax(1)
    assert here["auc"] == pytest.approx(metrics.roc_auc_score(bleeds, score))
    assert here["accuracy"] == pytest.approx(metrics.accuracy_score(bleeds, score >= 0.5))
    assert here["brier"] == pytest.approx(metrics.brier_score_loss(bleeds, score))
    assert here["ece"] == pytest.approx(calibration_error(score, bleeds))
    assert there["auc"] == pytest.approx(metrics.roc_auc_score(place, places, multi_class="ovr"))
    assert there["accuracy"] == pytest.approx(metrics.accuracy_score(place, guess))
    assert there["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(place, guess))
    assert there["precision"] == pytest.approx(metrics.precision_score(place, guess, average="macro"))
    assert there["f1"] == pytest.approx(metrics.f1_score(place, guess, average="macro"))
    assert there["brier"] == pytest.approx(sum(metrics.brier_score_loss(place == k, places[:, k]) for k in range(3)))
    assert there["ece"] == pytest.approx(calibration_error(places.max(1), guess == place))
    assert there["found_and_right"] == pytest.approx(((score[bleeds] >= 0.6) & (guess == place)).mean())
    for figures in (here, there):
        for name in ("auc", "accuracy", "f1", "brier", "ece"):
            low, high = figures[f"{name}_ci"]
            assert low < figures[name] < high


def calibration_error(confidence, right):
    """Guo et al. 2017, equation 3."""
    bins = np.digitize(confidence, np.arange(1, 15) / 15)
    gaps = [abs(confidence[bins == k].mean() - right[bins == k].mean()) * (bins == k).mean() for k in set(bins)]
    return sum(gaps)


def test_every_resample_is_the_figure_of_the_patients_drawn():
    """Weights instead of copies: the same numbers as scikit-learn gives for rows that are really drawn again."""
    rng = np.random.default_rng(5)
    patients = np.repeat(np.arange(12) * 7, rng.integers(1, 9, 12))
    labels = rng.random(len(patients)) < 0.4
    scores = np.round(rng.normal(labels * 0.7, 1), 1)  # with ties
    draws = draw(patients, resamples=40, seed=1)

    areas, precisions = draws.auc(scores, labels), draws.average_precision(scores, labels)
    _, matrices = confusion(labels, scores > 0.5, 2, draws)

    for number, counts in enumerate(draws.counts.astype(int)):
        rows = np.repeat(np.arange(len(patients)), counts[draws.of])
        assert areas[number] == pytest.approx(metrics.roc_auc_score(labels[rows], scores[rows]))
        assert precisions[number] == pytest.approx(metrics.average_precision_score(labels[rows], scores[rows]))
        assert np.array_equal(matrices[number], metrics.confusion_matrix(labels[rows], scores[rows] > 0.5))
        assert len(rows) >= len(set(patients))


def test_slices_of_one_patient_that_are_copies_make_an_interval_no_narrower():
    rng = np.random.default_rng(6)
    labels = rng.random(60) < 0.5
    scores = rng.normal(labels, 1)
    copied = np.repeat(np.arange(60), 20)

    one = interval(draw(np.arange(60)).auc(scores, labels))
    many = interval(draw(copied).auc(scores[copied], labels[copied]))
    as_if_apart = interval(draw(np.arange(1200)).auc(scores[copied], labels[copied]))

    assert many == pytest.approx(one)
    assert as_if_apart[1] - as_if_apart[0] < 0.4 * (one[1] - one[0])


@pytest.mark.parametrize(("presence", "why"), [([0] * 20, "nothing with hemorrhage"), ([1] * 20, "nothing without")])
def test_unknown_figures_are_null_with_the_reason(presence, why):
    labels = truth(presence)
    logits = Logits(np.random.default_rng(7).normal(size=(20, 2)), np.zeros((20, 3)))

    found = plain(measure(logits, labels, EVEN))

    for level in ("slice", "patient"):
        assert found["presence"][level]["auc"] is None
        assert found["presence"][level]["auc_why"].startswith(why)
        assert found["presence"][level]["accuracy"] is not None
        assert found["location"][level]["accuracy"] is None
        assert found["location"][level]["accuracy_why"] == "no hemorrhage whose location is known"
    json.dumps(found, allow_nan=False)
    assert every_null_has_a_reason(found)


def every_null_has_a_reason(figures):
    if not isinstance(figures, dict):
        return True
    own = all(
        key.removesuffix("_ci") + "_why" in figures or f"{key}_why" in figures
        for key, value in figures.items()
        if value in (None, [None, None])
    )
    return own and all(map(every_null_has_a_reason, figures.values()))


def test_perfect_ranking_is_not_certainty_in_either_area():
    """scikit-learn's average precision is 0.9999999999999998 here."""
    labels = truth([1] * 7 + [0] * 7, series=range(14))
    logits = Logits(np.stack((np.zeros(14), np.arange(14)[::-1]), 1), np.zeros((14, 3)))

    found = measure(logits, labels, EVEN)["presence"]["slice"]

    assert found["average_precision"] == 1
    assert found["average_precision_ci"] == found["auc_ci"] == [pytest.approx(0.5904, abs=1e-4), 1]


def test_a_mean_over_locations_that_no_resample_varies_is_not_certainty():
    """Who always answers deep has a recall of 1, 0 and 0 in each resample."""
    labels = truth([1] * 300, np.arange(300) // 100)
    logits = Logits(np.zeros((300, 2)), np.tile([9.0, 0, 0], (300, 1)))

    found = measure(logits, labels, EVEN)["location"]["slice"]

    low, high = 0.025**0.1, 1 - 0.025**0.1  # ten patients each, all right or all wrong
    assert found["balanced_accuracy"] == found["recall"] == pytest.approx(1 / 3)
    for name in ("balanced_accuracy", "recall", "specificity"):
        assert found[f"{name}_ci"][0] < found[name] < found[f"{name}_ci"][1]
    assert found["balanced_accuracy_ci"] == pytest.approx([low / 3, (1 + 2 * high) / 3])


def test_resamples_without_a_location_say_nothing_of_its_precision_and_f1():
    """Both subtentorial patients are found, and so is a lobar one: a resample without them has only the false one."""
    place = np.r_[[0] * 4, [1] * 4, [2] * 2]
    said = np.r_[[0] * 4, [1] * 3, [2] * 3]
    labels = truth([1] * 10, place, series=range(10))
    logits = Logits(np.zeros((10, 2)), 9.0 * np.eye(3)[said])

    found = measure(logits, labels, EVEN)["location"]["slice"]

    draws = draw(np.arange(10)).counts.astype(int)
    drawn = [(place.repeat(each), said.repeat(each)) for each in draws]
    complete = [each for each in drawn if len(set(each[0])) == 3]
    whole = [metrics.precision_recall_fscore_support(*each, zero_division=np.nan)[:3] for each in complete]
    with_it = [metrics.precision_score(*each, labels=[2], average=None) for each in drawn if 2 in each[0]]
    assert len(whole) < len(with_it) < 1000
    assert found["by_class"]["subtentorial"]["precision_ci"] == pytest.approx(interval(np.concatenate(with_it)))
    for row, name in enumerate(("precision", "recall", "f1")):
        assert found[f"{name}_ci"] == pytest.approx(interval(np.array([each[row].mean() for each in whole])))


def test_few_patients_with_many_series_count_as_few():
    """Four series each of ten patients who bleed, and one each of forty who do not."""
    patients = np.r_[np.arange(40) // 4, np.arange(10, 50)].astype(np.int32)
    labels = replace(truth([1] * 40 + [0] * 40, [0] * 40 + [-1] * 40, series=range(80)), patient=patients)
    logits = Logits(np.random.default_rng(0).normal(size=(80, 2)), np.zeros((80, 3)))
    cases = SimpleNamespace(pictures=labels, part="all", manifest=SimpleNamespace(path=Path("manifest.csv")))

    found = measure(logits, labels, EVEN, resamples=20)

    assert "Only 10 patients are in the smaller class" in " ".join(summary(cases, found))


def test_the_area_below_the_drawn_precision_is_the_average_precision(monkeypatch):
    random = np.random.default_rng(0)
    labels = truth(random.integers(0, 2, 30), series=range(30))
    logits = Logits(random.normal(size=(30, 2)), np.zeros((30, 3)))
    found, slices = measure(logits, labels, EVEN, resamples=20), of_slices(logits, labels, EVEN)
    cuts = {"slice": EVEN.slice_thresholds, "patient": EVEN.series_thresholds}
    monkeypatch.setattr(plots, "_png", lambda figure, _label: figure)

    line, *_ = plots.curves({"slice": slices, "patient": slices}, found, cuts, "no split").axes[1].lines

    assert line.get_drawstyle() == "steps-post"
    (recall, precision), step = line.get_data(), -np.diff(line.get_xdata())
    assert (step * precision[: len(recall) - 1]).sum() == pytest.approx(found["presence"]["slice"]["average_precision"])


def test_the_reason_for_no_precision_is_that_nothing_is_called():
    labels = truth([1] * 20, [0] * 10 + [1] * 10)
    never = sure([-3.0] * 20, np.tile([9.0, 0, 0], (20, 1)))

    found = measure(never, labels, EVEN)

    assert found["presence"]["slice"]["precision_why"] == "nothing is called"
    assert found["presence"]["slice"]["specificity_why"] == "nothing without hemorrhage"
    classes = found["location"]["slice"]["by_class"]
    assert found["location"]["slice"]["recall_why"] == "no subtentorial hemorrhage"
    assert classes["lobar"]["precision_why"] == "nothing is called"
    assert classes["subtentorial"]["recall_why"] == "nothing with subtentorial hemorrhage"
    assert classes["subtentorial"]["f1_why"] == "nothing is called, and none is there"


def test_a_place_in_which_one_patient_bleeds_has_no_interval_and_its_mean_none_either():
    labels = truth([1] * 90, [0] * 40 + [1] * 40 + [2] * 10)
    logits = Logits(np.zeros((90, 2)), np.random.default_rng(9).normal(size=(90, 3)))

    found = measure(logits, labels, EVEN, resamples=20)["location"]["slice"]

    for figures in (found, found["by_class"]["subtentorial"]):
        assert np.isfinite(figures["recall"])
        assert np.isnan(figures["recall_ci"]).all()
    assert np.isfinite(found["accuracy_ci"]).all()


def test_an_f1_of_zero_has_an_interval():
    bleeds = np.arange(20) < 10
    wrong = np.where(bleeds, -5.0, 5.0)
    labels = truth(bleeds.astype(int), series=np.arange(20))

    found = measure(sure(wrong), labels, EVEN)["presence"]["slice"]

    assert found["f1"] == found["f1_ci"][0] == 0
    assert 0.1 < found["f1_ci"][1] < 0.3


def test_an_interval_over_one_patient_is_refused():
    labels = truth([0, 1] * 10, [-1, 1] * 10, series=[0] * 20)
    logits = Logits(np.random.default_rng(8).normal(size=(20, 2)), np.zeros((20, 3)))

    found = plain(measure(logits, labels, EVEN))

    assert found["presence"]["slice"]["auc"] is not None
    assert found["presence"]["slice"]["auc_ci"] == [None, None]
    assert "one patient" in found["presence"]["slice"]["auc_ci_why"]
    assert every_null_has_a_reason(found)


def test_nothing_at_all_is_measured_without_a_crash():
    nothing = truth([])

    found = plain(
        measure(
            Logits(np.zeros((0, 2)), np.zeros((0, 3))),
            nothing,
            calibrate(Logits(np.zeros((0, 2)), np.zeros((0, 3))), nothing),
        )
    )

    assert found["presence"]["slice"]["auc_why"] == "nothing with a label"


def test_prevalence_turns_sensitivity_and_specificity_into_trust():
    """Bayes: 80 % of bleeds and 10 % of the others called; at 5 % prevalence a call is right in 0.04 / 0.135."""
    labels = truth([1] * 100 + [0] * 100, series=np.arange(200))
    called = np.r_[np.arange(100) < 80, np.arange(100) < 10]
    sharp = np.where(called, 5.0, -5.0)

    found = measure(
        sure(sharp),
        labels,
        EVEN,
        prevalence=0.05,
    )

    for level in ("slice", "patient"):
        believed = found["presence"][level]["at_prevalence"]
        assert believed["ppv"] == pytest.approx(0.04 / 0.135)
        assert believed["npv"] == pytest.approx(0.855 / 0.865)
    times = draw(np.arange(200)).counts
    bleeds = labels.presence == 1
    right, wrong = ((times * (called & rows)).sum(1) / (times * rows).sum(1) for rows in (bleeds, ~bleeds))
    assert believed["ppv_ci"] == pytest.approx(interval(0.05 * right / (0.05 * right + 0.95 * wrong)))


def test_trust_in_a_model_that_was_never_wrong_is_not_certainty():
    """Its bounds are had from those of the two shares: 10 of 10 bleeding patients, and none of 20 others."""
    bleeds = np.arange(30) < 10
    sharp = np.where(bleeds, 10.0, -10.0)
    logits = sure(sharp)
    labels = truth(bleeds.astype(int), series=range(30))

    found = measure(logits, labels, EVEN, prevalence=0.1)["presence"]["slice"]
    believed = found["at_prevalence"]

    sensitivity, false = 0.025 ** (1 / 10), 1 - 0.025 ** (1 / 20)
    assert believed["ppv"] == believed["npv"] == 1
    assert believed["ppv_ci"] == pytest.approx([0.1 * sensitivity / (0.1 * sensitivity + 0.9 * false), 1])
    specificity, missed = 0.025 ** (1 / 20), 1 - 0.025 ** (1 / 10)
    assert believed["npv_ci"] == pytest.approx([0.9 * specificity / (0.9 * specificity + 0.1 * missed), 1])
    assert found["brier_ci"][1] < 1e-9, "a Brier score is no share of patients"
    silent = measure(sure([-5.0] * 30), labels, EVEN)["presence"]["slice"]
    assert silent["at_prevalence"]["ppv_why"] == "nothing is called present"


def test_trust_in_a_model_that_always_says_the_same_is_not_certainty():
    """Each resample gives the prevalence; but 10 bleeding patients and 20 others are no proof of that."""
    labels = truth([1] * 10 + [0] * 20, series=range(30))

    believed = measure(sure([5.0] * 30), labels, EVEN, prevalence=0.1)["presence"]["slice"]["at_prevalence"]

    sensitivity, false = 0.025 ** (1 / 10), 0.025 ** (1 / 20)
    bounds = [0.1 * sensitivity / (0.1 * sensitivity + 0.9), 0.1 / (0.1 + 0.9 * false)]
    assert believed["ppv"] == pytest.approx(0.1)
    assert believed["ppv_ci"] == pytest.approx(bounds)


@pytest.mark.parametrize("only", [1, 0])
def test_trust_that_rests_on_one_patient_of_either_kind_has_no_interval(only):
    labels = truth([only] * 10 + [1 - only] * 90)
    logits = Logits(np.random.default_rng(3).normal(size=(100, 2)), np.zeros((100, 3)))
    found = plain(measure(logits, labels, EVEN))
    believed = found["presence"]["slice"]["at_prevalence"]
    assert believed["ppv"] is not None
    assert believed["ppv_ci"] == believed["npv_ci"] == found["presence"]["slice"]["auc_ci"] == [None, None]
    assert every_null_has_a_reason(found)


def test_strata_hold_each_kind_of_hemorrhage_against_all_without():
    presence = np.tile([1, 0], 30)
    labels = truth(presence, np.where(presence == 1, np.arange(60) // 2 % 3, -1), series=np.arange(60))
    seen = np.where(labels.location == 2, -5.0, np.where(presence == 1, 5.0, 0.0))
    sites = np.where(np.arange(60) < 40, "north", "south")

    found = measure(
        sure(seen),
        labels,
        Calibration(1.0, 1.0, Thresholds(0.4, 0.6), Thresholds(0.4, 0.6)),
        columns={"site": sites},
    )["strata"]["slice"]

    assert {name: each["auc"] for name, each in found["location"].items()} == {"deep": 1, "lobar": 1, "subtentorial": 0}
    assert found["location"]["subtentorial"]["called_absent"] == 1
    assert found["location"]["deep"]["called_present"] == 1
    assert found["location"]["deep"]["false_alarms"] == 0
    assert found["location"]["deep"]["negatives"] == 30
    assert {name: each["positives"] for name, each in found["site"].items()} == {"north": 20, "south": 10}


def test_strata_count_what_is_in_none_of_them():
    """No mask, an empty one, no location, no site: left out, a table would seem to hold all."""
    presence = np.tile([1, 0], 20)
    place = np.where((presence == 1) & (np.arange(40) < 30), 0, -1)
    share = np.where(presence == 1, 0.01, np.nan)
    share[:6], share[6:10] = np.nan, 0.0
    found = measure(
        sure(presence),
        truth(presence, place, series=np.arange(40)),
        Calibration(1.0, 1.0, Thresholds(0.4, 0.6), Thresholds(0.4, 0.6)),
        columns={"site": np.repeat(["north", "not known", ""], [28, 6, 6]), "scanner": np.full(40, "")},
        share=share.astype(np.float32),
        resamples=20,
    )["strata"]["slice"]

    counts = {by: {value: each["positives"] for value, each in values.items()} for by, values in found.items()}
    assert counts == {
        "volume_ml": {"5-15": 20},
        "location": {"deep": 15, "not known": 5},
        "share_of_head": {"0.005-0.02": 15, "not known": 5},
        "site": {"north": 14, "not known": 6},
    }


def test_a_card_counts_bleeds_of_unknown_volume():
    presence = np.tile([1, 0], 20)
    labels = replace(
        truth(presence, series=np.arange(40)), volume_ml=np.repeat([9.0, 90.0, np.nan], [20, 10, 10]).astype(np.float32)
    )
    logits = sure(presence)
    found = plain(measure(logits, labels, EVEN, resamples=20))
    card = model_card(Checkpoint(Path("a"), "0" * 64, metadata(metrics=found), {}))
    assert "by volume of the bleed: 5 to 15 ml 1.000, over 15 ml 1.000, not known 1.000.\n" in card


def test_a_calibrated_model_has_hardly_any_calibration_error_and_a_boasting_one_has():
    rng = np.random.default_rng(9)
    honest = rng.normal(0, 2, 5000)
    labels = truth((rng.random(5000) < 1 / (1 + np.exp(-honest))).astype(int), series=np.arange(5000) // 4)

    errors = [
        measure(Logits(np.stack((0 * z, z), 1), np.zeros((5000, 3))), labels, EVEN, resamples=20)["presence"]["slice"][
            "ece"
        ]
        for z in (honest, 4 * honest)
    ]

    assert errors[0] < 0.03
    assert errors[1] > 0.1


def test_kept_statistics_are_in_the_units_they_are_reported_in():
    """A head of 100 x 100 pixels off the middle, its bone 10 thick, within it columns of 100 and 110 grey."""
    picture = np.zeros((224, 224), np.uint8)
    picture[20:120, 50:150] = 255
    picture[30:110, 60:140] = 100
    picture[30:110, 60:140:2] = 110
    labels = truth([1, 1, 1, -1, 0, 0], [0, 2, -1, -1, -1, -1], series=[0, 0, 0, 1, 1, 1])

    kept = drift.statistics(replace(labels, pictures=np.stack([picture] * 6)))

    medians = {name: quantiles[10] for name, quantiles in kept["quantiles"].items()}
    assert medians == pytest.approx(
        {
            "head": 100 * 100**2 / 224**2,
            "bone": 100 * (100**2 - 80**2) / 100**2,
            "tissue": 105 * 80 / 255,
            "contrast": 10 * 80 / 255,
            "noise": 10 * 80 / 255,
            "centre": np.hypot(69.5 - 111.5, 99.5 - 111.5),
            "slices": 3,
        },
        abs=1e-3,
    )
    assert (kept["slices"], kept["series"], kept["patients"]) == (6, 2, 2)
    assert kept["hemorrhage"] == 0.6
    assert kept["location"] == {"deep": 0.5, "lobar": 0.0, "subtentorial": 0.5}


@pytest.mark.parametrize(("moved", "verdict"), [(0.0, "alike"), (10.0, "alike"), (50.0, "shifted"), (80.0, "far off")])
def test_pictures_are_as_far_off_as_they_lie_outside_of_nine_tenths_of_those_before(moved, verdict):
    """Both spread evenly over a hundred units."""
    before = {"quantiles": {"tissue": np.linspace(0, 100, 21).tolist()}, "hemorrhage": 0.5}
    quantiles = dict.fromkeys(drift.FEATURES) | {"tissue": np.linspace(moved, moved + 100, 21).tolist()}
    here = {"quantiles": quantiles, "hemorrhage": 0.5, "location": dict.fromkeys(("deep", "lobar", "subtentorial"))}

    line = next(each for each in drift.compare(before, here) if each.name == "soft tissue, median")

    assert line.outside == pytest.approx(1 - (95 - max(5, moved)) / 100, abs=1e-5)
    assert line.verdict == verdict
    assert line.there == (5, 50, 95)
