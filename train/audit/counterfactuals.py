"""The same slice with its blood and without: does the call follow the blood, and nothing that comes with the change?

Only slices that the model called right enter the shares of flips, since only these can flip the right way; how many it
called wrong stands beside them. Donors of transplants are bleeds that it called in their own place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.audit import sheets
from train.audit.figures import Figure, Goal, Plate, Row, Section, area, mean
from train.audit.healing import HEALERS, RIM, elsewhere
from train.audit.material import some
from train.audit.subject import Subject
from train.audit.tissue import Anatomy, Mask, Picture, dilated, look
from train.audit.transplanting import BLENDERS, Graft, graft, sham
from train.audit.trust import GOOD, SMALLEST_PX, shows_brain, verdict
from train.data import Pictures

FLIPS, SHAM_FLIPS, HEALED_AUC = Goal(0.8, at_most=False), Goal(0.05, at_most=True), Goal(0.6, at_most=True)
TRIED = 12  # donors, before a recipient is left out
SHOWN = 8

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
    subject: Subject, slices: Pictures, anatomies: Sequence[Anatomy], most: int, seed: int, folder: Path
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
    healed, heal_plate = study.heal(folder)
    grafted, graft_plate = study.transplant(folder)
    counts = [("slices of bleeding patients", int(ich.sum()))]
    counts += [(f"of these left out: {said}", count) for said, count in verdicts.most_common() if said != GOOD]
    counts += [("trusted", verdicts[GOOD]), ("of these used", len(bleeding))]
    counts += [("normal slices that show brain, used", len(normal))]
    return Section(
        "counterfactuals",
        "Counterfactuals",
        "Bleeds taken out of slices (healed) and put into others (transplanted), each in two ways that training never "
        "uses. A sham does the same at a place without blood. A call flips when the probability crosses "
        f"{subject.cut:.2f}; only slices called right before can flip.",
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
        both = np.concatenate((self.bleeding, self.normal))
        truth = np.arange(len(both)) < len(self.bleeding)
        patients, cut = self.slices.patient, self.subject.cut
        return [
            Row(
                "untouched.slice_auc",
                "Untouched, bleeding against normal: AUC",
                self._area(self.before[both], truth, both),
            ),
            Row(
                "untouched.found",
                "Bleeds called hemorrhage",
                mean(self.before[self.bleeding] >= cut, patients[self.bleeding], self.seed),
            ),
            Row(
                "untouched.false_alarms",
                "Normals called hemorrhage",
                mean(self.before[self.normal] >= cut, patients[self.normal], self.seed),
            ),
        ]

    def heal(self, folder: Path) -> tuple[list[Row], Plate]:
        rows: list[Row] = []
        columns = {
            "bleed as segmented": [
                self._shown(i, self._at(i).blood) for i in self.bleeding[:: self._step(self.bleeding)]
            ]
        }
        for number, (name, healer) in enumerate(HEALERS.items()):
            rng = np.random.default_rng([self.seed, 60, number])
            healed = _Changed.of_found([(i, healer(self._at(i), self._at(i).blood, rng)) for i in self.bleeding])
            places = {i: self._elsewhere(self._at(i), rng) for i in self.bleeding}
            shams = _Changed.of_found(
                [(i, None if place is None else healer(self._at(i), place, rng)) for i, place in places.items()]
            )
            after, after_sham = self.subject.presence(healed.pictures), self.subject.presence(shams.pictures)
            still = np.array([look(picture).blood.sum() >= SMALLEST_PX for picture in healed.pictures], bool)
            both = np.concatenate((healed.of, self.normal))
            scores, truth = np.concatenate((after, self.before[self.normal])), np.arange(len(both)) < len(healed.of)
            rows += [
                Row(
                    f"healed.{name}.flipped",
                    f"Healed ({name}): flipped to no hemorrhage",
                    self._flips(healed.of, after, down=True),
                    FLIPS,
                ),
                Row(
                    f"healed.{name}.sham_flipped",
                    f"Sham healing ({name}): flipped to no hemorrhage",
                    self._flips(shams.of, after_sham, down=True),
                    SHAM_FLIPS,
                ),
                Row(
                    f"healed.{name}.vs_normal_auc",
                    f"Healed ({name}) against untouched normals: AUC",
                    self._area(scores, truth, both),
                    HEALED_AUC,
                ),
                Row(
                    f"healed.{name}.change",
                    f"Healed ({name}): mean change of the probability",
                    self._change(healed.of, after),
                ),
                Row(
                    f"healed.{name}.sham_change",
                    f"Sham healing ({name}): mean change of the probability",
                    self._change(shams.of, after_sham),
                ),
                Row(
                    f"healed.{name}.still_segmented",
                    f"Healed ({name}): a bleed is segmented still",
                    mean(still, self.slices.patient[healed.of], self.seed),
                ),
            ]
            columns[f"healed: {name}"] = self._column(healed, after, self.bleeding)
            columns[f"sham: {name}"] = self._column(shams, after_sham, self.bleeding)
        plate = sheets.write(folder / "healed.png", columns)
        return rows, Plate(
            plate, "Bleeds outlined as segmented; healed; and the same treatment elsewhere in the slice."
        )

    def transplant(self, folder: Path) -> tuple[list[Row], Plate]:
        rng = np.random.default_rng([self.seed, 70])
        grafts = {i: self._graft(i, rng) for i in self.normal}
        rows: list[Row] = []
        columns = {"recipient": [self._shown(i) for i in self.normal[:: self._step(self.normal)]]}
        for number, (name, blender) in enumerate(BLENDERS.items()):
            rng = np.random.default_rng([self.seed, 71, number])
            done, shams = (
                _Changed.of_found(
                    [
                        (i, None if pair is None else blender(pair[which], self._at(i), rng))
                        for i, pair in grafts.items()
                    ]
                )
                for which in (0, 1)
            )
            after, after_sham = self.subject.presence(done.pictures), self.subject.presence(shams.pictures)
            rows += [
                Row(
                    f"transplanted.{name}.flipped",
                    f"Transplanted ({name}): flipped to hemorrhage",
                    self._flips(done.of, after, down=False),
                    FLIPS,
                ),
                Row(
                    f"transplanted.{name}.sham_flipped",
                    f"Sham transplant ({name}): flipped to hemorrhage",
                    self._flips(shams.of, after_sham, down=False),
                    SHAM_FLIPS,
                ),
                Row(
                    f"transplanted.{name}.change",
                    f"Transplanted ({name}): mean change of the probability",
                    self._change(done.of, after),
                ),
                Row(
                    f"transplanted.{name}.sham_change",
                    f"Sham transplant ({name}): mean change of the probability",
                    self._change(shams.of, after_sham),
                ),
            ]
            columns[f"transplanted: {name}"] = self._column(done, after, self.normal)
            columns[f"sham: {name}"] = self._column(shams, after_sham, self.normal)
        plate = sheets.write(folder / "transplanted.png", columns)
        return rows, Plate(plate, "Normal slices; with a bleed of another patient; with tissue of that patient.")

    def _graft(self, recipient: int, rng: np.random.Generator) -> tuple[Graft, Graft] | None:
        """A bleed that the model called in its own place, and plain tissue for the same spot."""
        called = self.bleeding[self.before[self.bleeding] >= self.subject.cut]
        share = self._brain_share(recipient)
        donors = rng.permutation(called)[:TRIED]
        for donor in sorted(donors, key=lambda i: abs(self._brain_share(i) - share)):  # of about the same level
            given = graft(self._at(donor), self._at(donor).blood, self._at(recipient))
            if given is not None:
                other = sham(self._at(donor), self._at(donor).blood, self._at(recipient), given.mask, rng)
                if other is not None:
                    return given, other
        return None

    def _brain_share(self, index: int) -> float:
        anatomy = self._at(index)
        return float(anatomy.inside.sum() / max(1, (anatomy.picture > 0).sum()))

    def _elsewhere(self, anatomy: Anatomy, rng: np.random.Generator) -> Mask | None:
        return elsewhere(anatomy.blood, anatomy.brain & ~dilated(anatomy.blood, 2 * RIM), rng)

    def _flips(self, of: Indices, after: Floats, *, down: bool) -> Figure:
        called = self.before[of] >= self.subject.cut
        right = called if down else ~called
        now = after >= self.subject.cut
        return mean((now != called)[right], self.slices.patient[of][right], self.seed)

    def _change(self, of: Indices, after: Floats) -> Figure:
        return mean(after - self.before[of], self.slices.patient[of], self.seed)

    def _area(self, scores: Floats, truth: NDArray[np.bool_], of: Indices) -> Figure:
        return area(scores, truth, self.slices.patient[of], self.seed)

    def _at(self, index: int) -> Anatomy:
        return self.anatomies[index]

    @staticmethod
    def _step(chosen: Indices) -> int:
        return max(1, -(-len(chosen) // SHOWN))

    def _shown(self, index: int, mask: Mask | None = None) -> tuple[Picture, str]:
        picture, text = self.slices.pictures[index], f"p {self.before[index]:.2f}"
        window = sheets.cut_out(picture)
        return (picture if mask is None else sheets.outlined(picture, mask))[window], text

    def _column(self, changed: _Changed, after: Floats, chosen: Indices) -> list[tuple[Picture, str]]:
        """The same slices in every column; an empty tile for one that could not be changed."""
        place = {int(index): number for number, index in enumerate(changed.of)}
        tiles = []
        for index in chosen[:: self._step(chosen)]:
            window = sheets.cut_out(self.slices.pictures[index])
            number = place.get(int(index))
            picture = np.zeros((8, 8), np.uint8) if number is None else changed.pictures[number][window]
            tiles.append((picture, "no room" if number is None else f"p {after[number]:.2f}"))
        return tiles
