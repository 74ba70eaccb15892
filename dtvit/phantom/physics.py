"""What the scanner adds: resolution of the kernel, beam hardening between thick bones, noise with the kernel's texture.

Noise power of filtered back projection rises with frequency and falls where the kernel rolls off (Kak and Slaney,
Principles of computerized tomographic imaging, chapter 5); measured on a 4 mm standard-kernel head: sd 3..6 HU,
neighbouring 0.5 mm pixels correlated by 0.5.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import scipy.fft

from dtvit.phantom.fields import Array
from dtvit.phantom.spec import Scan


def cutoff_per_mm(kernel: float) -> float:
    """Frequency where the kernel has rolled off, cycles per mm: 0.28 (smooth) to 0.85 (sharp)."""
    return float(0.28 * (0.85 / 0.28) ** kernel)


@functools.lru_cache(maxsize=8)
def _noise_filter(matrix: int, pixel_mm: float, kernel: float) -> Array:
    """(matrix, matrix // 2 + 1) amplitude that gives unit variance."""
    f = np.hypot(scipy.fft.fftfreq(matrix, pixel_mm)[:, None], scipy.fft.rfftfreq(matrix, pixel_mm)[None, :])
    amplitude = np.sqrt(f + 0.015) * np.exp(-((f / cutoff_per_mm(kernel)) ** 2))
    power = amplitude**2
    total = 2 * power.sum() - power[:, 0].sum() - (power[:, -1].sum() if matrix % 2 == 0 else 0.0)
    return np.asarray(amplitude * matrix / np.sqrt(total), np.float32)


def noise(scan: Scan, rng: np.random.Generator) -> Array:
    """(matrix, matrix) noise of unit variance with the kernel's texture."""
    white = rng.standard_normal((scan.matrix, scan.matrix), dtype=np.float32)
    spectrum = scipy.fft.rfft2(white) * _noise_filter(scan.matrix, round(scan.pixel_mm, 5), round(scan.kernel, 4))
    return np.asarray(scipy.fft.irfft2(spectrum, s=white.shape, overwrite_x=True), np.float32)


def beam_hardening(hu: Array, mm: float, strength_hu: float, rng: np.random.Generator) -> tuple[Array, float]:
    """Change in HU and the slice's mean bone length, for `hu` on a grid of `mm`.

    Rows that cross much bone on both sides (the petrous pyramids) come out dark between the two, with streaks.
    """
    bone = np.clip((hu - 250.0) / 700.0, 0.0, 1.6)
    left = np.cumsum(bone, axis=1) * np.float32(mm)
    right = left[:, -1:] - left
    between = np.clip(np.minimum(left, right) - 11.0, 0.0, 28.0) / 28.0
    between = cv2.GaussianBlur(between, (0, 0), sigmaX=4.0 / mm, sigmaY=1.5 / mm)
    lines = cv2.GaussianBlur(
        rng.standard_normal((hu.shape[0], 1)).astype(np.float32), (1, 0), sigmaX=0.01, sigmaY=1.1 / mm
    )
    lines = lines / max(float(lines.std()), 1e-3)
    near = cv2.GaussianBlur(bone, (0, 0), 5.0 / mm)
    change = between * (-strength_hu + 0.45 * strength_hu * lines) + 3.0 * near
    return np.asarray(change, np.float32), float(left[:, -1].max())


def resolve(hu: Array, scan: Scan, mm: float) -> Array:
    """(matrix, matrix) from a finer-painted field of view, as sharp as the kernel lets it be."""
    sigma = 0.20 / cutoff_per_mm(scan.kernel) / mm
    blurred = cv2.GaussianBlur(hu, (0, 0), max(sigma, 0.3))
    if scan.kernel > 0.6:  # sharp kernels overshoot at edges
        blurred += np.float32((scan.kernel - 0.6) * 1.2) * (blurred - cv2.GaussianBlur(blurred, (0, 0), 0.9 / mm))
    down = scan.pixel_mm > 1.3 * mm
    how = cv2.INTER_AREA if down else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(blurred, (scan.matrix, scan.matrix), interpolation=how), np.float32)
