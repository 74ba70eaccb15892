"""The same slice with its blood and without: does the call follow the blood, and nothing that comes with the change?

Only slices that the model called correctly enter the shares of flips, since only these can flip the right way; how many
it called wrongly stands beside them. Donors of transplants are bleeds that it called in their own place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.audit import sheets
from train.audit.figures import Figure, Goal, Plate, Row, Section, Tell, area, mean
from train.audit.healing import HEALERS, RIM, elsewhere
from train.audit.material import some
from train.audit.subject import Subject
from train.audit.tissue import Anatomy, Mask, Picture, dilated, look
from train.audit.transplanting import BLENDERS, Graft, graft, sham
from train.audit.trust import GOOD, SMALLEST_PX, shows_brain, verdict
from train.dataset.pictures import Pictures

FLIPS, SHAM_FLIPS, HEALED_AUC = Goal(0.8, at_most=False), Goal(0.05, at_most=True), Goal(0.6, at_most=True)
TRIED = 12  # donors, before a recipient is left out

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class _Changed:
    """Slices that could be changed, out of those that were to be."""

    pictures: NDArray[np.uint8]
    of: Indices
    """(n,): which slice of the audit each was."""

    @classmethod
    def of_found(cls, found: Sequence[tuple[int, Picture | None]]) -> _Changed:
        kept = [(index, picture) for index, picture in found if picture is not None]
        pictures = np.stack([picture for _, picture in kept]) if kept else np.empty((0, 256, 256), np.uint8)
        return cls(pictures, np.array([index for index, _ in kept], np.intp))


def run(
    subject: Subject,
    slices: Pictures,
    anatomies: Sequence[Anatomy],
    most: int,
    seed: int,
    folder: Path,
    tell: Tell,
) -> Section:
    """`most`: slices to heal, and slices to transplant into."""
    rng = np.random.default_rng([seed, 50])
    ich = slices.presence == 1
    verdicts = Counter[str]()
    trusted, plain = np.zeros(len(slices), bool), np.zeros(len(slices), bool)
    for index, anatomy in enumerate(anatomies):
        if ich[index]:
            said = verdict(anatomy)
            verdicts[said] += 1
            trusted[index] = said == GOOD
        else:
            plain[index] = shows_brain(anatomy)
    bleeding, normal = some(trusted, slices.patient, most, rng), some(plain, slices.patient, most, rng)
    before = np.full(len(slices), np.nan)
    for chosen in (bleeding, normal):
        before[chosen] = subject.presence(slices.pictures[chosen])
    study = _Study(subject, slices, anatomies, before, bleeding, normal, seed)
    tell("counterfactuals", 0, 2)
    healed, heal_plate = study.heal(folder)
    tell("counterfactuals", 1, 2)
    grafted, graft_plate = study.transplant(folder)
    counts = [("slices with hemorrhage", int(ich.sum()))]
    counts += [(f"of these left out: {said}", count) for said, count in verdicts.most_common() if said != GOOD]
    counts += [("trusted", verdicts[GOOD]), ("of these used", len(bleeding))]
    counts += [("normal slices that show brain, used", len(normal))]
    return Section(
        "counterfactuals",
        "Counterfactuals",
        "Bleeds taken out of slices (healed) and put into others (transplanted), each in two ways that training never "
        "uses. A sham does the same at a place without blood. A call flips when the probability crosses "
        f"{subject.cut:.2f}; only slices called correctly before can flip.",
        (*study.known(), *healed, *grafted),
        (heal_plate, graft_plate),
        tuple(counts),
    )


@dataclass(frozen=True, eq=False)
class _Study:
    subject: Subject
    slices: Pictures
    anatomies: Sequence[Anatomy]
    before: Floats
    bleeding: Indices
    normal: Indices
    seed: int

    def known(self) -> list[Row]:
        """What the model says of the slices as they are."""
        cut = self.subject.cut
        found, alarms = (self._mean(self.before[of] >= cut, of) for of in (self.bleeding, self.normal))
        return [
            Row("untouched.slice_auc", "Untouched, bleeding against normal: AUC", self._against_normals(self.bleeding)),
            Row("untouched.found", "Bleeds called hemorrhage", found),
            Row("untouched.false_alarms", "Normals called hemorrhage", alarms),
        ]

    def heal(self, folder: Path) -> tuple[list[Row], Plate]:
        rows: list[Row] = []
        shown = [self._shown(i, self.anatomies[i].blood) for i in sheets.few(self.bleeding)]
        columns = {"bleed as segmented": shown}
        for number, (name, healer) in enumerate(HEALERS.items()):
            rng = np.random.default_rng([self.seed, 60, number])
            whole = [(i, self.anatomies[i]) for i in self.bleeding]
            healed = _Changed.of_found([(i, healer(each, each.blood, rng)) for i, each in whole])
            places = [(i, each, _elsewhere(each, rng)) for i, each in whole]
            shams = _Changed.of_found([(i, None if at is None else healer(each, at, rng)) for i, each, at in places])
            after, after_sham = self.subject.presence(healed.pictures), self.subject.presence(shams.pictures)
            still = np.array([look(picture).blood.sum() >= SMALLEST_PX for picture in healed.pictures], bool)
            rows += self._rows("healed", name, (healed.of, after), (shams.of, after_sham), called=True)
            against, said = self._against_normals(healed.of, after), f"Healed ({name})"
            found = self._mean(still, healed.of)
            rows += [
                Row(f"healed.{name}.vs_normal_auc", f"{said} against untouched normals: AUC", against, HEALED_AUC),
                Row(f"healed.{name}.still_segmented", f"{said}: a bleed is still segmented", found),
            ]
            columns[f"healed: {name}"] = sheets.changed(self.bleeding, healed.of, healed.pictures, after)
            columns[f"sham: {name}"] = sheets.changed(self.bleeding, shams.of, shams.pictures, after_sham)
        path = sheets.write(folder / "healed.png", columns)
        return rows, Plate(path, "Bleeds outlined as segmented; healed; and the same treatment elsewhere in the slice.")

    def transplant(self, folder: Path) -> tuple[list[Row], Plate]:
        rng = np.random.default_rng([self.seed, 70])
        grafts = [(i, self._graft(i, rng)) for i in self.normal]
        rows: list[Row] = []
        columns = {"recipient": [self._shown(i) for i in sheets.few(self.normal)]}
        for number, (name, blender) in enumerate(BLENDERS.items()):
            rng = np.random.default_rng([self.seed, 71, number])
            done, shams = (
                _Changed.of_found([(i, pair and blender(pair[which], self.anatomies[i], rng)) for i, pair in grafts])
                for which in (0, 1)
            )
            after, after_sham = self.subject.presence(done.pictures), self.subject.presence(shams.pictures)
            rows += self._rows("transplanted", name, (done.of, after), (shams.of, after_sham), called=False)
            columns[f"transplanted: {name}"] = sheets.changed(self.normal, done.of, done.pictures, after)
            columns[f"sham: {name}"] = sheets.changed(self.normal, shams.of, shams.pictures, after_sham)
        path = sheets.write(folder / "transplanted.png", columns)
        return rows, Plate(path, "Normal slices; with a bleed of another patient; with tissue of that patient.")

    def _rows(
        self, kind: str, name: str, done: tuple[Indices, Floats], sham: tuple[Indices, Floats], *, called: bool
    ) -> list[Row]:
        """`done`, `sham`: which slices, and their new probabilities. `called`: the earlier call that a slice needs."""
        flipped, said = f"flipped to {'no ' if called else ''}hemorrhage", f"{kind.capitalize()} ({name})"
        key, change = f"{kind}.{name}", "mean change of the probability"
        return [
            Row(f"{key}.flipped", f"{said}: {flipped}", self._flips(*done, called), FLIPS),
            Row(f"{key}.sham_flipped", f"Sham of {name}: {flipped}", self._flips(*sham, called), SHAM_FLIPS),
            Row(f"{key}.change", f"{said}: {change}", self._change(*done)),
            Row(f"{key}.sham_change", f"Sham of {name}: {change}", self._change(*sham)),
        ]

    def _graft(self, recipient: int, rng: np.random.Generator) -> tuple[Graft, Graft] | None:
        """A bleed that the model called in its own place, and plain tissue for the same spot."""
        called = self.bleeding[self.before[self.bleeding] >= self.subject.cut]
        share, normal = self._brain_share(recipient), self.anatomies[recipient]
        donors = rng.permutation(called)[:TRIED]
        for index in sorted(donors, key=lambda i: abs(self._brain_share(i) - share)):  # of about the same level
            donor = self.anatomies[index]
            given = graft(donor, donor.blood, normal)
            other = None if given is None else sham(donor, donor.blood, normal, given.mask, rng)
            if given is not None and other is not None:
                return given, other
        return None

    def _brain_share(self, index: int) -> float:
        anatomy = self.anatomies[index]
        return float(anatomy.inside.sum() / max(1, (anatomy.picture > 0).sum()))

    def _flips(self, of: Indices, after: Floats, called: bool) -> Figure:
        cut = self.subject.cut
        counts = (self.before[of] >= cut) == called
        return self._mean(((after >= cut) != called)[counts], of[counts])

    def _change(self, of: Indices, after: Floats) -> Figure:
        return self._mean(after - self.before[of], of)

    def _mean(self, values: NDArray[Any], of: Indices) -> Figure:
        return mean(values, self.slices.patient[of], self.seed)

    def _against_normals(self, of: Indices, scores: Floats | None = None) -> Figure:
        """AUC of slices against the untouched normals."""
        both = np.concatenate((of, self.normal))
        known = np.concatenate((self.before[of] if scores is None else scores, self.before[self.normal]))
        return area(known, np.arange(len(both)) < len(of), self.slices.patient[both], self.seed)

    def _shown(self, index: int, mask: Mask | None = None) -> tuple[Picture, str]:
        picture, text = self.slices.pictures[index], f"p {self.before[index]:.2f}"
        window = sheets.cut_out(picture)
        return (picture if mask is None else sheets.outlined(picture, mask))[window], text


def _elsewhere(anatomy: Anatomy, rng: np.random.Generator) -> Mask | None:
    return elsewhere(anatomy.blood, anatomy.brain & ~dilated(anatomy.blood, 2 * RIM), rng)
