"""Shortcut probes: pictures without blood, in which one other thing is left.

A model that looks at blood can tell nothing from them, and ends up near an AUC of 0.5. One that does not has learned
the shape of heads, their bones, or their noise: what differs between scanners and years, not between patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.audit import sheets
from train.audit.figures import Goal, Plate, Row, Section, Tell, area, gap, mean, patient_area
from train.audit.material import some
from train.audit.subject import Subject
from train.audit.tissue import Anatomy, Picture, eroded, finished, grain, head_of, residual
from train.audit.trust import LACKS_BRAIN, shows_brain
from train.dataset.pictures import Pictures
from train.errors import UnusableData

MID_GREY = 128
GOAL = Goal(0.6, at_most=True)

Probe = Callable[[Anatomy, np.random.Generator], Picture]


def silhouette(anatomy: Anatomy, _rng: np.random.Generator) -> Picture:
    return np.where(head_of(anatomy.picture), np.uint8(MID_GREY), np.uint8(0))


def blanked(anatomy: Anatomy, _rng: np.random.Generator) -> Picture:
    return finished(np.where(anatomy.inside, _median(anatomy), anatomy.picture))


def blanked_with_noise(anatomy: Anatomy, rng: np.random.Generator) -> Picture:
    return finished(np.where(anatomy.inside, _median(anatomy) + grain(anatomy, rng), anatomy.picture))


def noise_inside(anatomy: Anatomy, rng: np.random.Generator) -> Picture:
    """The slice's own noise where there is plain tissue, matched noise in the rest of the brain: no outline of a bleed
    or a ventricle is left."""
    tissue = eroded(anatomy.tissue, 1)
    own, made = residual(anatomy.picture, tissue)[0], grain(anatomy, rng)
    return finished(MID_GREY + np.where(tissue, own, np.where(anatomy.brain, made, np.float32(0))))


def noise_alone(anatomy: Anatomy, rng: np.random.Generator) -> Picture:
    return finished(MID_GREY + grain(anatomy, rng))


def _median(anatomy: Anatomy) -> np.float32:
    found = anatomy.picture[anatomy.inside]
    return np.float32(np.median(found)) if found.size else np.float32(0)


PROBES: dict[str, tuple[str, Probe, Goal | None]] = {
    "silhouette": ("the head's silhouette", silhouette, None),
    "blanked": ("the skull around one flat grey", blanked, GOAL),
    "blanked_noise": ("the skull around grey with matched noise", blanked_with_noise, GOAL),
    "noise": ("the noise of the brain", noise_inside, None),
    "noise_alone": ("noise of the same spectrum, without any shape", noise_alone, None),
}
"""What is left, how it is made, and the goal for its AUC. Where there is no goal, 0.5 is what to hope for."""


def run(
    subject: Subject, slices: Pictures, anatomies: Sequence[Anatomy], seed: int, folder: Path, tell: Tell
) -> Section:
    """Raises UnusableData if no slice shows brain."""
    total, brainy = len(slices), np.array([shows_brain(anatomy) for anatomy in anatomies], bool)
    if not brainy.any():
        raise UnusableData(f"none of the {total} slices {LACKS_BRAIN}")
    # By patient, so that it holds even if none of the slices with blood shows brain.
    bleeds = np.isin(slices.patient, slices.patient[slices.presence == 1])[brainy]
    # Where the inside is not found it cannot be blanked, and blood would stay.
    slices, anatomies = slices.take(brainy), [anatomies[int(i)] for i in np.flatnonzero(brainy)]
    ich = slices.presence == 1

    def told_apart(key: str, what: str, scores: NDArray[np.float64], goal: Goal | None) -> list[Row]:
        patients = slices.patient
        return [
            Row(f"{key}.slice_auc", f"{what}: AUC of slices", area(scores, ich, patients, seed), goal),
            Row(f"{key}.patient_auc", f"{what}: AUC of patients", patient_area(scores, bleeds, patients, seed), goal),
            Row(f"{key}.gap", f"{what}: mean probability, bleeding less normal", gap(scores, ich, patients, seed)),
        ]

    known = subject.presence(slices.pictures)
    rows = told_apart("untouched", "As they are", known, None)
    shown = some(ich, slices.patient, 3, np.random.default_rng([seed, 11]))
    shown = np.concatenate((shown, some(~ich, slices.patient, 3, np.random.default_rng([seed, 12]))))
    columns = {"untouched": [(slices.pictures[i], f"p {known[i]:.2f}") for i in shown]}
    for number, (name, (what, probe, goal)) in enumerate(PROBES.items()):
        tell("probes", number, len(PROBES))
        rng = np.random.default_rng([seed, 20, number])
        changed = np.stack([probe(anatomy, rng) for anatomy in anatomies])
        found = subject.presence(changed)
        rows += told_apart(name, f"Only {what}", found, goal)
        called = mean(found >= subject.cut, slices.patient, seed)
        rows.append(Row(f"{name}.called", f"Only {what}: called hemorrhage", called))
        columns[name] = [(changed[i], f"p {found[i]:.2f}") for i in shown]
    plate = sheets.write(folder / "probes.png", columns)
    return Section(
        "probes",
        "Shortcut probes",
        "Pictures without blood, in which one other thing is left. A model that looks at blood cannot tell the two "
        "kinds of patients apart here: AUC near 0.5. The AUC of patients is by the mean over their slices. An AUC "
        "depends only on the order of the probabilities; how far apart they lie is in the row below it.",
        tuple(rows),
        (Plate(plate, "Six slices (three of bleeding patients above) in each probe, with the model's probability."),),
        (
            ("slices that show brain", len(slices)),
            ("of them with hemorrhage", int(ich.sum())),
            ("left out for too little brain", total - len(slices)),
        ),
    )
