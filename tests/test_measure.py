import numpy as np
import pytest
from scipy.special import softmax

from dtvit.findings import Thresholds
from train.data import Pictures
from train.measure import Calibration, Logits, auc, calibrate, fit_temperature, fit_thresholds, measure


def truth(presence, location=None, series=None):
    """Labels without pictures: ten slices per head unless `series` says which belong together."""
    count = len(presence)
    presence = np.array(presence, np.int8)
    series = np.arange(count) // 10 if series is None else np.array(series)
    return Pictures(
        pictures=np.zeros((count, 1, 1), np.uint8),
        blood=np.zeros((count, 1, 1), np.uint8),
        presence=presence,
        location=np.full(count, -1, np.int8) if location is None else np.array(location, np.int8),
        traced=np.ones(count, bool),
        patient=series.astype(np.int32),
        series=series.astype(np.int32),
        part=np.zeros(count, np.int8),
        origin=np.zeros(count, np.int8),
        volume_ml=np.full(count, 9.0, np.float32),
        area_mm2=np.zeros(count, np.float32),
    )


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

    assert fit_temperature(honest * wanted, labels) == pytest.approx(wanted, rel=0.05)


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


def test_a_perfect_model_measures_perfect_and_a_blind_one_does_not():
    presence = np.tile([0, 0, 0, 1, 1, 1, 0, 0, 0, 0] + [0] * 10, 30)
    place = np.where(presence == 1, np.arange(600) // 20 % 3, -1)
    labels = truth(presence, place)
    sharp = np.where(presence == 1, 6.0, -6.0)
    perfect = Logits(np.stack((-sharp, sharp), 1), np.eye(3)[place] * 9)
    rng = np.random.default_rng(3)
    blind = Logits(rng.normal(size=(600, 2)), rng.normal(size=(600, 3)))

    good = measure(perfect, labels, calibrate(perfect, labels))
    bad = measure(blind, labels, calibrate(blind, labels))

    for level in ("slice", "patient"):
        assert good["presence"][level]["auc"] == 1
        assert good["presence"][level]["sensitivity"] == good["presence"][level]["specificity"] == 1
        assert good["location"][level]["accuracy"] == good["location"][level]["balanced_accuracy"] == 1
        assert 0.35 < bad["presence"][level]["auc"] < 0.65
        low, high = bad["presence"][level]["auc_ci"]
        assert low < bad["presence"][level]["auc"] < high
    assert good["presence"]["patient"]["positives"] == good["presence"]["patient"]["negatives"] == 30
    assert good["presence"]["patient_auc_by_volume_ml"] == {"5-15": 1.0}


def test_slices_and_series_that_cannot_be_told_do_not_count():
    labels = truth([0, 1, -1, -1], [-1, 0, -1, -1], series=[0, 1, 2, 2])
    wrong_where_unclear = Logits(np.array([[5.0, -5], [-5, 5], [-5, 5], [-5, 5]]), np.tile([9.0, 0, 0], (4, 1)))

    found = measure(wrong_where_unclear, labels, Calibration(1.0, 1.0, Thresholds(0.5, 0.5), Thresholds(0.5, 0.5)))

    assert found["presence"]["slice"]["false_alarms"] == 0
    assert found["presence"]["patient"]["positives"] == found["presence"]["patient"]["negatives"] == 1


def test_one_high_slice_alone_does_not_make_a_series_positive():
    """The rule of dtvit.findings (two neighbours) is the one that is measured."""
    labels = truth([0] * 20)
    lonely = np.full(20, -6.0)
    lonely[4] = 6.0
    logits = Logits(np.stack((-lonely, lonely), 1), np.zeros((20, 3)))

    found = measure(logits, labels, Calibration(1.0, 1.0, Thresholds(0.5, 0.5), Thresholds(0.6, 0.6)))

    assert found["presence"]["slice"]["false_alarms"] == pytest.approx(1 / 20)
    assert found["presence"]["patient"]["false_alarms"] == 0
