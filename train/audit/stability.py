"""How much the output moves when a slice is changed in ways that change no diagnosis.

Each kind at three strengths; the direction (and the noise itself) is drawn for each slice. Outside the head stays 0, as
brace removal leaves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from dtvit.preprocess import SIDE
from train.audit import sheets
from train.audit.figures import Figure, Plate, Row, Section, Tell, area, mean
from train.audit.material import FRAME, some
from train.audit.subject import Subject
from train.audit.tissue import GREY_PER_HU, Picture, finished
from train.dataset.pictures import Pictures

MARGIN = (FRAME - SIDE) // 2

Change = Callable[[Picture, float, np.random.Generator], Picture]


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _warped(picture: Picture, scale: float, degrees: float, shift: tuple[float, float]) -> Picture:
    matrix = cv2.getRotationMatrix2D(((FRAME - 1) / 2, (FRAME - 1) / 2), degrees, scale)
    matrix[:, 2] += shift
    return np.asarray(cv2.warpAffine(picture, matrix, (FRAME, FRAME), flags=cv2.INTER_LINEAR), np.uint8)


def _scale(picture: Picture, share: float, rng: np.random.Generator) -> Picture:
    """Smaller if the larger head would not fit the middle 224 pixels, which are all that a model sees."""
    larger = _warped(picture, 1 + share, 0.0, (0.0, 0.0))
    edge = np.ones(picture.shape, bool)
    edge[MARGIN:-MARGIN, MARGIN:-MARGIN] = False
    fits = not larger[edge].any()
    return larger if _sign(rng) > 0 and fits else _warped(picture, 1 / (1 + share), 0.0, (0.0, 0.0))


def _rotation(picture: Picture, degrees: float, rng: np.random.Generator) -> Picture:
    return _warped(picture, 1.0, degrees * _sign(rng), (0.0, 0.0))


def _shift(picture: Picture, share: float, rng: np.random.Generator) -> Picture:
    """By whole pixels, which blurs nothing, and only so far that the head stays in the middle 224."""
    angle, length = rng.uniform(0, 2 * math.pi), share * FRAME
    across, down = (_within(picture, axis, length * f) for axis, f in ((0, math.cos(angle)), (1, math.sin(angle))))
    return _warped(picture, 1.0, 0.0, (across, down))


def _within(picture: Picture, axis: int, wanted: float) -> float:
    used = np.flatnonzero(picture.any(axis))
    if not len(used):
        return 0.0
    return float(np.clip(round(wanted), min(0, MARGIN - used[0]), max(0, FRAME - 1 - MARGIN - used[-1])))


def _flip(picture: Picture, which: float, _rng: np.random.Generator) -> Picture:
    return {1: picture[:, ::-1], 2: picture[::-1], 3: picture[::-1, ::-1]}[int(which)]


def _noise(picture: Picture, hu: float, rng: np.random.Generator) -> Picture:
    noisy = picture + rng.standard_normal(picture.shape) * hu * GREY_PER_HU
    return finished(np.where(picture > 0, noisy, 0))


def _blur(picture: Picture, sigma: float, _rng: np.random.Generator) -> Picture:
    return finished(np.where(picture > 0, cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma), 0))


def _resampling(picture: Picture, share: float, _rng: np.random.Generator) -> Picture:
    small = cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    return np.where(picture > 0, cv2.resize(small, picture.shape[::-1], interpolation=cv2.INTER_LINEAR), np.uint8(0))


def _window(picture: Picture, hu: float, rng: np.random.Generator) -> Picture:
    """Level moved by `hu`, width changed by the same number of percent."""
    gain = 1 + _sign(rng) * hu / 100
    return finished(np.where(picture > 0, picture * gain + _sign(rng) * hu * GREY_PER_HU, 0))


def _jpeg(picture: Picture, quality: float, _rng: np.random.Generator) -> Picture:
    _, coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE), np.uint8)
    return np.where(picture > 0, decoded, np.uint8(0))


CHANGES: dict[str, tuple[str, Change, tuple[float, float, float], tuple[str, str, str]]] = {
    "scale": ("Larger or smaller", _scale, (0.05, 0.1, 0.2), ("5 %", "10 %", "20 %")),
    "shift": ("Moved", _shift, (0.02, 0.05, 0.08), ("5 px", "13 px", "20 px")),
    "rotation": ("Turned", _rotation, (5, 10, 20), ("5°", "10°", "20°")),
    "flip": ("Mirrored", _flip, (1, 2, 3), ("left-right", "upside down", "both")),
    "noise": ("Noise added", _noise, (2, 4, 8), ("2 HU", "4 HU", "8 HU")),
    "blur": ("Blurred", _blur, (0.5, 1.0, 1.5), ("0.5 px", "1 px", "1.5 px")),
    "resampling": ("Fewer pixels and back", _resampling, (0.75, 0.5, 0.35), ("75 %", "50 %", "35 %")),
    "window": ("Window moved and stretched", _window, (2, 4, 8), ("2 HU, 2 %", "4 HU, 4 %", "8 HU, 8 %")),
    "jpeg": ("JPEG", _jpeg, (90, 60, 30), ("quality 90", "quality 60", "quality 30")),
}


def run(subject: Subject, slices: Pictures, seed: int, folder: Path, tell: Tell) -> Section:
    ich, patient = slices.presence == 1, slices.patient
    before = subject.presence(slices.pictures)
    rows = [Row("untouched.slice_auc", "Untouched: AUC", area(before, ich, patient, seed))]
    shown = some(ich, patient, 1, np.random.default_rng([seed, 31]))
    shown = np.concatenate((shown, some(~ich, patient, 1, np.random.default_rng([seed, 32]))))
    columns = {"untouched": [(slices.pictures[i], f"p {before[i]:.2f}") for i in shown]}
    curves: dict[str, list[tuple[str, Figure]]] = {}
    for number, (name, (what, change, strengths, words)) in enumerate(CHANGES.items()):
        for step, (strength, word) in enumerate(zip(strengths, words, strict=True)):
            tell("stability", 3 * number + step, 3 * len(CHANGES))
            rng = np.random.default_rng([seed, 40, number, step])
            changed = np.stack([change(picture, strength, rng) for picture in slices.pictures])
            after = subject.presence(changed)
            moved = mean(np.abs(after - before), patient, seed)
            flipped = mean((after >= subject.cut) != (before >= subject.cut), patient, seed)
            key, said = f"{name}.{step + 1}", f"{what}, {word}"
            rows += [
                Row(f"{key}.change", f"{said}: mean change of the probability", moved),
                Row(f"{key}.flipped", f"{said}: calls flipped", flipped),
                Row(f"{key}.slice_auc", f"{said}: AUC", area(after, ich, patient, seed)),
            ]
            curves.setdefault(what, []).append((word, flipped))
        columns[f"{what}, {words[-1]}"] = [(changed[i], f"p {after[i]:.2f}") for i in shown]
    return Section(
        "stability",
        "Stability",
        "The same slices changed in ways that change no diagnosis, each at three strengths. A call is flipped when "
        f"the probability crosses {subject.cut:.2f}.",
        tuple(rows),
        (
            Plate(
                sheets.bars(folder / "stability-flips.png", curves, "share of calls flipped"),
                "Share of calls flipped, with 95 % intervals.",
            ),
            Plate(sheets.write(folder / "stability.png", columns), "Two slices, each change at its strongest."),
        ),
        (("slices", len(slices)),),
    )
