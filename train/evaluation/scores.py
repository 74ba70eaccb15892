"""The figures of each head: how well slices, or series, with hemorrhage are told from those without, and located.

The same two functions serve slices and series. `presence` measures two kinds of decision: one cut, for accuracy,
precision, recall, specificity and F1; and the node's two thresholds with three answers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dtvit.findings import LOCATIONS, Outcome
from train.dataset.pictures import UNCLEAR
from train.evaluation.bootstrap import FEWEST, Draws
from train.evaluation.figures import (
    Figures,
    Floats,
    areas,
    calibration,
    confusion,
    drawn_rates,
    entry,
    lacking,
    mean,
    rates,
    ratio,
    share,
)
from train.evaluation.units import Units

NO_PROBABILITY = "the output of a series is no probability"
NOT_CALLED = "nothing is called"
NONE_CALLED = "nothing is called, and none is there"
EMPTY = "nothing with a label"
NO_PLACE = "no hemorrhage whose location is known"
RATES = ("precision", "recall", "specificity", "f1")
SIDES = (
    ("hemorrhage", 1, "nothing with hemorrhage"),
    ("none", 0, "nothing without hemorrhage"),
    ("unlabelled", UNCLEAR, "nothing without a label"),
)
"""The groups whose answers are counted: name, presence, and why there may be nothing to count."""


def presence(units: Units, draws: Draws, *, cut: float, prevalence: float, probabilities: bool) -> Figures:
    """The presence head on units whose presence is known; of the others, only the answers. `cut`: a unit counts as
    called from this score on."""
    known = units.presence >= 0
    said = _answers(units, draws, prevalence)
    units, draws = units.take(known), draws.take(known)
    truth = units.presence == 1
    found: Figures = {"positives": int(truth.sum()), "negatives": int((~truth).sum()), "patients": draws.patients}
    found |= {"positive_patients": draws.count(truth), "negative_patients": draws.count(~truth)}
    found |= areas(units.score, truth, draws, of="hemorrhage")
    found["cut"] = cut
    called = units.score >= cut
    matrix, drawn_matrix = confusion(truth, called, 2, draws)
    point, drawn = rates(matrix), drawn_rates(drawn_matrix, matrix)
    found |= entry("accuracy", point["accuracy"], drawn["accuracy"], draws.patients, why=EMPTY)
    for name, rows, why in _resting_on(truth, called, of="hemorrhage"):
        found |= entry(name, point[name][1], drawn[name][:, 1], draws.count(rows), why=why)
    found["confusion"] = matrix.astype(int).tolist()
    found |= said
    if probabilities:
        found |= calibration(units.score, truth, draws, why=EMPTY)
        return found | mean("brier", (units.score - truth) ** 2, draws, why=EMPTY)
    return found | {"ece": np.nan, "ece_why": NO_PROBABILITY, "brier": np.nan, "brier_why": NO_PROBABILITY}


def location(units: Units, draws: Draws) -> Figures:
    """The location head on units with hemorrhage whose location is known: over three classes, found or missed.

    Precision, recall (which is the balanced accuracy), specificity, F1 and AUC are means over the three.
    Only `found_and_right` needs both: the share of them that are called present, and in the right place.
    """
    known = (units.presence == 1) & (units.location >= 0)
    units, draws = units.take(known), draws.take(known)
    truth, guess = units.location.astype(int), units.places.argmax(1)
    found: Figures = {"positives": len(truth), "patients": draws.patients}
    matrix, drawn_matrix = confusion(truth, guess, len(LOCATIONS), draws)
    point, drawn = rates(matrix), drawn_rates(drawn_matrix, matrix)
    missing = [f"no {name} hemorrhage" for number, name in enumerate(LOCATIONS) if not (truth == number).any()]
    why = " and ".join(missing) if len(truth) else NO_PLACE
    found |= entry("accuracy", point["accuracy"], drawn["accuracy"], draws.patients, why=NO_PLACE)
    fewest = min(draws.count(truth == number) for number in range(len(LOCATIONS)))
    places = range(len(LOCATIONS))
    of_class = [_of_class(number, units, truth, draws, point, drawn) for number in places]
    drawn["auc"] = np.stack([draws.auc(units.places[:, number], truth == number) for number in places], 1)
    for name, rate in (("balanced_accuracy", "recall"), *((each, each) for each in (*RATES, "auc"))):
        reason = why or "a class is never answered"
        found |= _of_all(name, rate, of_class, drawn[rate], fewest, why=reason)
    found["by_class"] = dict(zip(LOCATIONS, of_class, strict=True))
    found["confusion"] = matrix.astype(int).tolist()
    told = (units.answer == Outcome.PRESENT) & (guess == truth)
    found |= mean("found_and_right", told.astype(float), draws, why=NO_PLACE)
    found |= calibration(units.places.max(1), guess == truth, draws, why=NO_PLACE)
    return found | mean("brier", ((units.places - np.eye(len(LOCATIONS))[truth]) ** 2).sum(1), draws, why=NO_PLACE)


def _of_class(
    number: int,
    units: Units,
    truth: NDArray[np.int_],
    draws: Draws,
    point: dict[str, Floats],
    drawn: dict[str, Floats],
) -> Figures:
    """One location against the other two."""
    name, rows, called = LOCATIONS[number], truth == number, units.places.argmax(1) == number
    found: Figures = {"positives": int(rows.sum())}
    found |= areas(units.places[:, number], rows, draws, of=f"{name} hemorrhage")
    for rate, resting, why in _resting_on(rows, called, of=f"{name} hemorrhage"):
        found |= entry(rate, point[rate][number], drawn[rate][:, number], draws.count(resting), why=why)
    return found


def _of_all(name: str, rate: str, of_class: list[Figures], drawn: Floats, fewest: int, *, why: str) -> Figures:
    """The mean of a rate over the three locations; `drawn`: (resamples, 3)."""
    figures = entry(name, np.mean([each[rate] for each in of_class]), drawn.mean(1), fewest, why=why)
    low, high = figures.get(f"{name}_ci", (np.nan, np.nan))
    if low == high:  # in each resample one class is all right, another all wrong: their own bounds know more
        bounds = np.mean([each[f"{rate}_ci"] for each in of_class], axis=0)
        if np.isfinite(bounds).all():
            figures[f"{name}_ci"] = bounds.tolist()
    return figures


def _resting_on(
    truth: NDArray[np.bool_], called: NDArray[np.bool_], *, of: str
) -> list[tuple[str, NDArray[np.bool_], str]]:
    """RATES, the units that each is a share of, and the reason if there are none."""
    whys = (NOT_CALLED, f"nothing with {of}", f"nothing without {of}", NONE_CALLED)
    rests = zip(RATES, (called, truth, ~truth, truth | called), whys, strict=True)
    return [(rate, units, why if len(truth) else EMPTY) for rate, units, why in rests]


def _answers(units: Units, draws: Draws, prevalence: float) -> Figures:
    """What the node would say of those with hemorrhage, of those without and of those without a label, and how far to
    trust it if `prevalence` of all units have hemorrhage."""
    answers: Figures = {}
    shares: dict[tuple[str, str], tuple[Floats, Floats]] = {}
    for side, label, why in SIDES:
        rows = units.presence == label
        answers[side] = {"count": int(rows.sum())}
        for answer in (Outcome.PRESENT, Outcome.UNDETERMINED, Outcome.ABSENT):
            shares[side, answer] = share(units.answer == answer, rows, draws)
            answers[side] |= entry(answer, *shares[side, answer], draws.count(rows), why=why)
    truth, labelled = units.presence == 1, units.presence >= 0
    believed: Figures = {"prevalence": prevalence}
    for name, answer, right, wrong, before in (
        ("ppv", Outcome.PRESENT, "hemorrhage", "none", prevalence),
        ("npv", Outcome.ABSENT, "none", "hemorrhage", 1 - prevalence),
    ):
        true, false = shares[right, answer], shares[wrong, answer]
        value = _trust(before, true[0], false[0])
        why = lacking(truth[labelled], "hemorrhage") or f"nothing is called {answer}"
        patients = min(draws.count(truth), draws.count(labelled & ~truth))  # it rests on a share of either
        believed |= entry(name, value, _trust(before, true[1], false[1]), patients, why=why)
        low, high = believed.get(f"{name}_ci", (np.nan, np.nan))
        if patients >= FEWEST and (value in (0, 1) or low == high):  # no resample knows better than the two shares
            of_right, of_wrong = (answers[side][f"{answer}_ci"] for side in (right, wrong))
            believed[f"{name}_ci"] = [float(_trust(before, of_right[i], of_wrong[1 - i])) for i in (0, 1)]
    return {"answers": answers, "at_prevalence": believed}


def _trust(before: float, true: Floats | float, false: Floats | float) -> Floats:
    """Bayes: how sure an answer is that is given with chance `true` if it is right, and `false` if it is wrong."""
    return ratio(before * true, before * true + (1 - before) * false)
