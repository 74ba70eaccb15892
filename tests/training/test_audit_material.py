"""Which slices an audit draws: every patient and every level of the head has its share."""

import random

import numpy as np
import pytest
from listed import entries, grey, table

from train.audit.material import gather, some
from train.dataset import manifest, splits


def test_some_slices_are_as_many_of_each_patient_as_possible():
    patients = np.array([1] * 10 + [2] * 2 + [3])
    where = np.ones(13, bool)
    where[12] = False
    for draw in range(5):
        chosen = some(where, patients, 6, np.random.default_rng(draw))
        assert np.bincount(patients[chosen]).tolist() == [0, 4, 2]
        assert (np.diff(chosen) > 0).all()
        assert sorted(patients[some(where, patients, 2, np.random.default_rng(draw))]) == [1, 2]
    assert len(some(where, patients, 50, np.random.default_rng(0))) == 12


@pytest.fixture
def listed(tmp_path):
    """Two patients who bleed and four who do not, nine slices of each, not in their order; the picture's grey tells
    the patient and the slice."""
    rows = entries([(str(patient), "deep" if patient < 2 else "") for patient in range(6)], slices=9)
    random.Random(1).shuffle(rows)

    def draw(path):
        patient, number = map(int, path.stem.split("-"))
        grey(path, 20 * patient + number + 1, (256, 256))

    return manifest.read(table(tmp_path, rows, draw=draw))


def drawn(listed, patients, per_patient, seed=0):
    """Slices by patient."""
    found = gather(listed, splits.whole(listed), patients, per_patient, seed)
    greys = found.pictures[:, 128, 128].astype(int) - 1
    return {int(each): sorted((greys[greys // 20 == each] % 20).tolist()) for each in np.unique(greys // 20)}


def test_slices_have_equal_gaps_in_the_order_of_the_series(listed):
    assert drawn(listed, None, 3) == {patient: [1, 4, 7] for patient in range(6)}
    assert drawn(listed, None, 20) == {patient: list(range(9)) for patient in range(6)}


def test_half_of_the_patients_bleed_or_all_who_do(listed):
    for seed in range(4):
        for patients, ill in ((2, 1), (4, 2), (5, 2)):
            chosen = drawn(listed, patients, 1, seed)
            assert len(chosen) == patients
            assert sum(each < 2 for each in chosen) == ill
