"""A data set with a trap, and made-up models that fall into it or not: who bleeds has a smaller head and more noise.

Heads are drawn, not rendered, so that a hundred cost nothing.
"""

import csv
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from untrained import metadata

from dtvit.checkpoint import Checkpoint
from dtvit.findings import Thresholds
from dtvit.inference import Predictions
from dtvit.preprocess import preprocessing
from dtvit.vit.relevance import NoAttention

ROWS, COLUMNS = np.mgrid[:256, :256]


def quiet(*_):
    """What an audit tells of its progress."""


def block(top, left, height, width):
    """(256, 256): a mask that is true here."""
    mask = np.zeros((256, 256), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def ellipse(row, column, height, width):
    return np.hypot((ROWS - row) / height, (COLUMNS - column) / width) < 1


def drawn_slice(rng, *, small, noisy, bleeding):
    """(256, 256): a skull, brain of 33 HU, two ventricles, and a bleed of 66 HU on one side. The bleed's mask."""
    size = 0.8 if small else 1.0
    head, brain = (ellipse(128, 128, h * size, w * size) for h, w in ((88, 72), (82, 66)))
    hu = np.where(brain, 33.0, 0.0)
    hu[brain & (ellipse(120, 121, 16 * size, 4) | ellipse(120, 135, 16 * size, 4))] = 8
    blood = np.zeros(head.shape, bool)
    if bleeding:
        side = rng.choice((-1, 1))
        blood = ellipse(128 + rng.integers(-14, 15), 128 + side * 33 * size, rng.uniform(8, 12), rng.uniform(7, 10))
        hu[blood] = 66
    hu = cv2.GaussianBlur(hu, (0, 0), 0.8) + cv2.GaussianBlur(rng.normal(0, 1, hu.shape), (0, 0), 0.7) * (
        10 if noisy else 5
    )
    grey = np.where(brain, hu * 255 / 80, 255.0)
    return np.where(head, np.clip(grey, 1, 255), 0).astype(np.uint8), blood & brain


def write_manifest(folder: Path, patients=12, slices=3, seed=0, *, ill=True, only=None, **columns):
    """Half of the patients bleed, or (`ill`) none; in all slices, or in the one of number `only`. `columns`: more
    cells of each row."""
    rng = np.random.default_rng(seed)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient_id", "ich", "slice", *columns])
        for patient in range(patients):
            bleeds = ill and patient % 2 == 1
            for number in range(slices):
                name = f"{patient:02d}-{number}.png"
                shown = bleeds and only in (None, number)
                picture, _ = drawn_slice(rng, small=bleeds, noisy=bleeds, bleeding=shown)
                Image.fromarray(picture).save(folder / name)
                writer.writerow([name, f"P{patient:02d}", int(shown), number, *columns.values()])
    return folder / "manifest.csv"


class MadeUp:
    """A model that is one rule: `evidence` of a picture (224, 224), hemorrhage from `level` on."""

    level, width = 0.0, 1.0

    def __init__(self):
        made = metadata(
            name=type(self).__name__,
            slice_thresholds=Thresholds(0.3, 0.6),
            preprocessing=(preprocessing("robust"),),
        )
        self.checkpoint = Checkpoint(Path("made-up.safetensors"), "f" * 64, made, {})

    def evidence(self, picture):
        raise NotImplementedError

    def predict(self, inputs):
        evidence = np.array([self.evidence(picture.astype(np.float32)) for picture in inputs], float)
        presence = 1 / (1 + np.exp(-(evidence - self.level) / self.width))
        return Predictions(presence, np.tile([0.7, 0.2, 0.1], (len(inputs), 1)))

    def relevance(self, inputs):
        raise NoAttention("a rule has no attention")


def dense_places(picture):
    """What is as bright as blood and lies away from bone."""
    bone = cv2.morphologyEx((picture > 248).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    far = cv2.dilate(bone, np.ones((9, 9), np.uint8)) == 0
    smooth = cv2.GaussianBlur(picture, (0, 0), 1.5)
    return far & (smooth > 160)


class SeesBlood(MadeUp):
    level, width = 40.0, 8.0

    def evidence(self, picture):
        return dense_places(picture).sum()

    def relevance(self, inputs):
        return np.array([dense_places(picture.astype(np.float32)) for picture in inputs], np.float32)


class SeesSilhouette(MadeUp):
    """The smaller the head, the more it bleeds."""

    level, width = -16_000.0, 500.0

    def evidence(self, picture):
        return -float((picture > 0).sum())


class SeesNoise(MadeUp):
    level, width = 8.0, 0.7

    def evidence(self, picture):
        middle = picture[54:82, 92:132]  # brain above the ventricles, where no bleed is drawn
        return round(1.48 * float(np.median(np.abs(middle - cv2.GaussianBlur(middle, (0, 0), 2.5)))), 3)
